"""The node program's pure parts: which keys are models, what to fetch and remove, what the manifest and status hold."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyeks.paths import REPO_ROOT
from tests.support.model_keys import MODEL_KEYS, KeyCase


def remote(sync: ModuleType, key: str, etag: str = "e", size: int = 1, modified: int = 100) -> Any:
    return sync.RemoteObject(key, etag, size, modified)


def selected(sync: ModuleType, *keys: str) -> Any:
    return sync.select([(remote(sync, key), "STANDARD") for key in keys])


def settled(sync: ModuleType, *keys: str) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """(wanted, scan, manifest) of a disk that equals a bucket with these keys."""
    wanted = {key: remote(sync, key) for key in keys}
    states = {key: sync.FileState(1, number, number) for number, key in enumerate(keys)}
    folders = {folder for key in keys for folder in sync.parents(key)}
    return wanted, sync.Scan(states, folders, set()), {key: sync.Entry(wanted[key], states[key]) for key in keys}


# --- keys


@pytest.mark.parametrize("case", MODEL_KEYS, ids=lambda case: ascii(case.key))
def test_the_node_takes_exactly_the_keys_of_the_shared_table(sync: ModuleType, case: KeyCase) -> None:
    assert (sync.key_problem(case.key) is None) == case.is_model, case.why


def test_a_name_that_no_file_system_takes_is_skipped_and_named(sync: ModuleType) -> None:
    assert sync.key_problem("loras/" + "字" * 85) is None
    assert sync.key_problem("loras/" + "字" * 86) == "path segment longer than 255 bytes"


@given(st.text(max_size=60).map(lambda text: text.replace("\x7e", "..")))
def test_a_key_that_passes_stays_below_the_models_folder(sync: ModuleType, key: str) -> None:
    if sync.key_problem(key) is None:
        assert os.path.normpath(f"/models/{key}") == f"/models/{key}"


def test_a_key_that_needs_a_folder_where_a_file_is_is_skipped_and_named(sync: ModuleType) -> None:
    selection = selected(sync, "loras/a/b/c", "loras/a", "loras/a/b", "loras/ab")
    assert sorted(selection.wanted) == ["loras/a", "loras/ab"]
    assert selection.skipped == [
        ("loras/a/b", "needs a folder where loras/a is a file"),
        ("loras/a/b/c", "needs a folder where loras/a is a file"),
    ]


def test_a_key_that_is_no_model_stands_in_nobodys_way(sync: ModuleType) -> None:
    assert list(selected(sync, "loras", "loras/a", "loras/").wanted) == ["loras/a"]


def test_an_archived_object_is_skipped_and_named(sync: ModuleType) -> None:
    selection = sync.select([(remote(sync, "loras/a"), "DEEP_ARCHIVE"), (remote(sync, "loras/b"), "STANDARD_IA")])
    assert list(selection.wanted) == ["loras/b"]
    assert selection.skipped == [("loras/a", "archived (DEEP_ARCHIVE); copy it to another storage class")]


def test_folder_markers_come_last_among_the_skipped(sync: ModuleType) -> None:
    assert [key for key, _ in selected(sync, "a/", "b/", "c/../d").skipped] == ["c/../d", "a/", "b/"]


# --- plan


def test_nothing_changed_means_nothing_to_do(sync: ModuleType) -> None:
    plan = sync.make_plan(*settled(sync, "loras/a", "vae/x/b"))
    assert plan == sync.Plan(kept={"loras/a", "vae/x/b"}, remove_files=[], remove_folders=[], fetch=[])


@pytest.mark.parametrize("field", ["etag", "size", "modified"])
def test_an_object_that_differs_in_one_field_is_fetched(sync: ModuleType, field: str) -> None:
    wanted, scan, manifest = settled(sync, "loras/a", "loras/b")
    changed = {"etag": "other", "size": 2, "modified": 101}[field]
    wanted["loras/a"] = remote(sync, "loras/a", **{field: changed})
    plan = sync.make_plan(wanted, scan, manifest)
    assert (plan.fetch, plan.kept, plan.remove_files) == ([wanted["loras/a"]], {"loras/b"}, [])


@pytest.mark.parametrize("state", [(0, 0, 0), (1, 9, 0), (1, 0, 9)], ids=["size", "mtime", "inode"])
def test_a_file_that_somebody_touched_is_fetched_again(sync: ModuleType, state: tuple[int, int, int]) -> None:
    wanted, scan, manifest = settled(sync, "loras/a")
    scan.files["loras/a"] = sync.FileState(*state)
    assert sync.make_plan(wanted, scan, manifest).fetch == [wanted["loras/a"]]


def test_a_file_of_unknown_origin_is_fetched_even_if_its_size_fits(sync: ModuleType) -> None:
    wanted, scan, _ = settled(sync, "loras/a")
    assert sync.make_plan(wanted, scan, {}).fetch == [wanted["loras/a"]]


def test_what_the_bucket_does_not_have_is_removed_innermost_first(sync: ModuleType) -> None:
    _, scan, manifest = settled(sync, "loras/a/b/c", "vae/x")
    scan.others.add("loras/socket")
    plan = sync.make_plan({"vae/x": remote(sync, "vae/x")}, scan, manifest)
    assert plan.remove_files == ["loras/a/b/c", "loras/socket"]
    assert plan.remove_folders == ["loras/a/b", "loras/a", "loras"]


def test_a_file_becomes_a_folder_and_back(sync: ModuleType) -> None:
    _, scan, manifest = settled(sync, "loras/a")
    plan = sync.make_plan({"loras/a/b": remote(sync, "loras/a/b")}, scan, manifest)
    assert (plan.remove_files, plan.remove_folders) == (["loras/a"], [])
    _, scan, manifest = settled(sync, "loras/a/b")
    plan = sync.make_plan({"loras/a": remote(sync, "loras/a")}, scan, manifest)
    assert (plan.remove_files, plan.remove_folders) == (["loras/a/b"], ["loras/a"])


keys = st.lists(st.lists(st.sampled_from("abc"), min_size=2, max_size=4).map("/".join), max_size=12, unique=True)


@given(keys, keys)
def test_a_plan_leads_from_any_disk_to_any_bucket(sync: ModuleType, on_disk: list[str], in_bucket: list[str]) -> None:
    disk = list(selected(sync, *on_disk).wanted)
    wanted = selected(sync, *in_bucket).wanted
    _, scan, manifest = settled(sync, *disk)
    plan = sync.make_plan(wanted, scan, manifest)
    files = (set(scan.files) - set(plan.remove_files)) | {item.key for item in plan.fetch}
    folders = scan.folders - set(plan.remove_folders)
    assert files == set(wanted)
    assert not files & folders
    assert plan.kept == set(disk) & set(wanted)


@pytest.mark.parametrize(("files", "size", "handed_out"), [(3, 1 << 40, 3), (1_000, 11, 5), (1_000, 1 << 40, 8)])
def test_a_newer_request_ends_a_run_that_has_fetched_enough(
    sync: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: int, size: int, handed_out: int
) -> None:
    monkeypatch.setattr(sync, "BATCH_FILES", files)
    monkeypatch.setattr(sync, "BATCH_BYTES", size)
    items = [remote(sync, f"l/{number}", size=size) for number, size in enumerate([1, 1, 1, 1, 9, 9, 50, 1])]
    request = tmp_path / "requested"
    feed = sync.Feed(items, request)
    assert (list(feed.upto(2)), feed.interrupted) == (items[:2], False)
    request.touch()
    assert list(feed.upto(len(items))) == items[2:handed_out]
    assert feed.interrupted is (handed_out < len(items))
    assert list(feed.upto(len(items))) == []


def test_without_a_newer_request_everything_is_fetched_in_order(
    sync: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sync, "BATCH_FILES", 1)
    items = [remote(sync, f"l/{number}") for number in range(4)]
    feed = sync.Feed(items, tmp_path / "requested")
    assert [list(feed.upto(1)), list(feed.upto(1)), list(feed.upto(4))] == [items[:1], [], items[1:]]
    assert not feed.interrupted


# --- manifest


def entry(sync: ModuleType, key: str) -> Any:
    return sync.Entry(remote(sync, key, etag=f"etag of {key}"), sync.FileState(1, 2, 3))


def test_a_manifest_remembers_what_was_recorded(sync: ModuleType, tmp_path: Path) -> None:
    manifest = sync.Manifest(tmp_path / "m", "bucket")
    manifest.keep_only(set())
    for key in ("loras/中文", 'loras/"quoted"', "loras/again"):
        manifest.record(entry(sync, key))
    manifest.close()
    assert sync.Manifest(tmp_path / "m", "bucket").entries == manifest.entries
    assert len(manifest.entries) == 3


def test_a_line_cut_by_a_kill_costs_one_file_and_is_mended(sync: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "m"
    manifest = sync.Manifest(file, "bucket")
    manifest.keep_only(set())
    manifest.record(entry(sync, "loras/a"))
    manifest.record(entry(sync, "loras/b"))
    manifest.close()
    file.write_bytes(file.read_bytes()[:-20])
    after = sync.Manifest(file, "bucket")
    assert list(after.entries) == ["loras/a"]
    after.keep_only({"loras/a"})
    after.record(entry(sync, "loras/c"))
    after.close()
    assert list(sync.Manifest(file, "bucket").entries) == ["loras/a", "loras/c"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]\n", b"nonsense", b'{"schema":99}\n{"key":"loras/a"}\n'])
def test_an_unreadable_manifest_counts_as_none(sync: ModuleType, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    manifest = sync.Manifest(tmp_path / "m", "bucket")
    assert manifest.entries == {}
    manifest.keep_only(set())
    manifest.record(entry(sync, "loras/a"))
    manifest.close()
    assert list(sync.Manifest(tmp_path / "m", "bucket").entries) == ["loras/a"]


def test_the_manifest_of_another_bucket_is_not_believed(sync: ModuleType, tmp_path: Path) -> None:
    manifest = sync.Manifest(tmp_path / "m", "bucket")
    manifest.keep_only(set())
    manifest.record(entry(sync, "loras/a"))
    manifest.close()
    assert sync.Manifest(tmp_path / "m", "other").entries == {}


# --- status


def test_the_status_stays_within_what_ssm_hands_over(sync: ModuleType) -> None:
    status = sync.Status(node="i-0123456789abcdef0", bucket="b" * 63, error="字" * 5000)
    status.skipped = [(f"loras/{'😀' * 300}/{number}", "原因" * 200) for number in range(1000)]
    text = status.as_json()
    assert len(text) < 2500
    content = json.loads(text)
    assert content["skipped_count"] == 1000
    assert content["error"]


def test_the_status_names_skipped_keys_with_their_reason(sync: ModuleType) -> None:
    status = sync.Status(node="i-1", bucket="b", skipped=[("loras/../x", "why")])
    assert json.loads(status.as_json())["skipped"] == [{"key": "loras/../x", "reason": "why"}]


def test_the_status_has_exactly_the_fields_of_the_contract(sync: ModuleType) -> None:
    assert set(json.loads(sync.Status(node="i-1", bucket="b").as_json())) == {
        "schema", "node", "state", "ready", "run_id", "requested_run_id", "started", "finished", "bucket", "files",
        "bytes", "missing_files", "missing_bytes", "downloaded", "deleted", "skipped", "skipped_count", "error",
        "first_ready", "first_missing_files", "first_missing_bytes", "unselected", "budget", "last_success",
        "left_out", "left_out_count", "left_out_bytes", "verified",
    }  # fmt: skip


# --- requests and settings


def test_requests_that_are_not_taken_yet_share_one_run(sync: ModuleType, tmp_path: Path) -> None:
    paths = sync.Paths(tmp_path)
    first = sync.request_run(paths)
    assert [sync.request_run(paths) for _ in range(5)] == [first] * 5
    assert sync.take_request(paths) == first
    assert sync.take_request(paths) is None
    second = sync.request_run(paths)
    assert second > first
    assert [file.name for file in paths.request.parent.iterdir()] == ["requested"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("AWS_REGION=us-west-2\n", "MODELS_BUCKET is missing"),
        ("MODELS_BUCKET=b\nAWS_REGION=\n", "AWS_REGION is missing"),
        ("MODELS_BUKCET=b\n", "line 1: 'MODELS_BUKCET=b'; allowed are MODELS_BUCKET=..., AWS_REGION=..., FIRST_SET="),
        ("BUDGET=many\n", "line 1: BUDGET=many: not a size, like 71GB; units are B, MB, GB"),
        ("IMAGE_RESERVE=-1GB\n", "IMAGE_RESERVE=-1GB: not a size"),
        ("FIRST_SET=vae/\n", "line 1: FIRST_SET=vae/: not a JSON list of keys and folders/"),
        (
            'PREFIXES=["vae"]\n',
            "'vae': not in a folder; a model is <folder>/<name>; an entry is a key, or a folder that",
        ),
        ('KEEP=["../"]\n', "'../': path segment starts with '.'"),
        ("just words\n", "line 1: 'just words'; allowed are"),
    ],
)
def test_wrong_settings_are_named_in_one_line(sync: ModuleType, tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "settings").write_text(text)
    with pytest.raises(sync.SettingsError, match=r"settings") as caught:
        sync.Settings.read(tmp_path / "settings")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_are_read_as_systemd_would(sync: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text('# comment\n\nMODELS_BUCKET="b"\nAWS_REGION=cn-north-1\n')
    assert sync.Settings.read(tmp_path / "settings") == sync.Settings("b", "cn-north-1")


def test_every_optional_setting_is_read(sync: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text(
        "MODELS_BUCKET=b\nAWS_REGION=r-1\nBUDGET=71.5GB\nIMAGE_RESERVE=1GiB\nSCRATCH_RESERVE=0\n"
        'FIRST_SET=["vae/a b, c.bin","loras/"]\nPRIORITY=["clip/"]\nPREFIXES=[]\nKEEP=["loras/\\u4e2d/"]\n'
    )
    settings = sync.Settings.read(tmp_path / "settings")
    assert (settings.budget, settings.image_reserve, settings.scratch_reserve) == (71_500_000_000, 2**30, 0)
    assert settings.first_set.entries == ("vae/a b, c.bin", "loras/")
    assert (settings.priority.entries, settings.prefixes.entries, settings.keep.entries) == (
        ("clip/",),
        (),
        ("loras/中/",),
    )


def test_the_chart_lets_through_exactly_the_programs_optional_settings(sync: ModuleType) -> None:
    schema = json.loads((REPO_ROOT / "charts/karpenter-gpu/values.schema.json").read_text())
    settings = schema["properties"]["modelSync"]["properties"]["settings"]
    of_a_class = schema["properties"]["nodeClassDefaults"]["properties"]["modelSync"]["properties"]["settings"]
    assert settings["additionalProperties"] is False
    assert of_a_class["additionalProperties"] is False
    assert settings["properties"].keys() == of_a_class["properties"].keys()
    names = {re.sub(r"(?=[A-Z])", "_", key).upper() for key in settings["properties"]}
    assert names == set(sync.Settings.OPTIONAL)


# --- order, selection, budget


def settings_with(sync: ModuleType, **names: list[str] | int) -> Any:
    parsed = {k: sync.Names(tuple(v)) if isinstance(v, list) else v for k, v in names.items()}
    return sync.Settings("b", "r", **parsed)


def test_an_entry_is_a_key_or_everything_below_a_folder(sync: ModuleType) -> None:
    names = sync.Names(("vae/", "loras/a"))
    assert [key for key in ("vae/x", "vae/x/y", "loras/a", "loras/ab", "loras/a/b", "vae2/x") if key in names] == [
        "vae/x", "vae/x/y", "loras/a",
    ]  # fmt: skip


def test_the_first_set_comes_before_the_priorities_and_those_before_the_rest(sync: ModuleType) -> None:
    settings = settings_with(sync, first_set=["unet/", "vae/b"], priority=["loras/"])
    keys = ["clip/a", "loras/z", "vae/b", "vae/a", "unet/b", "unet/a"]
    fitting, _ = sync.fit([remote(sync, key) for key in keys], settings, 100)
    assert [item.key for item in fitting] == ["unet/a", "unet/b", "vae/b", "loras/z", "clip/a", "vae/a"]


def test_a_pool_takes_only_its_prefixes_and_is_not_told_about_the_others(sync: ModuleType) -> None:
    listing = [(remote(sync, key), "STANDARD") for key in ("video/a", "image/b", "image/c", "x/", "image/d/../e")]
    selection = sync.select(listing, sync.Names(("video/",)))
    assert (list(selection.wanted), selection.unselected) == (["video/a"], 2)
    assert [key for key, _ in selection.skipped] == ["image/d/../e", "x/"]


def test_a_file_that_is_not_taken_stands_in_nobodys_way(sync: ModuleType) -> None:
    listing = [(remote(sync, key), "STANDARD") for key in ("video/a", "video/a/b")]
    assert list(sync.select(listing, sync.Names(("video/a/",))).wanted) == ["video/a/b"]


GB = 10**9


def test_the_budget_of_a_125_gb_disk_is_what_kubelet_images_and_outputs_leave(sync: ModuleType) -> None:
    budget = sync.Budget.of(settings_with(sync), 125 * GB, 0)
    assert vars(budget) == {
        "bytes": 66_250_000_000, "disk": 125 * GB, "kubelet": 18_750_000_000, "images": 30 * GB, "scratch": 10 * GB,
        "others": 0, "override": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "others", "room"),
    [
        ({}, 40 * GB, 66_250_000_000),  # the reserves are there to be used
        ({}, 41 * GB, 65_250_000_000),  # what is used beyond them counts
        ({}, 125 * GB, 0),
        ({"image_reserve": 10 * GB, "scratch_reserve": 0}, 0, 96_250_000_000),
        ({"budget": 100 * GB}, 20 * GB, 100 * GB),
        ({"budget": 100 * GB}, 30 * GB, 95 * GB),
    ],
)
def test_the_budget_follows_the_settings_and_what_else_is_on_the_disk(
    sync: ModuleType, options: dict[str, int], others: int, room: int
) -> None:
    assert sync.Budget.of(settings_with(sync, **options), 125 * GB, others).bytes == room


def test_what_does_not_fit_is_left_out_from_the_end_and_smaller_ones_still_come(sync: ModuleType) -> None:
    settings = settings_with(sync, first_set=["vae/"], priority=["unet/"])
    items = [remote(sync, "loras/a", size=6), remote(sync, "loras/b", size=2), remote(sync, "unet/x", size=5)]
    fitting, left_out = sync.fit([*items, remote(sync, "vae/v", size=3)], settings, 10)
    assert [item.key for item in fitting] == ["vae/v", "unet/x", "loras/b"]
    assert [item.key for item in left_out] == ["loras/a"]


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(0, 100))
def test_no_choice_of_sizes_exceeds_the_budget(sync: ModuleType, sizes: list[int], budget: int) -> None:
    items = [remote(sync, f"l/{number}", size=size) for number, size in enumerate(sizes)]
    fitting, left_out = sync.fit(items, settings_with(sync), budget)
    assert sum(item.size for item in fitting) <= budget
    assert {*fitting, *left_out} == set(items)


def test_files_that_stay_keep_their_folders_and_what_collides_with_them_is_skipped(sync: ModuleType) -> None:
    selection = selected(sync, "loras/mine/x", "loras/y", "vae/deep", "vae/z")
    on_disk = settled(sync, "loras/mine", "loras/old", "vae/deep/er", "clip/c")[1]
    on_disk.others.add("loras/link")
    sync.exclude_kept(selection, on_disk, sync.Names(("loras/mine", "loras/link", "vae/deep/")))
    plan = sync.make_plan(selection.wanted, on_disk, {})
    assert plan.remove_files == ["clip/c", "loras/old"]
    assert plan.remove_folders == ["clip"]
    assert sorted(item.key for item in plan.fetch) == ["loras/y", "vae/z"]
    assert selection.skipped == [(key, "a file that KEEP names is in the way") for key in ("loras/mine/x", "vae/deep")]


def test_a_key_of_the_bucket_is_never_a_file_that_stays(sync: ModuleType) -> None:
    selection = selected(sync, "loras/a")
    on_disk = settled(sync, "loras/a")[1]
    sync.exclude_kept(selection, on_disk, sync.Names(("loras/",)))
    assert [item.key for item in sync.make_plan(selection.wanted, on_disk, {}).fetch] == ["loras/a"]


@pytest.mark.parametrize("stamp", ["2026-11-20T10:00:00.000Z", "2026-11-20T10:00:00+00:00"])
def test_both_time_formats_of_the_aws_cli_are_the_same_moment(sync: ModuleType, stamp: str) -> None:
    assert sync.epoch(stamp) == 1_795_168_800


# --- the models folder


@pytest.fixture
def folder(sync: ModuleType, tmp_path: Path) -> Any:
    (tmp_path / "models").mkdir()
    folder = sync.ModelsFolder(tmp_path / "models")
    yield folder
    folder.close()


def test_no_step_follows_a_link_out_of_the_models_folder(sync: ModuleType, tmp_path: Path, folder: Any) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (folder.path / "loras").symlink_to(outside)
    source = tmp_path / "source"
    source.write_text("model")
    for step in (
        lambda: folder.install(source, "loras/new"),
        lambda: folder.remove_file("loras/precious"),
        lambda: folder.remove_folder("loras/precious"),
    ):
        with pytest.raises(NotADirectoryError):
            step()
    assert [file.name for file in outside.iterdir()] == ["precious"]
    scan = folder.scan()
    assert (scan.files, scan.folders, scan.others) == ({}, set(), {"loras"})


def test_the_programs_own_folder_is_no_part_of_the_scan(folder: Any) -> None:
    (folder.path / "loras/.comfyui-model-sync").mkdir(parents=True)
    (folder.path / "loras/.comfyui-model-sync/x").write_text("")
    (folder.state / "status.json").write_text("")
    scan = folder.scan()
    assert list(scan.files) == ["loras/.comfyui-model-sync/x"]
    assert scan.folders == {"loras", "loras/.comfyui-model-sync"}


def test_a_link_in_place_of_the_programs_own_folder_is_replaced(sync: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models/.comfyui-model-sync").symlink_to(tmp_path / "elsewhere")
    sync.ModelsFolder(tmp_path / "models").close()
    assert not (tmp_path / "models/.comfyui-model-sync").is_symlink()
    assert (tmp_path / "models/.comfyui-model-sync").is_dir()


def test_an_installed_file_replaces_by_rename(tmp_path: Path, folder: Any) -> None:
    for content in ("old", "new"):
        source = tmp_path / "source"
        source.write_text(content)
        opened = (folder.path / "loras/a").open() if content == "new" else None
        state = folder.install(source, "loras/a")
        assert state.size == 3
    assert opened is not None
    with opened:
        assert opened.read() == "old"  # a running job keeps its copy
    assert (folder.path / "loras/a").read_text() == "new"
