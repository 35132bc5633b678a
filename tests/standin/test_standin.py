"""Behaviour of the stand-in that cannot be tested on every server: models, slow graph nodes, media, its process."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import websocket
from PIL import Image

from comfyeks_local.comfyui.options import parser
from tests.support.comfyui import CHECKPOINT, RunningServer, comfyui, sleeping
from tests.support.safetensors import BROKEN, write_model

WORKFLOWS = Path(__file__).parents[2] / "workflows"


def text_to_image(**changes: Any) -> dict[str, Any]:
    graph: dict[str, Any] = json.loads((WORKFLOWS / "sdxl-text-to-image.json").read_text())
    graph["5"]["inputs"].update(width=128, height=64)
    for target, value in changes.items():
        node, key = target[1:].split("_", 1)
        graph[node]["inputs"][key] = value
    return graph


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    write_model(tmp_path / "models", f"checkpoints/{CHECKPOINT}")
    with comfyui(tmp_path) as running:
        yield running


def submit(server: RunningServer, graph: dict[str, Any], **body: Any) -> str:
    answer = server.post("/prompt", json={"prompt": graph, **body})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["prompt_id"])


def until(condition: Callable[[], Any], seconds: float = 10) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


def job(server: RunningServer, prompt_id: str) -> dict[str, Any]:
    return dict(server.get(f"/api/jobs/{prompt_id}").json())


def run(server: RunningServer, graph: dict[str, Any], **body: Any) -> dict[str, Any]:
    prompt_id = submit(server, graph, **body)
    until(lambda: job(server, prompt_id)["status"] not in ("pending", "in_progress"))
    return job(server, prompt_id)


def listen(server: RunningServer, client_id: str, *, metadata: bool = False) -> websocket.WebSocket:
    socket = websocket.create_connection(f"{server.url.replace('http', 'ws')}/ws?clientId={client_id}", timeout=5)
    socket.recv()
    if metadata:
        socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        socket.recv()
    return socket


def frames_until(socket: websocket.WebSocket, last: str) -> list[Any]:
    frames = []
    while True:
        frame = socket.recv()
        frames.append(frame if isinstance(frame, bytes) else json.loads(frame))
        if isinstance(frame, str) and frames[-1]["type"] == last:
            return frames


# Models ---------------------------------------------------------------------------------------------------------------


def test_a_new_model_is_listed_at_once_and_gone_when_deleted(server: RunningServer) -> None:
    path = write_model(server.models, "checkpoints/sub folder/模型.safetensors")
    assert "sub folder/模型.safetensors" in server.get("/models/checkpoints").json()
    path.unlink()
    assert server.get("/models/checkpoints").json() == [CHECKPOINT]


def test_a_new_model_is_not_listed_while_the_times_of_its_folders_stay_the_same(server: RunningServer) -> None:
    folder = server.models / "checkpoints"
    server.get("/models/checkpoints")
    before = folder.stat()
    write_model(server.models, "checkpoints/new.safetensors")
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert server.get("/models/checkpoints").json() == [CHECKPOINT]
    assert len(server.get("/experiment/models/checkpoints").json()) == 2


def test_only_model_files_are_listed(server: RunningServer) -> None:
    for name in ("a.part", "b.tmp", "notes.txt", ".hidden.safetensors", "c.ckpt"):
        write_model(server.models, f"loras/{name}", b"x")
    assert server.get("/models/loras").json() == [".hidden.safetensors", "c.ckpt"]


def test_a_missing_model_folder_breaks_only_its_kind_until_it_is_back(server: RunningServer, tmp_path: Path) -> None:
    server.get("/models/checkpoints")
    (server.models / "checkpoints").rename(tmp_path / "away")
    assert server.get("/models/checkpoints").status_code == 500
    everything = server.get("/object_info").json()
    assert "CheckpointLoaderSimple" not in everything
    assert "KSampler" in everything
    (tmp_path / "away").rename(server.models / "checkpoints")
    assert server.get("/models/checkpoints").json() == [CHECKPOINT]


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_model_file_passes_validation_and_fails_when_loaded(server: RunningServer, content: bytes) -> None:
    write_model(server.models, "checkpoints/broken.safetensors", content)
    finished = run(server, text_to_image(_4_ckpt_name="broken.safetensors"))
    assert finished["status"] == "failed"
    error = finished["execution_error"]
    assert error["exception_type"] == "safetensors_rust.SafetensorError"
    assert error["node_type"] == "CheckpointLoaderSimple"


def test_extra_model_paths_are_read(tmp_path: Path) -> None:
    write_model(tmp_path / "more", "ckpt/extra.safetensors")
    config = tmp_path / "extra.yaml"
    config.write_text(
        f"team:\n  base_path: {tmp_path / 'more'}\n  checkpoints: ckpt\n  odd_kind: |\n    one\n    two\n"
    )
    with comfyui(tmp_path, "--extra-model-paths-config", str(config)) as server:
        assert server.get("/models/checkpoints").json() == ["extra.safetensors"]
        assert "odd_kind" in server.get("/models").json()


# Running --------------------------------------------------------------------------------------------------------------


def test_text_becomes_a_picture_with_its_recipe_in_it(server: RunningServer) -> None:
    graph = text_to_image(_6_text="ein Fuchs", _3_seed=7)
    [item] = run(server, graph)["outputs"]["9"]["images"]
    image = Image.open(server.output / item["filename"])
    assert image.size == (128, 64)
    assert json.loads(image.text["prompt"]) == graph  # type: ignore[attr-defined]
    other = run(server, text_to_image(_6_text="ein Fuchs", _3_seed=8))["outputs"]["9"]["images"][0]
    assert Image.open(server.output / other["filename"]).tobytes() != image.tobytes()


def test_metadata_can_be_left_out_and_caching_switched_off(tmp_path: Path) -> None:
    write_model(tmp_path / "models", f"checkpoints/{CHECKPOINT}")
    with comfyui(tmp_path, "--disable-metadata", "--cache-none") as server:
        first, second = (run(server, text_to_image())["outputs"]["9"]["images"][0]["filename"] for _ in range(2))
        assert first != second
        assert not Image.open(server.output / first).text  # type: ignore[attr-defined]


def test_lower_numbers_run_first_and_front_before_all(server: RunningServer) -> None:
    blocker = submit(server, sleeping(0.4, 0))
    until(lambda: job(server, blocker)["status"] == "in_progress")
    late = submit(server, text_to_image(_3_seed=1), number=9)
    early = submit(server, text_to_image(_3_seed=2), number=8)
    first = submit(server, text_to_image(_3_seed=3), front=True)
    until(lambda: job(server, late)["status"] == "completed")
    starts = {name: job(server, name)["execution_start_time"] for name in (late, early, first)}
    assert starts[first] <= starts[early] <= starts[late]
    assert list(server.get("/history").json()) == [blocker, first, early, late]


def test_the_same_id_and_number_while_pending_is_500_and_queued_all_the_same(server: RunningServer) -> None:
    submit(server, sleeping(0.5, 5))
    body = {"prompt": sleeping(0, 0), "prompt_id": str(uuid.uuid4()), "number": 5}
    assert server.post("/prompt", json=body).status_code == 200
    assert server.post("/prompt", json=body).status_code == 500
    pending = server.get("/queue").json()["queue_pending"]
    assert [item[1] for item in pending] == [body["prompt_id"]] * 2


def test_an_interrupt_by_id_takes_effect_at_the_next_tick(server: RunningServer) -> None:
    prompt_id = submit(server, sleeping(20, 1000))
    until(lambda: job(server, prompt_id)["status"] == "in_progress")
    server.post("/interrupt", json={"prompt_id": str(uuid.uuid4())})
    time.sleep(0.1)
    assert job(server, prompt_id)["status"] == "in_progress"
    assert server.post(f"/api/jobs/{prompt_id}/cancel").json() == {"cancelled": True}
    until(lambda: job(server, prompt_id)["status"] == "cancelled", seconds=2)
    status = server.get(f"/history/{prompt_id}").json()[prompt_id]["status"]
    assert status["status_str"] == "error"
    assert status["messages"][-1][0] == "execution_interrupted"


def test_a_node_without_ticks_runs_to_its_end_before_the_interrupt(server: RunningServer) -> None:
    prompt_id = submit(server, sleeping(0.5, 0))
    until(lambda: job(server, prompt_id)["status"] == "in_progress")
    server.post("/interrupt")
    until(lambda: job(server, prompt_id)["status"] == "cancelled")
    times = job(server, prompt_id)
    assert times["execution_end_time"] - times["execution_start_time"] >= 490


def test_a_cancelled_pending_job_leaves_no_trace(server: RunningServer) -> None:
    submit(server, sleeping(0.5, 5))
    pending = submit(server, text_to_image())
    assert job(server, pending)["status"] == "pending"
    assert server.post(f"/api/jobs/{pending}/cancel").json() == {"cancelled": True}
    assert server.get(f"/api/jobs/{pending}").status_code == 404


def test_without_a_client_id_only_progress_is_sent_to_everybody(server: RunningServer) -> None:
    socket = listen(server, "onlooker")
    submit(server, text_to_image())
    types = set()
    socket.settimeout(0.5)
    try:
        while True:
            types.add(json.loads(socket.recv())["type"])
    except websocket.WebSocketTimeoutException:
        assert types == {"status", "progress", "progress_state"}


@pytest.mark.parametrize("metadata", [False, True])
def test_previews_come_as_binary_frames(tmp_path: Path, metadata: bool) -> None:
    write_model(tmp_path / "models", f"checkpoints/{CHECKPOINT}")
    with comfyui(tmp_path, "--preview-method", "auto") as server:
        socket = listen(server, "me", metadata=metadata)
        prompt_id = submit(server, text_to_image(_3_steps=2), client_id="me")
        [frame, _] = [frame for frame in frames_until(socket, "execution_success") if isinstance(frame, bytes)]
    kind, second = struct.unpack(">II", frame[:8])
    if metadata:
        assert kind == 4
        details = json.loads(frame[8 : 8 + second])
        assert (details["node_id"], details["prompt_id"]) == ("3", prompt_id)
        image = frame[8 + second :]
    else:
        assert (kind, second) == (1, 1)
        image = frame[8:]
    assert Image.open(io.BytesIO(image)).format == "JPEG"


def test_a_reconnecting_client_receives_the_running_node_and_nothing_after_the_old_socket_closes(
    server: RunningServer,
) -> None:
    old = listen(server, "me")
    prompt_id = submit(server, sleeping(1.0, 20), client_id="me")
    frames_until(old, "executing")
    new = listen(server, "me")
    received = json.loads(new.recv())
    assert received == {"type": "executing", "data": {"node": "1"}}
    frames_until(new, "progress")
    old.close()
    until(lambda: job(server, prompt_id)["status"] == "completed")
    new.settimeout(0.3)
    kinds = []
    try:
        while True:
            kinds.append(json.loads(new.recv())["type"])
    except websocket.WebSocketTimeoutException:
        assert "execution_success" not in kinds


# Media ----------------------------------------------------------------------------------------------------------------


FRAMES = {"class_type": "EmptyImage", "inputs": {"width": 65, "height": 48, "batch_size": 5, "color": 255}}


def save_video() -> dict[str, Any]:
    save = {"video": ["2", 0], "filename_prefix": "video/clip", "format": "auto", "codec": "auto"}
    return {
        "1": FRAMES,
        "2": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 10}},
        "9": {"class_type": "SaveVideo", "inputs": save},
    }


def save_webm() -> dict[str, Any]:
    save = {"images": ["1", 0], "filename_prefix": "clip", "codec": "vp9", "fps": 10, "crf": 32}
    return {"1": FRAMES, "9": {"class_type": "SaveWEBM", "inputs": save}}


@pytest.mark.parametrize(("graph", "suffix"), [(save_video(), ".mp4"), (save_webm(), ".webm")], ids=["mp4", "webm"])
def test_a_video_can_be_decoded_and_holds_its_prompt(server: RunningServer, graph: dict[str, Any], suffix: str) -> None:
    output = run(server, graph)["outputs"]["9"]
    assert output["animated"] == [True]
    [item] = output["images"]
    path = server.output / item["subfolder"] / item["filename"]
    assert path.suffix == suffix
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 5
        metadata = {key.lower(): value for key, value in container.metadata.items()}
    assert json.loads(metadata["prompt"]) == graph


def test_audio_latents_and_text_have_kinds_of_their_own(server: RunningServer) -> None:
    graph = {
        "1": {"class_type": "EmptyAudio", "inputs": {"duration": 0.2, "sample_rate": 8000, "channels": 1}},
        "2": {"class_type": "SaveAudio", "inputs": {"audio": ["1", 0], "filename_prefix": "audio/sound"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {"class_type": "SaveLatent", "inputs": {"samples": ["3", 0], "filename_prefix": "latents/l"}},
        "5": {"class_type": "PreviewAny", "inputs": {"source": "some text"}},
    }
    outputs = run(server, graph)["outputs"]
    [sound] = outputs["2"]["audio"]
    with av.open(str(server.output / sound["subfolder"] / sound["filename"])) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == 1600
    assert outputs["4"]["latents"][0]["filename"] == "l_00001_.latent"
    assert outputs["5"]["text"] == ["some text"]


def test_a_prefix_cannot_leave_the_output_folder(server: RunningServer) -> None:
    finished = run(server, text_to_image(_9_filename_prefix="../../escape"))
    assert finished["status"] == "failed"
    assert "outside the output folder" in finished["execution_error"]["exception_message"]


# The process ----------------------------------------------------------------------------------------------------------


def start(home: Path, *flags: str) -> tuple[subprocess.Popen[str], str]:
    (home / "custom_nodes").mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "comfyeks_local.comfyui", "--base-directory", home, "--port", "0", *flags],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    return process, process.stderr.readline()


@pytest.mark.parametrize(
    "flags", [["--no-such-flag"], ["--models-directory", "/no/such/folder"], ["--preview-method", "best"]]
)
def test_flags_that_the_server_does_not_have_are_refused(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parser().parse_args(flags)
    assert exit_.value.code == 2


def test_the_flags_of_a_pod_are_accepted() -> None:
    flags = (
        "--listen 0.0.0.0 --port 8848 --database-url sqlite:///:memory: --disable-all-custom-nodes "
        "--preview-method auto --cache-lru 10 --reserve-vram 1.5 --disable-api-nodes --log-stdout"
    )
    options = parser().parse_args(flags.split())
    assert (options.listen, options.port) == ("0.0.0.0", 8848)


@pytest.mark.local
def test_sigterm_ends_at_once_and_sigint_cleans_up(tmp_path: Path) -> None:
    for number, code, cleaned in ((signal.SIGTERM, -signal.SIGTERM, False), (signal.SIGINT, 0, True)):
        process, line = start(tmp_path, "--database-url", "sqlite:///:memory:")
        assert "To see the GUI go to: http://127.0.0.1:" in line
        (tmp_path / "temp").mkdir(exist_ok=True)
        process.send_signal(number)
        assert process.wait(10) == code
        assert (tmp_path / "temp").exists() is not cleaned


@pytest.mark.local
def test_two_servers_cannot_share_one_database(tmp_path: Path) -> None:
    first, _ = start(tmp_path)
    try:
        second, line = start(tmp_path)
        assert second.wait(10) == 1
        assert "database" in line
    finally:
        first.kill()
        first.wait(10)
