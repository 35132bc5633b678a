"""Order, budget and files that stay, with the program as a process; its disk is a folder or a small tmpfs."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest

from comfyeks.charts.render import render
from tests.node.s3_stub import Fault, S3Stub
from tests.node.support import ProgramNode, eventually, fill_up, tmpfs

pytestmark = pytest.mark.local

GB = 10**9
ROOM = 66_250_000_000  # what a 125 GB disk has for models


def sparse(folder: Path, size: int) -> Path:
    file = folder / f"sparse-{size}"
    file.touch()
    os.truncate(file, size)
    return file


def add_settings(node: ProgramNode, *lines: str) -> None:
    node.settings.write_text("\n".join(["MODELS_BUCKET=models", "AWS_REGION=us-west-2", *lines]) + "\n")


def on_disk(node: ProgramNode) -> set[str]:
    folder = node.models.resolve()
    return {str(file.relative_to(folder)) for file in folder.glob("[!.]*/**/*") if file.is_file()}


@pytest.mark.parametrize(("excess", "left_out"), [(0, []), (1, [{"key": "video/z", "bytes": 3_001}])])
def test_a_125_gb_disk_is_filled_to_the_byte_and_not_one_further(
    node: ProgramNode, s3: S3Stub, tmp_path: Path, excess: int, left_out: list[object]
) -> None:
    # A file of 66 GB that was fetched before: only its place in the manifest makes it known.
    big = ROOM - 5_000
    s3.put("checkpoints/big", sparse(tmp_path, big))
    node.env["COMFYUI_NODE_DISK_BYTES"] = str(125 * GB)
    node.models.symlink_to(node.root / "mnt/k8s-disks/0/comfyui-models")
    (node.models.resolve() / "checkpoints").mkdir(parents=True)
    (node.models.resolve() / ".comfyui-model-sync").mkdir()
    file = sparse(tmp_path, big).rename(node.models.resolve() / "checkpoints/big")
    stored = s3.objects["checkpoints/big"]
    stored.body = sparse(tmp_path, big)
    known = {
        "key": "checkpoints/big", "etag": stored.etag.strip('"'), "size": big,
        "modified": int(stored.modified.timestamp()), "mtime_ns": file.stat().st_mtime_ns, "inode": file.stat().st_ino,
    }  # fmt: skip
    manifest = [{"schema": 1, "bucket": "models"}, known]
    (file.parent.parent / ".comfyui-model-sync/manifest.jsonl").write_text(
        "".join(json.dumps(m) + "\n" for m in manifest)
    )
    s3.put("loras/a", b"a" * 2_000)
    s3.put("video/z", b"z" * (3_000 + excess))
    node.run()
    status = node.status()
    assert status["downloaded"] == 2 - len(left_out)
    assert status["left_out"] == left_out
    assert (status["left_out_count"], status["left_out_bytes"]) == (len(left_out), 3_001 * len(left_out))
    assert status["bytes"] == ROOM - 3_000 * len(left_out)
    assert status["budget"]["bytes"] == ROOM
    assert (status["state"], status["ready"]) == ("idle", True)
    assert on_disk(node) == {"checkpoints/big", "loras/a"} | (
        {"video/z"} - {item["key"] for item in status["left_out"]}
    )


def test_a_more_important_model_displaces_a_less_important_one(node: ProgramNode, s3: S3Stub) -> None:
    add_settings(node, "BUDGET=3000B", 'FIRST_SET=["vae/"]', 'PRIORITY=["unet/"]')
    s3.put("loras/a", b"a" * 1_500)
    s3.put("unet/b", b"b" * 1_500)
    node.run()
    assert on_disk(node) == {"loras/a", "unet/b"}
    s3.put("vae/c", b"c" * 1_500)
    node.run()
    assert on_disk(node) == {"vae/c", "unet/b"}
    assert node.status()["left_out"] == [{"key": "loras/a", "bytes": 1_500}]
    s3.delete("unet/b")
    node.run()
    assert on_disk(node) == {"vae/c", "loras/a"}
    assert node.status()["left_out_count"] == 0


def test_the_first_set_is_ready_while_the_rest_still_comes(node: ProgramNode, s3: S3Stub) -> None:
    add_settings(node, 'FIRST_SET=["vae/","unet/main"]')
    for key in ("checkpoints/a", "checkpoints/b", "unet/main", "unet/other", "vae/x"):
        s3.put(key, key.encode())
    s3.fault = lambda verb, key: Fault(delay=3) if verb == "get" and key[:4] not in ("vae/", "unet") else None
    process = node.start()
    eventually(lambda: (node.state / "status.json").exists() and node.status()["first_ready"])
    status = json.loads((node.state / "status.json").read_text())
    assert (status["ready"], status["first_missing_files"], status["first_missing_bytes"]) == (False, 0, 0)
    assert status["missing_files"] >= 2
    assert on_disk(node) >= {"vae/x", "unet/main"}
    assert not on_disk(node) & {"checkpoints/a", "checkpoints/b"}
    assert process.wait(30) == 0
    assert (node.status()["ready"], node.status()["first_ready"]) == (True, True)
    assert len(on_disk(node)) == 5


def test_a_new_file_of_the_first_set_makes_it_unready_until_it_is_there(node: ProgramNode, s3: S3Stub) -> None:
    add_settings(node, 'FIRST_SET=["vae/"]')
    s3.put("vae/a", b"a")
    node.run()
    s3.put("vae/b", b"b")
    s3.fault = lambda verb, key: Fault(delay=2) if verb == "get" else None
    process = node.start()
    eventually(lambda: node.status()["missing_files"] == 1)
    assert (node.status()["first_ready"], node.status()["first_missing_files"], node.status()["ready"]) == (
        False,
        1,
        True,
    )
    assert process.wait(30) == 0
    assert node.status()["first_ready"]


def test_a_pool_holds_only_its_prefixes_and_drops_what_it_no_longer_takes(node: ProgramNode, s3: S3Stub) -> None:
    s3.put("video/a", b"a")
    s3.put("image/b", b"b")
    node.run()
    add_settings(node, 'PREFIXES=["video/"]')
    node.run()
    assert on_disk(node) == {"video/a"}
    assert (node.status()["unselected"], node.status()["skipped_count"]) == (1, 0)


def settings_of(node_class: dict[str, Any]) -> str:
    """What a node of this class finds in its settings file: the shell's own reading of the user data's assignments."""
    parts = message_from_string(node_class["spec"]["userData"]).walk()
    [part] = [part for part in parts if part.get_content_type() == "text/x-shellscript"]
    assignments = bytes(part.get_payload(decode=True)).decode().partition("set -euo pipefail")[0]
    script = f"{assignments}\nprintf '%s\\n' \"$MODEL_SYNC_SETTINGS\""
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout


def test_a_pools_chart_values_decide_what_its_nodes_hold(node: ProgramNode, s3: S3Stub) -> None:
    for key in ("video/it's 字/a", "image/b", "vae/c"):
        s3.put(key, key.encode())
    file = {"key": "node/h/x", "sha256": "0" * 64}
    values: dict[str, Any] = {
        "cluster": {"name": "c"},
        "nodeRole": "r",
        "modelSync": {
            "bucket": "models", "region": "us-west-2", "artifactsBucket": "artifacts",
            "files": dict.fromkeys(("program", "service", "timer", "path"), file),
            "settings": {"keep": ["mine/"]},
        },
        "pools": {"default": {}, "video": {"instanceTypes": ["g6e.2xlarge"], "nodeClass": "video"}},
        "nodeClasses": {
            "default": {},
            "video": {"modelSync": {"settings": {"prefixes": ["video/it's 字/", "vae/c"]}}},
        },
    }  # fmt: skip
    classes = {
        found["metadata"]["name"]: found for found in render("karpenter-gpu", values=values).of_kind("EC2NodeClass")
    }
    held = {}
    for name, node_class in classes.items():
        node.settings.write_text(settings_of(node_class))
        node.run()
        held[name.rpartition("-")[2]] = on_disk(node)
    assert held == {"default": {"video/it's 字/a", "image/b", "vae/c"}, "video": {"video/it's 字/a", "vae/c"}}
    assert node.status()["unselected"] == 1


def test_a_keep_list_stays_and_is_no_part_of_the_budget(node: ProgramNode, s3: S3Stub) -> None:
    add_settings(node, 'KEEP=["loras/mine","cache/"]', "BUDGET=10B")
    s3.put("loras/a", b"0123456789")
    node.run()
    for name in ("loras/mine", "loras/other", "cache/deep/er"):
        (node.models / name).parent.mkdir(parents=True, exist_ok=True)
        (node.models / name).write_text("x" * 100)
    node.run()
    assert on_disk(node) == {"loras/a", "loras/mine", "cache/deep/er"}
    assert node.status()["left_out_count"] == 0


# --- a disk that is really full


@pytest.fixture
def small_disk(node: ProgramNode) -> Iterator[Path]:
    """20 MiB in place of the array; the program sees its true size."""
    folder = node.root / "mnt/k8s-disks/0"
    del node.env["COMFYUI_NODE_DISK_BYTES"]
    with tmpfs(folder, "20m"):
        yield folder


def test_a_disk_that_others_fill_makes_room_by_priority_and_recovers(
    node: ProgramNode, s3: S3Stub, small_disk: Path
) -> None:
    add_settings(node, "IMAGE_RESERVE=0", "SCRATCH_RESERVE=0", 'FIRST_SET=["vae/"]')
    bodies = {f"loras/{number}": random.Random(number).randbytes(3 << 20) for number in range(4)}
    for key, body in bodies.items():
        s3.put(key, body)
    node.run()
    assert node.files() == bodies
    # Pods fill what is left, to the last byte: not even a new manifest could be written.
    fill_up(small_disk / "outputs")
    s3.put("vae/important", b"v" * (2 << 20))
    node.run()
    status = node.status()
    assert status["state"] == "idle"
    assert status["left_out_count"] > 0
    assert all(item["key"].startswith("loras/") for item in status["left_out"])
    assert node.files()["vae/important"] == b"v" * (2 << 20)
    (small_disk / "outputs").unlink()
    node.run()
    assert node.files() == bodies | {"vae/important": b"v" * (2 << 20)}
    assert node.status()["left_out_count"] == 0


def test_a_replacement_for_which_both_versions_have_no_room_takes_the_place_of_the_old_one(
    node: ProgramNode, s3: S3Stub, small_disk: Path
) -> None:
    add_settings(node, "IMAGE_RESERVE=0", "SCRATCH_RESERVE=0")
    s3.put("vae/a", b"a" * (12 << 20))
    node.run()
    s3.put("vae/a", b"b" * (12 << 20))
    node.run()
    assert node.files() == {"vae/a": b"b" * (12 << 20)}


def test_a_disk_that_fills_up_during_the_transfer_is_a_failure_that_says_so(
    node: ProgramNode, s3: S3Stub, small_disk: Path
) -> None:
    add_settings(node, "BUDGET=1GB", "IMAGE_RESERVE=0")
    s3.put("vae/a", b"a" * (4 << 20))
    # The budget believes in what is free now; this fills it while the object is on its way.
    filler = iter([(small_disk / "outputs", 17 << 20)])

    def others(verb: str, key: str) -> Fault | None:
        if verb == "get" and (found := next(filler, None)):
            found[0].write_bytes(bytes(found[1]))
        return None

    s3.fault = others
    node.run()
    assert node.status()["left_out"] == [{"key": "vae/a", "bytes": 4 << 20}]
    assert node.files() == {}
