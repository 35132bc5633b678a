"""Verification: what an ETag tells about a file's content, and that a damaged file is replaced by the same run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node.s3_stub import S3Stub
from tests.node.support import ProgramNode

MIB = 1 << 20


def multipart_etag(body: bytes, part: int) -> str:
    parts = [hashlib.md5(body[start : start + part]).digest() for start in range(0, len(body), part)] or [
        hashlib.md5(b"").digest()
    ]
    return f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"


def etags_of(sync: ModuleType, body: bytes, etag: str) -> set[str]:
    found: set[str] = sync.digests(io.BytesIO(body), len(body), etag)[1]
    return found


@pytest.mark.parametrize(
    ("size", "part"),
    [
        *((size, mib * MIB) for size in (20 * MIB, 23_592_963, 40 * MIB + 1) for mib in (5, 8, 9, 11, 16)),
        (23_592_963, 7_864_321),  # equal parts
        (3, 5 * MIB),  # one part
    ],
)
def test_the_etag_of_a_multipart_upload_is_found_without_knowing_its_parts(
    sync: ModuleType, size: int, part: int
) -> None:
    body = random.Random(size).randbytes(size)
    etag = multipart_etag(body, part)
    assert etag in etags_of(sync, body, etag)
    damaged = body[:-1] + bytes([body[-1] ^ 1])
    assert etag not in etags_of(sync, damaged, etag)


@given(st.integers(1, 1 << 40), st.integers(1, 10_000))
@settings(max_examples=300)
def test_every_proposed_part_size_makes_that_many_parts(sync: ModuleType, size: int, parts: int) -> None:
    proposed = sync.part_sizes(size, parts)
    assert len(proposed) <= sync.PART_SIZES_TRIED
    assert all(-(-size // part) == parts for part in proposed)


def test_a_single_part_etag_is_the_md5_and_an_unknown_form_tells_nothing(sync: ModuleType) -> None:
    md5 = hashlib.md5(b"body").hexdigest()
    assert sync.digests(io.BytesIO(b"body"), 4, md5) == (md5, {md5})
    assert sync.digests(io.BytesIO(b"body"), 4, "no-md5-at-all") == (md5, set())


def damage(file: Path) -> None:
    """Other bytes of the same length, as a bad disk gives them: nothing that `stat` shows has changed."""
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"\xff\x00\xff")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def verify(node: ProgramNode) -> dict[str, object]:
    run_id = json.loads(node.run("verify"))["run_id"]
    node.run()
    status = node.status()
    assert status["run_id"] == run_id
    assert status["verified"].pop("finished") is not None
    report: dict[str, object] = status["verified"]
    return report


def test_a_damaged_file_differs_and_an_etag_that_is_no_digest_is_told_apart_by_its_replacement(
    sync: ModuleType, tmp_path: Path
) -> None:
    body, md5 = b"body", hashlib.md5(b"body").hexdigest()
    folder = sync.ModelsFolder(tmp_path)
    (tmp_path / "vae").mkdir()
    verification = sync.Verification(folder)

    def entry(etag: str, recorded: str | None = None) -> object:
        (tmp_path / "vae/a").write_bytes(body)
        state = sync.FileState.of((tmp_path / "vae/a").stat())
        return sync.Entry(sync.RemoteObject("vae/a", etag, len(body), 0), state, recorded)

    def replacement(etag: str, content: bytes) -> str | None:
        (tmp_path / "vae/copy").write_bytes(content)
        item = sync.RemoteObject("vae/a", etag, len(content), 0)
        found: str | None = verification.md5_of_replacement(item, tmp_path / "vae/copy")
        return found

    assert verification.equals_object(entry(md5)) is True
    assert verification.equals_object(entry("no-md5-at-all")) is None
    assert verification.equals_object(entry("no-md5-at-all", recorded=md5)) is True
    assert replacement(md5, body) is None, "nothing differed"
    other = "0" * 32
    for copy, recorded in ((b"good", None), (body, md5)):
        assert verification.equals_object(entry(other)) is False
        assert replacement(other, copy) == recorded
        assert replacement(other, copy) is None, "it is asked once"
    (tmp_path / "vae/a").unlink()
    missing = sync.Entry(sync.RemoteObject("vae/b", md5, 4, 0), sync.FileState(4, 0, 0))
    assert verification.equals_object(missing) is False
    assert replacement(md5, body) is None
    folder.close()


@pytest.mark.local
def test_a_damaged_file_is_found_by_verify_only_and_replaced_at_once(node: ProgramNode, s3: S3Stub) -> None:
    bodies = {f"loras/{number}": random.Random(number).randbytes(5_000) for number in range(4)}
    bodies["unet/parts"] = random.Random(9).randbytes(17 * MIB)
    for key, body in bodies.items():
        s3.put(key, body)
    s3.objects["unet/parts"].etag = f'"{multipart_etag(bodies["unet/parts"], 8 * MIB)}"'
    node.run()
    assert verify(node) == {"files": 5, "replaced": 0, "unknown": 0}
    damage(node.models / "loras/2")
    damage(node.models / "unet/parts")
    node.run()
    assert node.status()["downloaded"] == 0, "an ordinary run does not read what it has"
    assert verify(node) == {"files": 5, "replaced": 2, "unknown": 0}
    assert node.files() == bodies
    assert node.status()["downloaded"] == 2
    s3.calls.clear()
    node.run()
    assert s3.calls == {"list": 1}, "the wish to verify is fulfilled"


@pytest.mark.local
def test_an_etag_that_is_no_digest_of_the_content_costs_one_more_fetch_and_then_none(
    node: ProgramNode, s3: S3Stub
) -> None:
    s3.put("vae/kms", b"encrypted with a key of KMS")
    s3.objects["vae/kms"].etag = '"0123456789abcdef0123456789abcdef"'
    node.run()
    assert verify(node)["replaced"] == 1
    assert verify(node) == {"files": 1, "replaced": 0, "unknown": 0}
    damage(node.models / "vae/kms")
    assert verify(node)["replaced"] == 1
    assert node.files() == {"vae/kms": b"encrypted with a key of KMS"}


@pytest.mark.local
def test_a_verification_that_was_killed_is_done_by_the_next_run(node: ProgramNode, s3: S3Stub) -> None:
    s3.put("vae/a", b"a" * 1000)
    node.run()
    damage(node.models / "vae/a")
    node.run("verify")
    node.request.unlink()  # as a run takes it, right before it is killed
    node.run()
    assert node.status()["verified"]["replaced"] == 1
    assert node.files() == {"vae/a": b"a" * 1000}


@pytest.mark.local
def test_metrics_lie_where_node_exporter_may_read_them(node: ProgramNode, s3: S3Stub) -> None:
    s3.put("vae/a", b"a" * 1000)
    s3.put("readme", b"")
    node.run()
    folder = node.root / "var/lib/comfyui-model-sync/metrics"
    assert [file.name for file in folder.iterdir()] == ["comfyui_model_sync.prom"]
    assert (folder / "comfyui_model_sync.prom").stat().st_mode & 0o777 == 0o644
    lines = (folder / "comfyui_model_sync.prom").read_text().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert len(lines) == 3 * len(values)
    now = {name.removeprefix("comfyui_model_sync_"): int(value) for name, value in values.items()}
    assert {name: value for name, value in now.items() if "seconds" not in name} == {
        "ready": 1, "first_ready": 1, "failed": 0, "files": 1, "bytes": 1000, "missing_files": 0, "missing_bytes": 0,
        "left_out_files": 0, "left_out_bytes": 0, "skipped_keys": 1, "budget_bytes": 342_500_000_000,
        "replaced_files": 0,
    }  # fmt: skip
    assert int(values["comfyui_model_sync_last_success_timestamp_seconds"]) > 1_700_000_000
    assert values["comfyui_model_sync_last_verified_timestamp_seconds"] == "0"
