"""`comfyeks batch`: through interruptions, kills and server restarts, no row is lost and none runs twice."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from comfyeks import workflow
from comfyeks.client import batch_cli
from comfyeks.client.batch import read_items
from comfyeks.errors import OperationError, UserError
from comfyeks_local.processes import wait_until
from tests.client.conftest import WORKFLOW, picture, text_to_image
from tests.support.comfyui import CHECKPOINT, RunningServer, Server, comfyui, new_colour
from tests.support.proxy import proxying
from tests.support.safetensors import write_model


def graph_file(tmp_path: Path, graph: Any) -> Path:
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(graph))
    return path


def rows_file(tmp_path: Path, text: str, name: str = "rows.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def run(*arguments: Any) -> Result:
    app = typer.Typer()
    app.command()(batch_cli.batch)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def command(server_url: str, graph: Path, rows: Path, out: Path, *flags: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "comfyeks",
        "batch",
        str(graph),
        str(rows),
        "--out",
        str(out),
        "--url",
        server_url,
        *flags,
    ]


def prompts(server: RunningServer) -> list[str]:
    """The prompt of every job that the server ran."""
    return sorted(
        node["inputs"]["text"]
        for entry in server.get("/history").json().values()
        for node in entry["prompt"][2].values()
        if node["class_type"] == "CLIPTextEncode" and node["_meta"]["title"] == "Prompt"
    )


@pytest.fixture
def own_server(tmp_path: Path) -> Any:
    home = tmp_path / "comfyui"
    write_model(home / "models", f"checkpoints/{CHECKPOINT}")
    with comfyui(home) as running:
        yield running


def test_every_row_becomes_a_run_with_its_own_folder(own_server: RunningServer, tmp_path: Path) -> None:
    rows = rows_file(tmp_path, "id,Prompt.text,5.width,seed\nfox,a red fox,64,7\nowl,an owl,,8\n")
    out = tmp_path / "out"
    result = run(graph_file(tmp_path, text_to_image()), rows, "--out", out, "--url", own_server.url)
    assert result.exit_code == 0, result.exception
    assert {Path(line).parent.name for line in result.stdout.splitlines()} == {"fox", "owl"}
    [fox], [owl] = (list((out / name).iterdir()) for name in ("fox", "owl"))
    assert Image.open(fox).size == (64, 64)
    assert Image.open(owl).size == (128, 64)
    assert json.loads(Image.open(owl).text["prompt"])["3"]["inputs"]["seed"] == 8  # type: ignore[attr-defined]
    assert prompts(own_server) == ["a red fox", "an owl"]


def test_rows_may_be_json_with_files_to_upload(own_server: RunningServer, tmp_path: Path) -> None:
    for name, color in (("red", (200, 0, 0)), ("green", (0, 200, 0))):
        Image.new("RGB", (16, 16), color).save(tmp_path / f"{name}.png")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "copy"}},
    }
    lines = [{"id": name, "1.image": f"@{name}.png"} for name in ("red", "green")]
    rows = rows_file(tmp_path, "\n".join(map(json.dumps, lines)), "rows.jsonl")
    out = tmp_path / "out"
    result = run(graph_file(tmp_path, graph), rows, "--out", out, "--url", own_server.url, "--json")
    assert result.exit_code == 0, result.exception
    assert {event["id"]: event["status"] for event in map(json.loads, result.stdout.splitlines())} == {
        "red": "completed", "green": "completed",
    }  # fmt: skip
    [green] = (out / "green").iterdir()
    assert Image.open(green).getpixel((0, 0)) == (0, 200, 0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.csv", "Prompt.txt\nx\n", "rows.csv:2: Prompt.txt: node 6"),
        ("rows.csv", "5.width\nwide\n", "rows.csv:2: 5.width=wide: must be a number"),
        ("rows.csv", "id,seed\na,1\na,2\n", "rows.csv:3: id 'a' is already used in line 2"),
        ("rows.csv", "id,seed\n../a,1\n", "rows.csv:2: id '../a' must be letters"),
        ("rows.csv", "seed\none\n", "rows.csv:2: seed 'one' must be a whole number"),
        ("rows.csv", "id,seed\na\n", "rows.csv:2: must have as many cells"),
        ("rows.csv", "id\n", "rows.csv: has no rows"),
        ("rows.jsonl", "{}\n[1]\n", "rows.jsonl:2: must be a JSON object"),
        ("rows.jsonl", "{", "rows.jsonl:1: is not JSON"),
        ("rows.txt", "x", "rows.txt: must be a .csv or a .jsonl file"),
    ],
)
def test_an_invalid_row_is_reported_with_its_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError) as rejected:
        read_items(rows_file(tmp_path, text, name), workflow.load(WORKFLOW))
    assert message in str(rejected.value)


def test_a_missing_input_file_is_reported(tmp_path: Path) -> None:
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}
    with pytest.raises(UserError, match=r"rows\.csv:2: 1\.image=@absent\.png: there is no file"):
        read_items(rows_file(tmp_path, "1.image\n@absent.png\n"), graph)


def test_failed_rows_are_reported_and_retried_and_the_others_run_once(
    own_server: RunningServer, tmp_path: Path
) -> None:
    rows = rows_file(tmp_path, f"id,4.ckpt_name\ngood,{CHECKPOINT}\nbad,later.safetensors\n")
    graph, out = graph_file(tmp_path, text_to_image()), tmp_path / "out"
    first = run(graph, rows, "--out", out, "--url", own_server.url)
    assert isinstance(first.exception, OperationError)
    assert str(first.exception) == "1 of 2 rows are not done; run the same command again to retry them"
    assert "row bad failed" in first.stderr
    assert "later.safetensors" in first.stderr
    write_model(own_server.models, "checkpoints/later.safetensors")
    second = run(graph, rows, "--out", out, "--url", own_server.url)
    assert second.exit_code == 0, second.exception
    assert [Path(line).parent.name for line in second.stdout.splitlines()] == ["bad"]
    assert len(prompts(own_server)) == 2


def test_a_batch_with_other_parameters_does_not_mix_with_the_one_in_a_folder(
    own_server: RunningServer, tmp_path: Path
) -> None:
    graph, out = graph_file(tmp_path, text_to_image()), tmp_path / "out"
    run(graph, rows_file(tmp_path, "id,seed\na,1\n"), "--out", out, "--url", own_server.url)
    result = run(graph, rows_file(tmp_path, "id,seed\na,2\n"), "--out", out, "--url", own_server.url)
    assert isinstance(result.exception, UserError)
    assert "row a had other parameters" in str(result.exception)


def test_a_row_whose_job_ended_just_before_it_was_cancelled_does_not_run_again(
    own_server: RunningServer, tmp_path: Path
) -> None:
    graph, rows, out = graph_file(tmp_path, text_to_image()), rows_file(tmp_path, "id,seed\na,1\n"), tmp_path / "out"
    assert run(graph, rows, "--out", out, "--url", own_server.url).exit_code == 0
    journal = out / "batch.jsonl"
    submitted = json.loads(journal.read_text().splitlines()[0])
    journal.write_text(json.dumps({**submitted, "status": "cancelled"}) + "\n")
    shutil.rmtree(out / "a")
    assert run(graph, rows, "--out", out, "--url", own_server.url).exit_code == 0
    assert len(list((out / "a").iterdir())) == 1
    assert len(prompts(own_server)) == 1


def test_behind_a_load_balancer_a_later_run_asks_the_server_that_has_the_job(tmp_path: Path) -> None:
    """The job was submitted through a sticky session that ended with its process."""
    homes = [tmp_path / name for name in ("one", "two")]
    for home in homes:
        write_model(home / "models", f"checkpoints/{CHECKPOINT}")
    graph, rows, out = graph_file(tmp_path, text_to_image()), rows_file(tmp_path, "id,seed\na,1\n"), tmp_path / "out"
    with comfyui(homes[0]) as one, comfyui(homes[1]) as two, proxying(one.url, two.url) as balancer:
        assert run(graph, rows, "--out", out, "--url", balancer.url).exit_code == 0
        # As if killed between the end of the job and its record.
        journal = out / "batch.jsonl"
        journal.write_text(journal.read_text().splitlines()[0] + "\n" + '{"id": "a", "sta')
        assert run(graph, rows, "--out", out, "--url", balancer.url).exit_code == 0
        assert len(prompts(one)) + len(prompts(two)) == 1


def fifty(tmp_path: Path) -> tuple[Path, Path, dict[int, str]]:
    """A workflow, fifty rows with a different colour each, and colour → name of its row."""
    names = {new_colour(): f"n{number}" for number in range(50)}
    text = "id,Canvas.color\n" + "".join(f"{name},{color}\n" for color, name in names.items())
    return graph_file(tmp_path, picture()), rows_file(tmp_path, text), names


def done(out: Path) -> set[str]:
    return (
        {path.name for path in out.iterdir() if path.is_dir() and not path.name.startswith(".")}
        if out.is_dir()
        else set()
    )


def completed(server: Server, names: dict[int, str]) -> list[str]:
    """The row of every job that succeeded on the server."""
    colours = [
        entry["prompt"][2]["1"]["inputs"].get("color")
        for entry in server.get("/history").json().values()
        if entry["status"]["status_str"] == "success"
    ]
    return sorted(names[color] for color in colours if color in names)


def check_pictures(out: Path, names: dict[int, str]) -> None:
    """Check that each row has one picture, of its own colour."""
    assert done(out) == set(names.values())
    for color, name in names.items():
        [path] = (out / name).iterdir()
        assert Image.open(path).convert("RGB").getpixel((5, 5)) == (color >> 16, color >> 8 & 255, color & 255)


@pytest.mark.local
@pytest.mark.parametrize(
    ("number", "goals"), [(signal.SIGKILL, (8, 30)), (signal.SIGTERM, (20,))], ids=["killed", "terminated"]
)
def test_fifty_rows_interrupted_repeatedly_are_neither_lost_nor_run_twice(
    server: Server, tmp_path: Path, number: signal.Signals, goals: tuple[int, ...]
) -> None:
    out = tmp_path / "out"
    graph, rows, names = fifty(tmp_path)
    for goal in goals:
        process = subprocess.Popen(
            command(server.url, graph, rows, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while process.poll() is None and len(done(out)) < goal:
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGKILL, 143)
        assert goal <= len(done(out)) < 50
    last = subprocess.run(command(server.url, graph, rows, out), capture_output=True, text=True, timeout=300)
    assert last.returncode == 0, last.stderr
    assert completed(server, names) == sorted(names.values())
    check_pictures(out, names)


@contextmanager
def started(port: str, home: Path) -> Iterator[str]:
    """URL of a server in its own process (COMFYUI_COMMAND, else a stand-in), which is killed at the end."""
    real = os.environ.get("COMFYUI_COMMAND")
    (home / "custom_nodes").mkdir(parents=True, exist_ok=True)
    flags = ["--base-directory", str(home), "--database-url", "sqlite:///:memory:"]
    arguments = shlex.split(real) if real else [sys.executable, "-m", "comfyeks_local.comfyui", *flags]
    server = subprocess.Popen([*arguments, "--port", port], env={**os.environ, "COMFYUI_STANDIN_STEP_SECONDS": "0.05"})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until("the server", lambda: answers(url), 180, every=0.05)
        yield url
    finally:
        server.kill()
        server.wait()


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/prompt", timeout=5).status_code == 200
    except requests.RequestException:
        return False


@pytest.mark.local
def test_no_row_is_lost_when_the_server_is_killed_and_started_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    graph, rows, names = fifty(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with started(port, tmp_path / "comfyui") as url:
        process = subprocess.Popen(
            command(url, graph, rows, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and len(done(out)) < 12:
            time.sleep(0.01)
    assert process.poll() is None
    assert len(done(out)) < 50
    with started(port, tmp_path / "comfyui"):
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    check_pictures(out, names)
