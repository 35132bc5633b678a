"""The readiness gate before the server and the drain after it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from comfyeks.charts import CHARTS_ROOT
from comfyeks.paths import REPO_ROOT
from tests.charts.harness import pod_script

FILES = CHARTS_ROOT / "comfyui" / "files"

gate = pod_script("wait_for_models")
drain = pod_script("drain")


def test_the_pods_scripts_hold_no_template() -> None:
    files = sorted(FILES.glob("*.py"))
    assert [file.name for file in files] == ["drain.py", "exporter.py", "uploader.py", "wait_for_models.py"]
    assert not [file for file in files if "{{" in file.read_text()]


# -- Gate --------------------------------------------------------------------------------------------------------------

SYNCING = {
    "schema": 1,
    "state": "syncing",
    "ready": False,
    "first_ready": False,
    "files": 10,
    "bytes": 30 * 2**30,
    "missing_files": 3,
    "missing_bytes": 14.2 * 2**30,
    "first_missing_files": 1,
    "first_missing_bytes": 2 * 2**30,
    "left_out": [],
    "left_out_count": 0,
    "left_out_bytes": 0,
    "skipped": [],
    "skipped_count": 0,
    "error": None,
}
READY = {**SYNCING, "state": "idle", "ready": True, "first_ready": True, "missing_files": 0, "missing_bytes": 0}


class Models:
    """A models folder whose status changes with each sleep of the readiness gate, which lasts `pause` seconds."""

    def __init__(self, folder: Path, *later: dict[str, Any] | None, pause: float = 2.0):
        self.folder = folder
        self.later = list(later)
        self.messages: list[str] = []
        self.now, self.pause = 1000.0, pause

    def write(self, status: dict[str, Any]) -> None:
        file = self.folder / ".comfyui-model-sync" / "status.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(status))

    def sleep(self, _: float) -> None:
        assert self.later, f"still waiting after {self.messages}"
        self.now += self.pause
        if (status := self.later.pop(0)) is not None:
            self.write(status)

    def wait(self, kind: str = "all", *keys: str) -> list[str]:
        gate.wait(self.folder, kind, keys, self.messages.append, self.sleep, lambda: self.now)
        return self.messages


def test_the_gate_opens_once_the_node_is_ready_and_reports_the_progress(tmp_path: Path) -> None:
    assert Models(tmp_path, SYNCING, SYNCING, READY).wait() == [
        "waiting for the model-sync service of this node to start",
        "syncing; 3 files missing (14.2 GiB)",
        "models ready: 10 files, 30.0 GiB; idle",
    ]


def test_a_node_that_is_already_ready_delays_no_pod(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.write(READY)
    assert len(models.wait()) == 1


def test_a_running_sync_does_not_close_the_gate_again(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.write({**SYNCING, "ready": True})
    [line] = models.wait()
    assert "3 files missing" in line


def test_the_gate_of_the_first_set_opens_while_the_rest_is_fetched(tmp_path: Path) -> None:
    first_there = {**SYNCING, "first_ready": True, "first_missing_files": 0, "first_missing_bytes": 0}
    assert Models(tmp_path, SYNCING, first_there).wait("first")[1:] == [
        "syncing; first set: 1 files missing (2.0 GiB); 3 files missing (14.2 GiB)",
        "models ready: 10 files, 30.0 GiB; syncing; 3 files missing (14.2 GiB)",
    ]


def test_the_gate_of_the_whole_set_does_not_open_for_the_first(tmp_path: Path) -> None:
    lines = Models(tmp_path, {**SYNCING, "first_ready": True}, READY).wait("all")
    assert len([line for line in lines if line.startswith("models ready")]) == 1
    assert lines[-1].endswith("idle")


def test_the_gate_reports_the_remaining_time_but_not_every_second(tmp_path: Path) -> None:
    """1 GiB in each pause of 2 seconds."""
    later = [{**SYNCING, "missing_bytes": gib * 2**30} for gib in range(80, 9, -1)]
    lines = Models(tmp_path, *later, READY).wait("first")
    assert lines[1] == "syncing; first set: 1 files missing (2.0 GiB); 3 files missing (80.0 GiB)"
    assert lines[2] == (
        "syncing; first set: 1 files missing (2.0 GiB), about 4 s left; 3 files missing (75.0 GiB), about 2 min left"
    )
    assert len(lines) == 3 + 70 // 5


def test_with_keys_the_gate_opens_when_these_are_whole_whatever_else_is_missing(tmp_path: Path) -> None:
    keys = ["checkpoints/base.safetensors", "loras/a b.safetensors"]
    lines: list[str] = []

    def arrive(_: float) -> None:
        missing = [tmp_path / key for key in keys if not (tmp_path / key).exists()]
        missing[0].parent.mkdir()
        missing[0].write_bytes(b"")

    Models(tmp_path).write(SYNCING)
    gate.wait(tmp_path, "keys", keys, lines.append, arrive)
    node = "syncing; 3 files missing (14.2 GiB)"
    assert lines == [
        f"2 required models missing: checkpoints/base.safetensors, loras/a b.safetensors; {node}",
        f"1 required models missing: loras/a b.safetensors; {node}",
        f"models ready: 10 files, 30.0 GiB; {node}",
    ]


def test_with_keys_a_source_without_a_service_is_enough(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "a").write_bytes(b"")
    assert Models(tmp_path).wait("keys", "loras/a") == ["models ready"]


def test_a_folder_in_the_place_of_a_wanted_model_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "loras" / "a").mkdir(parents=True)

    def sleep(_: float) -> None:
        (tmp_path / "loras" / "a").rmdir()
        (tmp_path / "loras" / "a").write_bytes(b"")

    lines: list[str] = []
    gate.wait(tmp_path, "keys", ["loras/a"], lines.append, sleep)
    assert lines == ["1 required models missing: loras/a", "models ready"]


def test_a_failed_sync_is_reported_and_the_next_one_waited_for(tmp_path: Path) -> None:
    failed = {**SYNCING, "state": "failed", "error": "AccessDenied on the bucket"}
    assert "failed; 3 files missing (14.2 GiB); error: AccessDenied on the bucket" in (
        Models(tmp_path, failed, READY).wait()
    )


LEFT_OUT = {
    "left_out": [{"key": f"unet/{number}", "bytes": 2**30} for number in range(6)],
    "left_out_count": 7,
    "left_out_bytes": 7 * 2**30,
}


def test_models_that_do_not_fit_the_disk_are_named_with_the_remedies(tmp_path: Path) -> None:
    [_, line] = Models(tmp_path, {**READY, **LEFT_OUT}).wait()
    assert "no room on the disk for 7 models (7.0 GiB): unet/0, unet/1, unet/2, unet/3, unet/4 and 2 more" in line
    for remedy in ("a larger instance type", "modelSync.settings.prefixes", "models.source to efs or mountpoint"):
        assert remedy in line


def test_a_wanted_model_that_will_never_arrive_is_reported_at_once(tmp_path: Path) -> None:
    models = Models(tmp_path, {**SYNCING, **LEFT_OUT}, pause=0)
    with pytest.raises(AssertionError, match="still waiting"):
        models.wait("keys", "unet/3", "vae/x")
    assert models.messages[-1].startswith(
        "2 required models missing: unet/3, vae/x; "
        "will not arrive, because the disk of this node has no room: unet/3; syncing"
    )


def test_keys_that_are_not_models_are_named(tmp_path: Path) -> None:
    skipped = {"skipped": [{"key": "../x", "reason": "leaves the folder"}], "skipped_count": 1}
    [line] = Models(tmp_path, {**READY, **skipped}).wait()[1:]
    assert "1 keys are not models: ../x (leaves the folder)" in line


def test_the_status_of_the_node_program_has_all_that_the_gate_reads() -> None:
    source = (REPO_ROOT / "node" / "comfyui-model-sync").read_text()
    for name in SYNCING:
        assert re.search(rf"^    {name}: |^            {name}=", source, re.MULTILINE), name


def test_a_status_of_a_newer_service_ends_the_gate_with_the_remedy(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.write({**SYNCING, "schema": 2})
    with pytest.raises(SystemExit, match="has schema 2, this chart supports 1: upgrade the chart"):
        models.wait()


def test_the_gate_as_the_pod_runs_it(tmp_path: Path) -> None:
    models = Models(tmp_path)
    models.write(READY)
    argv = [sys.executable, FILES / "wait_for_models.py"]
    run = {"capture_output": True, "text": True, "check": False, "timeout": 20}
    done = subprocess.run(argv, env={"MODELS_DIR": str(tmp_path), "MODELS_GATE": "first"}, **run)  # type: ignore[call-overload]
    assert (done.returncode, done.stderr) == (0, "")
    without = subprocess.run(argv, env={"MODELS_DIR": str(tmp_path)}, **run)  # type: ignore[call-overload]
    assert without.returncode != 0
    assert "MODELS_GATE is not set" in without.stderr


# -- Drain -------------------------------------------------------------------------------------------------------------


def run_drain(
    answers: list[int | None], seconds: float, clock: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> bool:
    monkeypatch.setattr(drain.time, "monotonic", clock)
    return bool(drain.drain(lambda: answers.pop(0) if len(answers) > 1 else answers[0], seconds, lambda _: None))


@pytest.fixture
def seconds_pass() -> Callable[[], float]:
    """Each call of the clock is a second later."""
    now = iter(range(10_000))
    return lambda: float(next(now))


def test_a_drain_waits_for_running_and_queued_jobs(
    seconds_pass: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[int | None] = [2, 1, 1, 0]
    assert run_drain(answers, 100, seconds_pass, monkeypatch)
    assert answers == [0]


def test_a_prompt_that_comes_late_is_waited_for_too(
    seconds_pass: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = int(drain.ROUTING_SECONDS) + 1
    answers: list[int | None] = [0] * (idle - 1) + [1] + [0] * idle + [7]
    assert run_drain(answers, 100, seconds_pass, monkeypatch)
    assert answers == [7], "asked once a second, it must have been idle for the whole time after the late prompt"


def test_a_busy_server_that_does_not_answer_is_not_idle(
    seconds_pass: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not run_drain([None], 50, seconds_pass, monkeypatch)


def test_a_drain_ends_when_its_time_is_up(seconds_pass: Callable[[], float], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run_drain([1], 50, seconds_pass, monkeypatch)


class Server:
    """Answers every GET with one status and body."""

    def __init__(self, status: int, body: bytes):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Callable[[int, bytes], Server]]:
    made: list[Server] = []

    def make(status: int, body: bytes) -> Server:
        made.append(Server(status, body))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("status", "body", "remaining"),
    [
        (200, b'{"exec_info": {"queue_remaining": 3}}', 3),
        (200, b'{"exec_info": {"queue_remaining": 0}}', 0),
        (200, b"not json", None),
        (500, b"", None),
    ],
)
def test_the_queue_is_read_from_the_server(
    server: Callable[[int, bytes], Server], status: int, body: bytes, remaining: int | None
) -> None:
    assert drain.queue_remaining(server(status, body).url) == remaining


def test_a_stopped_server_has_no_jobs() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    assert drain.queue_remaining(f"http://127.0.0.1:{port}") == 0


def test_the_hook_succeeds_even_when_the_server_does_not_answer() -> None:
    env = {**os.environ, "COMFYUI_URL": "http://127.0.0.1:9", "DRAIN_SECONDS": "0.2"}
    done = subprocess.run([sys.executable, FILES / "drain.py"], env=env, capture_output=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, b"")
