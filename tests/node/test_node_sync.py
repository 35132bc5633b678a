"""The node program as a process, with its real transfer tool and AWS CLI, in front of an S3 server that misbehaves."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.node.s3_stub import Fault, S3Stub
from tests.node.support import ProgramNode, eventually
from tests.support.model_keys import MODEL_KEYS

pytestmark = pytest.mark.local


def fill(s3: S3Stub, count: int, size: int = 1000) -> dict[str, bytes]:
    bodies = {f"loras/{number:04}.safetensors": random.Random(number).randbytes(size) for number in range(count)}
    for key, body in bodies.items():
        s3.put(key, body)
    return bodies


def test_every_model_arrives_byte_for_byte_and_everything_else_is_reported(node: ProgramNode, s3: S3Stub) -> None:
    models = {case.key: f"content of {case.key!r}".encode() for case in MODEL_KEYS if case.is_model}
    others = [case.key for case in MODEL_KEYS if case.key and not case.is_model]
    for key, body in models.items():
        s3.put(key, body)
    for key in others:
        s3.put(key, b"not a model")
    s3.put("vae/empty", b"")
    node.run()
    assert node.files() == models | {"vae/empty": b""}
    status = node.status()
    assert (status["state"], status["ready"], status["error"]) == ("idle", True, None)
    assert (status["files"], status["missing_files"]) == (len(models) + 1, 0)
    assert status["bytes"] == sum(map(len, models.values()))
    assert status["skipped_count"] == len(others)
    assert any(".." in skipped["key"] for skipped in status["skipped"])
    assert status["node"] == "i-0123456789abcdef0"
    seen_by_pods = json.loads((node.state / "status.json").read_text())
    assert seen_by_pods == status == json.loads(node.run("status"))
    above = {path.name for path in node.models.resolve().parent.iterdir()}
    assert above == {"comfyui-models"}
    assert {path.stat().st_mode & 0o777 for path in node.models.rglob("*.safetensors")} == {0o644}, (
        "pods read as others"
    )


def test_a_second_run_over_an_unchanged_bucket_fetches_and_writes_nothing(node: ProgramNode, s3: S3Stub) -> None:
    fill(s3, 30)
    node.run()
    s3.calls.clear()
    before = (node.state / "manifest.jsonl").stat()
    node.run()
    assert s3.calls == {"list": 1}
    assert (node.state / "manifest.jsonl").stat().st_mtime_ns == before.st_mtime_ns
    assert (node.status()["downloaded"], node.status()["files"]) == (0, 30)


def test_overwrites_deletes_and_additions_are_followed(node: ProgramNode, s3: S3Stub) -> None:
    bodies = fill(s3, 5)
    s3.put("vae/deep/er/a", b"gone soon")
    node.run()
    first, second, *_ = bodies
    s3.put(first, bodies[first][::-1])  # the same size
    s3.delete(second)
    s3.delete("vae/deep/er/a")
    s3.put("clip/new", b"new")
    changed = (node.models / "loras").stat().st_mtime_ns
    node.run()
    expected = bodies | {first: bodies[first][::-1], "clip/new": b"new"}
    del expected[second]
    assert node.files() == expected
    assert not (node.models / "vae").exists()
    assert (node.models / "loras").stat().st_mtime_ns > changed, "ComfyUI sees changes by folder mtimes only"
    assert (node.status()["downloaded"], node.status()["deleted"]) == (2, 2)


def test_an_overwrite_that_brings_the_old_content_back_is_fetched_again(node: ProgramNode, s3: S3Stub) -> None:
    s3.put("vae/a", b"A")
    node.run()
    s3.put("vae/a", b"A")
    node.run()
    assert node.status()["downloaded"] == 1


def test_a_file_becomes_a_folder_and_back(node: ProgramNode, s3: S3Stub) -> None:
    s3.put("loras/a", b"file")
    node.run()
    s3.delete("loras/a")
    s3.put("loras/a/b", b"below")
    node.run()
    assert node.files() == {"loras/a/b": b"below"}
    s3.delete("loras/a/b")
    s3.put("loras/a", b"file again")
    node.run()
    assert node.files() == {"loras/a": b"file again"}


def test_a_file_and_a_folder_of_the_same_name_are_no_failure(node: ProgramNode, s3: S3Stub) -> None:
    s3.put("loras/a", b"file")
    s3.put("loras/a/b", b"below")
    node.run()
    assert node.files() == {"loras/a": b"file"}
    assert node.status()["skipped"] == [{"key": "loras/a/b", "reason": "needs a folder where loras/a is a file"}]


def test_what_somebody_put_or_changed_on_the_node_is_undone(node: ProgramNode, s3: S3Stub, tmp_path: Path) -> None:
    bodies = fill(s3, 4)
    node.run()
    truncated, rewritten, linked, replaced = (node.models / key for key in bodies)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    truncated.write_bytes(b"")
    with rewritten.open("r+b") as file:
        file.write(b"XXXX")
    linked.unlink()
    linked.symlink_to(outside / "precious")
    replaced.unlink()
    replaced.mkdir()
    (replaced / "inside").write_text("")
    (node.models / "stray").write_text("")
    (node.models / "vae").symlink_to(outside)
    os.mkfifo(node.models / "loras/pipe")
    node.run()
    assert node.files() == bodies
    assert (outside / "precious").read_text() == "mine"
    assert {path.name for path in node.models.iterdir()} == {".comfyui-model-sync", "loras"}


def test_an_empty_bucket_empties_the_models_folder(node: ProgramNode, s3: S3Stub) -> None:
    fill(s3, 2)
    node.run()
    s3.objects.clear()
    node.run()
    assert node.files() == {}
    assert node.status()["state"] == "idle"


def test_a_control_character_in_one_key_does_not_stop_the_others(node: ProgramNode, s3: S3Stub) -> None:
    bodies = fill(s3, 2)
    s3.put("loras/a\x01\x1b[31mb", b"x")
    node.run()
    assert node.files() == bodies
    assert node.status()["skipped"][0]["reason"] == "control character in the key"


def test_listings_of_several_pages_are_complete(node: ProgramNode, s3: S3Stub) -> None:
    bodies = fill(s3, 1_200, size=10)
    node.run()
    assert node.files() == bodies
    assert s3.calls["list"] == 2


def test_half_a_file_is_never_visible_and_progress_is(node: ProgramNode, s3: S3Stub) -> None:
    body = random.Random(1).randbytes(3_000_000)
    s3.put("vae/big", body)
    s3.fault = lambda verb, key: Fault(bytes_per_second=1_000_000) if verb == "get" else None
    process = node.start()
    missing = set()
    while process.poll() is None:
        with_file = node.models / "vae/big"
        assert not with_file.exists() or with_file.stat().st_size == len(body)
        if (node.state / "status.json").exists():
            missing.add(json.loads((node.state / "status.json").read_text())["missing_bytes"])
        time.sleep(0.02)
    assert process.returncode == 0
    assert node.files() == {"vae/big": body}
    assert len(missing) > 2, f"the pods' gate sees how far a single big file is: {missing}"


def test_a_killed_run_loses_only_what_was_in_flight(node: ProgramNode, s3: S3Stub) -> None:
    bodies = fill(s3, 60)
    s3.fault = lambda verb, key: Fault(delay=0.5) if verb == "get" else None
    process = node.start()
    eventually(lambda: (node.models / "loras").is_dir() and len(list((node.models / "loras").iterdir())) >= 20)
    process.kill()
    process.wait()
    for left in node.processes():  # systemd ends the control group with its main process
        left.kill()
    landed = {key for key in bodies if (node.models / key).exists()}
    assert 20 <= len(landed) < 60
    assert {key: node.files()[key] for key in landed} == {key: bodies[key] for key in landed}
    assert node.status()["state"] == "syncing"
    s3.fault = lambda verb, key: None
    s3.calls.clear()
    node.run()
    assert node.files() == bodies
    assert s3.calls["get"] <= 60 - len(landed) + 1, "at most the file whose line was being written comes twice"
    assert list((node.state / "tmp").iterdir()) == []


def test_passing_server_errors_and_cut_answers_are_survived(node: ProgramNode, s3: S3Stub) -> None:
    bodies = fill(s3, 20)
    bad_answers = [Fault(status=500), Fault(status=503), Fault(truncate_to=17)]
    left = {"list": list(bad_answers), "head": bad_answers * 2, "get": bad_answers * 4}
    # Only every second answer is bad, so that retries of requests are tested, not only those of runs.
    turn = itertools.count()
    s3.fault = lambda verb, key: left[verb].pop() if left[verb] and (verb == "list" or next(turn) % 2) else None
    with_constants(node, "RETRY_AFTER = (0.1,) * 4")
    node.run()
    assert node.files() == bodies
    assert node.status()["error"] is None


@pytest.mark.parametrize("later", [b"another, longer body", b"BODY"], ids=["other size", "same size"])
def test_an_object_that_is_replaced_between_listing_and_fetching_converges(
    node: ProgramNode, s3: S3Stub, later: bytes
) -> None:
    s3.put("vae/a", b"body")
    replacements = iter([later])

    def replace(verb: str, key: str) -> None:
        if verb == "get" and (body := next(replacements, None)):
            s3.put(key, body)

    s3.fault = replace
    with_constants(node, "RETRY_AFTER = (0.1,)")
    node.run()
    assert node.files() == {"vae/a": later}
    assert node.status()["bytes"] == len(later)
    node.run()
    assert node.status()["downloaded"] == 0


def test_one_object_that_cannot_be_read_fails_the_run_after_all_others_arrived(node: ProgramNode, s3: S3Stub) -> None:
    bodies = fill(s3, 10)
    bad = next(iter(bodies))
    s3.fault = lambda verb, key: Fault(status=403) if key == bad else None
    with_constants(node, "RETRY_AFTER = (0.1,)")
    stderr = node.run(code=1)
    assert node.files() == {key: body for key, body in bodies.items() if key != bad}
    status = node.status()
    assert (status["state"], status["ready"], status["missing_files"]) == ("failed", False, 1)
    assert status["error"].startswith(f"1 of 1 files could not be fetched: {bad}: ")
    assert "\n" not in status["error"]
    assert status["error"] in stderr
    s3.fault = lambda verb, key: None
    node.run()
    assert node.files() == bodies
    assert node.status()["state"] == "idle"


def test_a_bucket_that_is_not_there_is_said_in_one_line(node: ProgramNode, s3: S3Stub) -> None:
    node.settings.write_text("MODELS_BUCKET=other\nAWS_REGION=us-west-2\n")
    with_constants(node, "RETRY_AFTER = ()")
    node.run(code=1)
    assert node.status()["state"] == "failed"
    assert "listing s3://other failed" in node.status()["error"]
    assert "NoSuchBucket" in node.status()["error"]


def test_a_failed_listing_removes_nothing(node: ProgramNode, s3: S3Stub) -> None:
    bodies = fill(s3, 3)
    node.run()
    s3.fault = lambda verb, key: Fault(status=500) if verb == "list" else None
    with_constants(node, "RETRY_AFTER = ()")
    node.run(code=1)
    assert node.files() == bodies
    assert node.status()["ready"], "what was whole before still is"


def test_a_transfer_in_which_nothing_arrives_is_ended_and_tried_again(node: ProgramNode, s3: S3Stub) -> None:
    bodies = fill(s3, 1)
    slow = iter([Fault(delay=20)])
    s3.fault = lambda verb, key: next(slow, None) if verb == "get" else None
    with_constants(node, "STALL_TIMEOUT = 1.0; RETRY_AFTER = (0.1, 0.1)")
    begun = time.monotonic()
    node.run()
    assert node.files() == bodies
    assert time.monotonic() - begun < 15


def test_wrong_settings_exit_2_and_take_the_request_along(node: ProgramNode, s3: S3Stub) -> None:
    node.settings.write_text("BUCKET=x\n")
    node.run("sync")
    assert "line 1: 'BUCKET=x'; allowed are" in node.run(code=2)
    assert not node.request.exists(), "systemd would start the service in a loop"
    assert node.status()["state"] == "failed"


def test_a_requested_run_carries_the_id_that_the_caller_got(node: ProgramNode, s3: S3Stub) -> None:
    run_id = json.loads(node.run("sync"))["run_id"]
    node.run()
    assert (node.status()["run_id"], node.status()["requested_run_id"]) == (run_id, run_id)
    node.run()
    assert node.status()["run_id"] > run_id


def test_a_request_whose_run_failed_is_not_forgotten(node: ProgramNode, s3: S3Stub) -> None:
    s3.put("vae/a", b"a")
    s3.fault = lambda verb, key: Fault(status=403)
    with_constants(node, "RETRY_AFTER = ()")
    run_id = json.loads(node.run("sync"))["run_id"]
    node.run(code=1)
    assert (node.status()["state"], node.status()["requested_run_id"]) == ("failed", run_id)
    s3.fault = lambda verb, key: None
    node.run()  # as systemd starts it again
    assert (node.status()["state"], node.status()["requested_run_id"]) == ("idle", run_id)


def test_a_worker_that_dies_costs_one_attempt(node: ProgramNode, s3: S3Stub) -> None:
    bodies = fill(s3, 5)
    s3.fault = lambda verb, key: Fault(delay=1) if verb == "get" else None
    with_constants(node, "RETRY_AFTER = (0.1,)")
    process = node.start()
    eventually(lambda: s3.calls["get"] > 0)
    [worker] = [child for child in node.processes() if "work" in child.cmdline()]
    worker.kill()
    assert process.wait(30) == 0
    assert process.stderr is not None
    assert "a worker ended with code -9; trying again" in process.stderr.read()
    assert node.files() == bodies


def test_a_request_during_a_run_is_served_by_another_round(node: ProgramNode, s3: S3Stub) -> None:
    fill(s3, 5)
    s3.fault = lambda verb, key: Fault(delay=1) if verb == "get" else None
    process = node.start()
    eventually(lambda: s3.calls["get"] > 0)
    s3.put("vae/late", b"late")
    run_id = json.loads(node.run("sync"))["run_id"]
    assert process.wait(30) == 0
    assert node.files()["vae/late"] == b"late"
    assert node.status()["requested_run_id"] == run_id


def test_two_runs_take_turns(node: ProgramNode, s3: S3Stub) -> None:
    bodies = fill(s3, 20)
    processes = [node.start() for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert node.files() == bodies
    assert s3.calls["get"] == 20


def test_stopping_ends_the_transfer_too_and_says_so(node: ProgramNode, s3: S3Stub) -> None:
    fill(s3, 3)
    s3.fault = lambda verb, key: Fault(delay=30) if verb == "get" else None
    process = node.start()
    eventually(lambda: s3.calls["get"] > 0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 1
    assert node.processes() == []
    assert node.status()["error"] == "stopped by SIGTERM"


# --- storage


def test_models_wait_for_an_array_that_comes_late(node: ProgramNode, s3: S3Stub) -> None:
    bodies = fill(s3, 2)
    node.add_disk("nvme1n1")
    (node.root / "proc/self/mountinfo").write_text("20 1 9:20 / / rw - xfs /dev/nvme0n1p1 rw\n")
    shutil.rmtree(node.root / "mnt")
    process = node.start()
    eventually((node.root / "var/lib/comfyui-model-sync/status.json").exists)
    time.sleep(1)
    assert process.poll() is None
    assert node.status()["state"] == "waiting_for_storage"
    assert not node.models.is_symlink(), "pods wait for the link"
    assert not (node.root / "mnt").exists(), "nothing is written below a mount that is not there"
    node.mount_array()
    assert process.wait(30) == 0
    assert node.files() == bodies
    assert node.models.resolve() == (node.root / "mnt/k8s-disks/0/comfyui-models").resolve()


def test_an_array_that_never_comes_is_a_failure_that_names_the_setting(node: ProgramNode, s3: S3Stub) -> None:
    node.add_disk("nvme1n1")
    (node.root / "proc/self/mountinfo").write_text("20 1 9:20 / / rw - xfs /dev/nvme0n1p1 rw\n")
    with_constants(node, "ARRAY_TIMEOUT = 0.5")
    node.run(code=1)
    assert "although nvme1n1 exist; the EC2NodeClass needs instanceStorePolicy: RAID0" in node.status()["error"]
    assert not node.models.is_symlink()


def test_a_type_without_local_disks_uses_the_root_volume(node: ProgramNode, s3: S3Stub) -> None:
    bodies = fill(s3, 2)
    (node.root / "proc/self/mountinfo").write_text("20 1 9:20 / / rw - xfs /dev/nvme0n1p1 rw\n")
    node.run()
    assert node.files() == bodies
    assert node.models.resolve() == (node.root / "var/lib/comfyui-models").resolve()


def test_a_link_to_a_place_of_the_past_is_replaced(node: ProgramNode, s3: S3Stub) -> None:
    bodies = fill(s3, 1)
    node.models.symlink_to("/nowhere")
    node.run()
    assert node.files() == bodies


def test_a_folder_in_place_of_the_link_is_not_lost(node: ProgramNode, s3: S3Stub) -> None:
    node.models.mkdir()
    (node.models / "somebody's").write_text("file")
    node.run(code=1)
    assert (node.models / "somebody's").exists()
    assert "comfyui-models" in node.status()["error"]


# --- interpreter


def test_the_program_runs_on_the_nodes_python(node: ProgramNode, s3: S3Stub) -> None:
    node.python = python39()
    bodies = fill(s3, 3)
    node.run("sync")
    node.run()
    assert node.files() == bodies
    s3.delete(next(iter(bodies)))
    node.run()
    assert len(node.files()) == 2
    assert json.loads(node.run("status"))["state"] == "idle"


def python39() -> str:
    """A Python 3.9; skips the test when this machine has none."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for candidate in [*sorted(home.glob("versions/3.9*/bin/python3.9")), shutil.which("python3.9")]:
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return str(candidate)
    if "python3.9" in os.environ.get("REQUIRE_TOOLS", "").split(","):
        pytest.fail("REQUIRE_TOOLS names python3.9, which is not here")
    pytest.skip("no Python 3.9 on this machine: the program's syntax is checked by ruff for it, its run is not")


def with_constants(node: ProgramNode, assignments: str) -> None:
    """Lets the installed program start with other constants: for patience that a test does not have."""
    program = node.root / "usr/local/bin/comfyui-model-sync"
    text = program.read_text()
    program.unlink()
    marker = "\n\nif __name__ == "
    assert marker in text
    program.write_text(text.replace(marker, f"\n\n{assignments}{marker}"))
