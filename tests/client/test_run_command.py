"""`comfyeks run` as a process: output, exit codes, signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from comfyeks.client import cli
from comfyeks.errors import ComfyeksError
from comfyeks_local.comfyui.media import read_video, write_video
from tests.client.conftest import WORKFLOW, jobs, picture, text_to_image
from tests.support.comfyui import RunningServer, Server, sleeping
from tests.support.proxy import proxying


@pytest.fixture
def workflow(tmp_path: Path) -> Callable[[Any], Path]:
    def write(graph: Any) -> Path:
        path = tmp_path / "workflow.json"
        path.write_text(json.dumps(graph))
        return path

    return write


def run(*arguments: Any) -> Result:
    """Run the command in this process. Its errors are exceptions, which main() turns into one line and an exit code."""
    import typer

    app = typer.Typer()
    app.command()(cli.run)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def start(server: Server, graph: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "comfyeks", "run", graph, "--url", server.url, *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def until_running(server: Server) -> str:
    for _ in range(500):
        running = server.get("/api/jobs?status=in_progress").json()["jobs"]
        if running:
            return str(running[0]["id"])
        time.sleep(0.02)
    raise AssertionError("no job came to run")


def status(server: Server, prompt_id: str) -> str:
    return str(server.get(f"/api/jobs/{prompt_id}").json()["status"])


def test_paths_go_to_stdout_and_everything_else_to_stderr(stand_in: RunningServer, tmp_path: Path) -> None:
    result = run(WORKFLOW, "--url", stand_in.url, "--out", tmp_path / "got", "--seed", 600, "--set", "Size.width=64",
                 "--set", "5.height=64", "--set", "Prompt.text=ein Fuchs")  # fmt: skip
    assert result.exit_code == 0
    [path] = result.stdout.splitlines()
    image = Image.open(path)
    assert image.size == (64, 64)
    prompt = json.loads(image.text["prompt"])  # type: ignore[attr-defined]
    assert prompt["3"]["inputs"]["seed"] == 600
    assert prompt["6"]["inputs"]["text"] == "ein Fuchs"
    assert "node 5 of 7: Sampler" in result.stderr


def test_json_prints_events_as_they_happen_and_the_outcome_last(
    server: Server, workflow: Callable[[Any], Path], tmp_path: Path
) -> None:
    result = run(workflow(picture()), "--url", server.url, "--out", tmp_path / "got", "--json")
    *events, outcome = map(json.loads, result.stdout.splitlines())
    assert {event["event"] for event in events} == {"progress"}
    assert {"Scale", "Save"} <= {event["node"] for event in events}
    assert outcome["status"] == "completed"
    [file] = outcome["files"]
    assert Path(file["path"]).stat().st_size == file["bytes"]


def test_a_failure_is_reported_in_json_too(server: Server, workflow: Callable[[Any], Path]) -> None:
    graph = text_to_image()
    graph["4"]["inputs"]["ckpt_name"] = "absent.safetensors"
    result = run(workflow(graph), "--url", server.url, "--json")
    assert isinstance(result.exception, ComfyeksError)
    assert result.exception.exit_code == 1
    assert json.loads(result.stdout)["status"] == "Rejected"


def test_an_input_file_is_uploaded_and_used(server: Server, workflow: Callable[[Any], Path], tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (0, 200, 0)).save(tmp_path / "photo.png")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "copy"}},
    }
    result = run(workflow(graph), "--url", server.url, "--out", tmp_path / "got", "--input", tmp_path / "photo.png")
    assert result.exit_code == 0, result.stderr
    assert Image.open(result.stdout.strip()).getpixel((0, 0)) == (0, 200, 0)


def test_masks_and_videos_are_uploaded_too(server: Server, workflow: Callable[[Any], Path], tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (200, 0, 0, 255)).save(tmp_path / "mask.png")
    write_video(tmp_path / "clip.webm", [Image.new("RGB", (64, 64))] * 4, 8.0, "libvpx-vp9", {})
    graph = {
        "1": {"class_type": "LoadImageMask", "inputs": {"image": "mask.png", "channel": "red"}},
        "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "mask"}},
        "4": {"class_type": "LoadVideo", "inputs": {"file": "any.webm"}},
        "5": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["4", 0], "filename_prefix": "clip", "format": "auto", "codec": "auto"},
        },
    }
    flags = ["--input", tmp_path / "mask.png", "--set", f"4.file=@{tmp_path / 'clip.webm'}"]
    result = run(workflow(graph), "--url", server.url, "--out", tmp_path / "got", *flags)
    assert result.exit_code == 0, result.exception
    picture, video = sorted(result.stdout.splitlines(), key=lambda line: line.endswith(".mp4"))
    assert Image.open(picture).getpixel((0, 0)) == (200, 200, 200)
    assert len(read_video(Path(video))[0]) == 4


def test_show_opens_every_result(
    server: Server, workflow: Callable[[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", lambda path: len(opened.append(path) or [1]))  # type: ignore[func-returns-value]
    result = run(workflow(picture()), "--url", server.url, "--out", tmp_path / "got", "--show")
    assert opened == result.stdout.splitlines()
    assert "--show: no program on this machine opens" in result.stderr


@pytest.mark.parametrize(
    "flags",
    [["--input", "/no/such/file.png"], ["--timeout", "0"], ["--set", "nope"], ["--seed", "-1"], ["--url", "nonsense"]],
)
def test_wrong_usage_is_exit_code_2_before_anything_is_sent(
    stand_in: RunningServer, workflow: Callable[[Any], Path], flags: list[str]
) -> None:
    before = len(stand_in.get("/history").json())
    result = run(workflow(text_to_image()), "--url", stand_in.url, *flags)
    assert isinstance(result.exception, ComfyeksError)
    assert result.exception.exit_code == 2
    assert len(stand_in.get("/history").json()) == before


@pytest.fixture
def mute() -> Iterator[str]:
    """URL of a server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("upload", [False, True], ids=["connecting", "uploading"])
def test_waiting_for_a_server_that_never_answers_ends_at_the_time_limit(
    mute: str, workflow: Callable[[Any], Path], tmp_path: Path, upload: bool
) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(bytes(32 * 2**20))  # more than fits into socket buffers
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}}}
    started = time.monotonic()
    result = run(workflow(graph), "--url", mute, "--timeout", "0.5", *(["--input", photo] if upload else []))
    assert time.monotonic() - started < 10
    assert isinstance(result.exception, ComfyeksError)
    assert result.exception.exit_code == 124
    assert str(result.exception).startswith("timed out after 0.5 s; ")
    assert mute in str(result.exception)


def test_a_submission_that_is_never_answered_ends_at_the_time_limit(
    server: Server, workflow: Callable[[Any], Path]
) -> None:
    with proxying(server.url) as proxy:
        proxy.mute_posts = True
        started = time.monotonic()
        result = run(workflow(picture()), "--url", proxy.url, "--timeout", "0.5")
    assert time.monotonic() - started < 10
    assert isinstance(result.exception, ComfyeksError)
    assert result.exception.exit_code == 124
    assert str(result.exception) == "timed out after 0.5 s; the job was cancelled on the server"


@pytest.mark.local
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_the_job_on_the_server(
    server: Server, workflow: Callable[[Any], Path], number: signal.Signals, code: int
) -> None:
    process = start(server, workflow(server.slow(20)))
    prompt_id = until_running(server)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert "interrupted; the job was cancelled on the server" in errors
    assert status(server, prompt_id) == "cancelled"


@pytest.mark.local
def test_a_timeout_is_exit_code_124(server: Server, workflow: Callable[[Any], Path]) -> None:
    process = start(server, workflow(server.slow(20)), "--timeout", "1")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 124
    assert "Error: timed out after 1 s; " in errors
    assert jobs(server, "in_progress", "pending") == []


@pytest.mark.local
def test_a_server_killed_during_a_job_is_reported_at_the_time_limit(
    tmp_path: Path, workflow: Callable[[Any], Path]
) -> None:
    (tmp_path / "home/custom_nodes").mkdir(parents=True)
    flags = ["--base-directory", str(tmp_path / "home"), "--port", "0", "--database-url", "sqlite:///:memory:"]
    server = subprocess.Popen(
        [sys.executable, "-m", "comfyeks_local.comfyui", *flags], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    url = server.stderr.readline().strip().rpartition(" ")[2]
    running = Server(url)
    client = start(running, workflow(sleeping(20, 1000)), "--timeout", "3")
    until_running(running)
    server.kill()
    server.wait()
    _, errors = client.communicate(timeout=30)
    assert client.returncode == 124
    assert "timed out after 3 s; no connection to" in errors
