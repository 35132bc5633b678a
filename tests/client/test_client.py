"""ComfyClient against a server."""

from __future__ import annotations

import io
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfyeks.client import (
    ComfyClient,
    ExecutionError,
    JobInterruptedError,
    JobLostError,
    JobTimeoutError,
    MissingResultError,
    Progress,
    RejectedError,
    UnreachableError,
)
from comfyeks.errors import UserError
from comfyeks_local.processes import wait_until
from tests.client.conftest import fast_client, jobs, picture, text_to_image
from tests.support.comfyui import RunningServer, Server, comfyui, empty_image
from tests.support.proxy import proxying
from tests.support.safetensors import write_model


def test_a_workflow_becomes_a_picture_on_this_disk(client: ComfyClient, tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = client.run(picture(), timeout=30, on_progress=seen.append)
    [saved] = client.save(result, tmp_path)
    assert Image.open(saved.path).size == (128, 64)
    assert saved.bytes == saved.path.stat().st_size
    assert [node for node in dict.fromkeys(p.node for p in seen) if node] == ["Canvas", "Scale", "Save"]
    assert seen[-1].done == 3


def test_the_steps_of_a_sampler_are_progress(stand_in: RunningServer) -> None:
    seen: list[Progress] = []
    fast_client(stand_in.url).run(text_to_image(seed=1), timeout=30, on_progress=seen.append)
    assert [node for node in dict.fromkeys(p.node for p in seen) if node] == [
        "Checkpoint", "Prompt", "Negative prompt", "Size", "Sampler", "Decode", "Save",
    ]  # fmt: skip
    assert (3, 3) in {(p.value, p.maximum) for p in seen if p.node == "Sampler"}
    assert seen[-1].done == 7


def test_a_cached_workflow_gives_its_old_result(client: ComfyClient, tmp_path: Path) -> None:
    graph = picture()
    first = client.run(graph)
    again = client.run(graph)
    assert again.files == first.files
    assert set(again.cached) == set(graph)
    client.save(first, tmp_path)
    client.save(again, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cached_result_whose_file_is_gone_is_an_error(stand_in: RunningServer, tmp_path: Path) -> None:
    client, graph = fast_client(stand_in.url), picture()
    [file] = client.run(graph).files
    (stand_in.output / file.filename).unlink()
    result = client.run(graph)
    with pytest.raises(MissingResultError, match=rf"{file.filename} .* is not on the server"):
        client.save(result, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_kind_of_result_is_saved(client: ComfyClient, tmp_path: Path) -> None:
    folder = f"kinds-{uuid.uuid4().hex[:8]}"
    graph = {
        "1": empty_image(32, batch=3),
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": f"{folder}/er/pic"}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "4": {"class_type": "SaveWEBM", "inputs": {"images": ["1", 0], "filename_prefix": f"{folder}/clip",
                                                   "codec": "vp9", "fps": 8, "crf": 40}},
        "5": {"class_type": "EmptyAudio", "inputs": {"duration": 0.1, "sample_rate": 8000, "channels": 1}},
        "6": {"class_type": "SaveAudio", "inputs": {"audio": ["5", 0], "filename_prefix": f"{folder}/sound"}},
        "7": {"class_type": "PreviewAny", "_meta": {"title": "Cap/tion"}, "inputs": {"source": "a red fox"}},
        "8": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
        "9": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "10": {"class_type": "SaveLatent", "inputs": {"samples": ["9", 0], "filename_prefix": f"{folder}/latent"}},
        "11": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8}},
        "12": {"class_type": "SaveVideo", "inputs": {"video": ["11", 0], "filename_prefix": f"{folder}/film",
                                                     "format": "auto", "codec": "auto"}},
    }  # fmt: skip
    saved = client.save(client.run(graph, timeout=60), tmp_path, graph)
    names = [str(file.path.relative_to(tmp_path)) for file in saved]
    pictures = [name for name in names if name.startswith(f"{folder}/er/")]
    assert pictures == [f"{folder}/er/pic_0000{n}_.png" for n in (1, 2, 3)]
    assert sum(name.startswith("ComfyUI_temp_") for name in names) == 3
    others = ("clip_00001_.webm", "sound_00001.flac", "latent_00001_.latent", "film_00001_.mp4")
    assert {f"{folder}/{name}" for name in others} <= set(names)
    [text] = [file.path for file in saved if file.kind == "text"]
    assert text.name.startswith("Cap_tion-text-")
    assert text.read_text() == "a red fox"
    sent = [file.path for file in saved if file.node_id == "8"]
    assert [Image.open(path).format for path in sent] == ["PNG"] * 3


def test_lost_images_that_come_only_over_the_websocket_are_an_error(server: Server) -> None:
    graph = {"1": empty_image(8), "8": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}
    with proxying(server.url) as proxy:
        proxy.deaf = True
        with pytest.raises(MissingResultError, match="over the websocket only"):
            fast_client(proxy.url).run(graph)


def test_images_over_the_websocket_may_come_after_the_job_is_done(server: Server, tmp_path: Path) -> None:
    graph = {"1": empty_image(8), "8": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}
    with proxying(server.url) as proxy:
        proxy.delay = 0.8
        client = fast_client(proxy.url)
        [saved] = client.save(client.run(graph), tmp_path, graph)
    assert Image.open(saved.path).size == (8, 8)


def test_two_clients_at_once_get_their_own_results(server: Server, tmp_path: Path) -> None:
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        own, graph = fast_client(server.url), picture()
        result = own.run(graph, timeout=30, on_progress=lambda progress: None)
        made = result.raw["workflow"]["prompt"]["1"]["inputs"]["color"]
        results[number] = (own.save(result, tmp_path / str(number)), made == graph["1"]["inputs"]["color"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [own for _, own in results.values()] == [True] * 4
    assert len({saved[0].path.read_bytes() for saved, _ in results.values()}) == 4


# Rejections and failures ----------------------------------------------------------------------------------------------


def test_a_missing_model_is_rejected_with_the_servers_reason_and_choices(client: ComfyClient) -> None:
    graph = text_to_image()
    graph["4"]["inputs"]["ckpt_name"] = "absent.safetensors"
    with pytest.raises(RejectedError) as error:
        client.run(graph)
    present = client.model_files("checkpoints")
    assert 'node 4 "Checkpoint" (CheckpointLoaderSimple)' in str(error.value)
    assert f"'absent.safetensors' is not on this server; it has: {', '.join(present) or 'none'}" in str(error.value)
    assert error.value.node_errors["4"]["errors"][0]["type"] == "value_not_in_list"


def test_an_unknown_node_is_rejected_with_its_name(client: ComfyClient) -> None:
    with pytest.raises(RejectedError, match="Node 'Mystery' not found"):
        client.run({**picture(), "99": {"class_type": "Mystery", "inputs": {}}})


def test_a_workflow_of_which_a_part_cannot_run_is_rejected_and_cancelled(client: ComfyClient, server: Server) -> None:
    graph = {**server.slow(20), "8": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}
    with pytest.raises(RejectedError, match=r"node 8 \(SaveImage\): input images is required and missing"):
        client.run(graph)
    assert jobs(server, "pending", "in_progress") == []


def test_an_error_in_a_node_is_reported_with_its_type_and_message(client: ComfyClient, server: Server) -> None:
    answer = server.post("/upload/image", files={"image": (f"broken-{uuid.uuid4().hex[:8]}.png", b"no image")})
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": answer.json()["name"]}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    with pytest.raises(ExecutionError) as error:
        client.run(graph)
    assert str(error.value).startswith("node 1 (LoadImage) failed: ")
    assert error.value.details["exception_type"] in str(error.value)
    assert error.value.details["traceback"]


def test_a_model_that_cannot_be_loaded_is_reported(stand_in: RunningServer) -> None:
    write_model(stand_in.models, "checkpoints/broken.safetensors", b"")
    graph = text_to_image()
    graph["4"]["inputs"]["ckpt_name"] = "broken.safetensors"
    with pytest.raises(ExecutionError) as error:
        fast_client(stand_in.url).run(graph)
    (stand_in.models / "checkpoints/broken.safetensors").unlink()
    assert "(CheckpointLoaderSimple) failed: safetensors_rust.SafetensorError: " in str(error.value)
    assert "header too small" in str(error.value)


def test_an_interrupt_by_somebody_else_is_reported_as_one(client: ComfyClient, server: Server) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.node_id:
            server.post("/interrupt")

    with pytest.raises(
        JobInterruptedError, match=r"interrupted on the server at node \w+ \(\w+\), not by this program"
    ):
        client.run(server.slow(20), on_progress=interrupt)


def test_a_time_limit_cancels_the_job_on_the_server(client: ComfyClient, server: Server) -> None:
    with pytest.raises(JobTimeoutError, match=r"timed out after 0.4 s; the job was cancelled on the server") as error:
        client.run(server.slow(20), timeout=0.4)
    assert error.value.exit_code == 124
    assert jobs(server, "pending", "in_progress") == []


def test_a_time_limit_removes_a_pending_job_from_the_queue(client: ComfyClient, server: Server) -> None:
    blocker = fast_client(server.url).submit(server.slow(20))
    with pytest.raises(JobTimeoutError):
        client.run(picture(), timeout=0.3)
    assert [job["id"] for job in jobs(server, "pending", "in_progress")] == [blocker]
    client.cancel(blocker)


def test_an_exception_in_the_reporter_cancels_the_job(client: ComfyClient, server: Server) -> None:
    def fail(progress: Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as error:
        client.run(server.slow(20), on_progress=fail)
    assert error.value.__notes__ == ["the job was cancelled on the server"]
    assert jobs(server, "pending", "in_progress") == []


def test_a_job_that_somebody_deletes_from_the_queue_is_lost(client: ComfyClient, server: Server) -> None:
    blocker = fast_client(server.url).submit(server.slow(20))

    def clear_once_it_is_queued() -> None:
        wait_until("the job in the queue", lambda: bool(jobs(server, "pending")), 10, every=0.02)
        server.post("/queue", json={"clear": True})

    other = threading.Thread(target=clear_once_it_is_queued)
    other.start()
    with pytest.raises(JobLostError, match="no longer knows job"):
        client.run(picture())
    other.join()
    client.cancel(blocker)


def test_an_address_without_a_server_is_reported_quickly() -> None:
    started = time.monotonic()
    with pytest.raises(UnreachableError, match=r"no connection to http://127.0.0.1:9: Connection refused"):
        fast_client("http://127.0.0.1:9").run(picture())
    assert time.monotonic() - started < 5


def test_a_server_that_is_not_comfyui_is_reported(tmp_path: Path) -> None:
    from aiohttp import web

    from tests.support.comfyui import serving

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="<html>hello</html>", content_type="text/html")

    async def sign_in(request: web.Request) -> web.Response:
        raise web.HTTPFound("https://login.example.com/oauth")

    for handler, message in ((hello, "does not answer like ComfyUI"), (sign_in, "wants a sign-in .*login.example.com")):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        with serving(app) as url, pytest.raises(Exception, match=message):
            fast_client(url).run(picture())


@pytest.mark.parametrize("url", ["127.0.0.1:8188", "ftp://x", "http://"])
def test_an_address_without_scheme_or_host_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="must be an http"):
        ComfyClient(url)


# Uploads --------------------------------------------------------------------------------------------------------------


def test_an_upload_never_replaces_another_file_of_its_name(client: ComfyClient, server: Server, tmp_path: Path) -> None:
    names = []
    for folder, color in (("a", "red"), ("b", "blue"), ("c", "red")):
        path = tmp_path / folder / "bild 中.png"
        path.parent.mkdir()
        Image.new("RGB", (4, 4), color).save(path)
        names.append(client.upload(path))
    assert names[0] == names[2] != names[1]
    assert all(name.endswith("/bild 中.png") for name in names)
    subfolder, _, file = names[1].rpartition("/")
    stored = server.get("/view", params={"type": "input", "subfolder": subfolder, "filename": file}).content
    assert Image.open(io.BytesIO(stored)).getpixel((0, 0)) == (0, 0, 255)


def test_a_file_larger_than_the_server_accepts_is_refused(tmp_path: Path) -> None:
    big = tmp_path / "big.png"
    big.write_bytes(bytes(300_000))
    with (
        comfyui(tmp_path / "home", "--max-upload-size", "0.1") as small,
        pytest.raises(UserError, match="max-upload-size"),
    ):
        fast_client(small.url).upload(big)
