"""ComfyUI's API as measured, for the stand-in and for any real server (COMFYUI_URL).

Only graph nodes that need neither a model nor a GPU are run, so that a real server on any machine can pass. Tests with
the stand-in's own slow node are in test_standin.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import requests
import websocket
from PIL import Image

from tests.support.comfyui import Server, new_colour


def image_graph(*, color: int | None = None, prefix: str = "contract", **overrides: Any) -> dict[str, Any]:
    size = {"width": 64, "height": 64, "batch_size": 1, "color": new_colour() if color is None else color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": {**size, **overrides}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def submit(server: Server, graph: Any, **body: Any) -> str:
    answer = server.post("/prompt", json={"prompt": graph, **body})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["prompt_id"])


def refused(server: Server, graph: Any, **body: Any) -> dict[str, Any]:
    answer = server.post("/prompt", json={"prompt": graph, **body})
    assert answer.status_code == 400, answer.text
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    return dict(answer.json())


def finished(server: Server, prompt_id: str) -> dict[str, Any]:
    for _ in range(600):
        job = server.get(f"/api/jobs/{prompt_id}").json()
        if job["status"] not in ("pending", "in_progress"):
            return dict(job)
        time.sleep(0.02)
    raise AssertionError(f"job {prompt_id} did not end")


def run(server: Server, graph: Any, **body: Any) -> dict[str, Any]:
    return finished(server, submit(server, graph, **body))


@pytest.fixture
def listen(server: Server) -> Any:
    sockets: list[websocket.WebSocket] = []

    def connect(client_id: str | None = None, timeout: float = 10) -> websocket.WebSocket:
        query = f"?clientId={client_id}" if client_id else ""
        socket = websocket.create_connection(server.ws_url + query, timeout=timeout, suppress_origin=True)
        sockets.append(socket)
        return socket

    yield connect
    for socket in sockets:
        socket.close()


def events_until_end(socket: websocket.WebSocket, prompt_id: str) -> list[dict[str, Any]]:
    events = []
    while True:
        frame = socket.recv()
        if isinstance(frame, bytes):
            continue
        event = json.loads(frame)
        events.append(event)
        data = event["data"]
        if event["type"] == "executing" and data["node"] is None and data["prompt_id"] == prompt_id:
            return events


# Routes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/prompt", "/queue", "/system_stats", "/features", "/models", "/history"])
def test_every_route_exists_under_api_too(server: Server, path: str) -> None:
    assert server.get(path).status_code == 200
    assert server.get(f"/api{path}").status_code == 200


def test_jobs_exist_under_api_only(server: Server) -> None:
    assert server.get("/jobs").status_code == 404
    assert server.get("/api/jobs").status_code == 200


def test_a_get_on_a_post_route_is_404_and_a_post_on_a_get_route_405(server: Server) -> None:
    assert server.get("/interrupt").status_code == 404
    assert server.post("/system_stats").status_code == 405
    assert server.get("/no-such-route").status_code == 404
    assert server.post("/no-such-route").status_code == 405


@pytest.mark.parametrize("body", [b"", b"{", b'{"prompt": 5}', b'{"prompt": [1]}'])
def test_a_malformed_body_is_a_500_in_plain_text(server: Server, body: bytes) -> None:
    answer = server.post("/prompt", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 500
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_a_page_of_another_site_is_refused(server: Server) -> None:
    assert server.get("/prompt", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    if server.stand_in:  # needs a loopback address
        assert server.get("/prompt", headers={"Origin": "http://evil.example"}).status_code == 403
        assert server.get("/prompt", headers={"Origin": server.url}).status_code == 200


# Submitting -----------------------------------------------------------------------------------------------------------


def test_a_good_prompt_gets_an_id_and_a_growing_number(server: Server) -> None:
    first = server.post("/prompt", json={"prompt": image_graph()}).json()
    second = server.post("/prompt", json={"prompt": image_graph()}).json()
    assert set(first) == {"prompt_id", "number", "node_errors"}
    assert first["node_errors"] == {}
    assert second["number"] == first["number"] + 1
    assert str(uuid.UUID(first["prompt_id"])) == first["prompt_id"]


def test_front_gives_a_negative_number(server: Server) -> None:
    server.post("/prompt", json={"prompt": image_graph()})
    assert server.post("/prompt", json={"prompt": image_graph(), "front": True}).json()["number"] < 0


def test_the_clients_own_id_is_kept(server: Server) -> None:
    mine = str(uuid.uuid4())
    assert submit(server, image_graph(), prompt_id=mine) == mine
    assert finished(server, mine)["id"] == mine


@pytest.mark.parametrize("bad", ["abc", "550E8400-E29B-41D4-A716-446655440000", "550e8400e29b41d4a716446655440000"])
def test_an_id_that_is_not_a_canonical_uuid_is_refused(server: Server, bad: str) -> None:
    assert refused(server, image_graph(), prompt_id=bad)["error"]["type"] == "invalid_prompt_id"


def test_a_body_without_prompt_is_refused(server: Server) -> None:
    answer = server.post("/prompt", json={})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "no_prompt"
    assert set(answer.json()["error"]) == {"type", "message", "details", "extra_info"}


@pytest.mark.parametrize("graph", [{}, {"1": image_graph()["1"]}], ids=["empty", "no output node"])
def test_a_graph_without_outputs_is_refused(server: Server, graph: dict[str, Any]) -> None:
    assert refused(server, graph)["error"]["type"] == "prompt_no_outputs"


def test_an_unknown_class_fails_the_whole_prompt_even_where_nothing_uses_it(server: Server) -> None:
    graph = {**image_graph(), "7": {"class_type": "NoSuchNode", "inputs": {}, "_meta": {"title": "Mystery"}}}
    error = refused(server, graph)["error"]
    assert error["type"] == "missing_node_type"
    assert error["extra_info"] == {"node_id": "7", "class_type": "NoSuchNode", "node_title": "Mystery"}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"width": 0}, "value_smaller_than_min"),
        ({"width": 10**6}, "value_bigger_than_max"),
        ({"width": "wide"}, "invalid_input_type"),
        ({"width": ["1"]}, "bad_linked_input"),
        ({"width": ["3", 0]}, "return_type_mismatch"),
    ],
)
def test_a_bad_value_is_reported_per_node(server: Server, change: dict[str, Any], kind: str) -> None:
    graph = {**image_graph(**change), "3": image_graph()["1"]}
    body = refused(server, graph)
    assert body["error"]["type"] == "prompt_outputs_failed_validation"
    entry = body["node_errors"]["1"]
    assert entry["class_type"] == "EmptyImage"
    assert entry["dependent_outputs"] == ["2"]
    [problem] = entry["errors"]
    assert problem["type"] == kind
    assert set(problem) == {"type", "message", "details", "extra_info"}
    assert problem["extra_info"]["input_name"] == "width"


def test_a_missing_input_is_reported(server: Server) -> None:
    graph = image_graph()
    del graph["1"]["inputs"]["width"]
    [problem] = refused(server, graph)["node_errors"]["1"]["errors"]
    assert problem["type"] == "required_input_missing"


def test_a_missing_model_is_value_not_in_list_with_the_choices(server: Server) -> None:
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "no-such-model.safetensors"}},
        "2": {"class_type": "EmptyImage", "inputs": image_graph()["1"]["inputs"]},
        "3": {"class_type": "VAEEncode", "inputs": {"pixels": ["2", 0], "vae": ["1", 2]}},
        "4": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
    }
    [problem] = refused(server, graph)["node_errors"]["1"]["errors"]
    assert problem["type"] == "value_not_in_list"
    assert problem["message"] == "Value not in list"
    assert problem["extra_info"]["received_value"] == "no-such-model.safetensors"
    names = server.get("/models/checkpoints").json()
    if len(names) <= 20:
        assert problem["details"] == f"ckpt_name: 'no-such-model.safetensors' not in {names}"


def test_a_dangling_link_is_an_exception_with_the_servers_traceback(server: Server) -> None:
    graph = image_graph()
    graph["2"]["inputs"]["images"] = ["99", 0]
    [problem] = refused(server, graph)["node_errors"]["2"]["errors"]
    assert problem["type"] == "exception_during_validation"
    assert problem["extra_info"]["traceback"]


def test_a_cycle_is_refused(server: Server) -> None:
    scale = {"upscale_method": "bilinear", "width": 8, "height": 8, "crop": "disabled"}
    graph = {
        "1": {"class_type": "ImageScale", "inputs": {"image": ["2", 0], **scale}},
        "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], **scale}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    types = {p["type"] for e in refused(server, graph)["node_errors"].values() for p in e["errors"]}
    assert "dependency_cycle" in types


def test_outputs_that_cannot_run_are_skipped_with_node_errors_on_a_200(server: Server) -> None:
    graph = {**image_graph(), "8": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}
    answer = server.post("/prompt", json={"prompt": graph})
    assert answer.status_code == 200
    assert list(answer.json()["node_errors"]) == ["8"]
    assert list(finished(server, answer.json()["prompt_id"])["outputs"]) == ["2"]


def test_only_the_requested_outputs_run(server: Server) -> None:
    graph = {**image_graph(), "8": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    assert list(run(server, graph, partial_execution_targets=["8"])["outputs"]) == ["8"]


def test_secrets_in_extra_data_are_not_echoed(server: Server) -> None:
    job = run(server, image_graph(), extra_data={"api_key_comfy_org": "s3cret", "mine": 1})
    extra_data = job["workflow"]["extra_data"]
    assert "api_key_comfy_org" not in extra_data
    assert extra_data["mine"] == 1
    assert isinstance(extra_data["create_time"], int)


# Results --------------------------------------------------------------------------------------------------------------


def test_a_finished_job_has_its_outputs_in_history_and_jobs(server: Server) -> None:
    workflow_id = str(uuid.uuid4())
    extra_data = {"extra_pnginfo": {"workflow": {"id": workflow_id}}}
    job = run(server, image_graph(prefix="contract/deep"), extra_data=extra_data)
    [item] = job["outputs"]["2"]["images"]
    assert item["subfolder"] == "contract"
    assert item["type"] == "output"
    assert item["filename"].startswith("deep_")
    assert job["status"] == "completed"
    assert job["outputs_count"] == 1
    assert job["workflow_id"] == workflow_id
    assert job["execution_end_time"] >= job["execution_start_time"]
    entry = server.get(f"/history/{job['id']}").json()[job["id"]]
    assert entry["outputs"] == job["outputs"]
    assert entry["prompt"][1] == job["id"]
    assert entry["status"]["status_str"] == "success"
    assert entry["status"]["completed"] is True
    assert [m[0] for m in entry["status"]["messages"]] == ["execution_start", "execution_cached", "execution_success"]
    assert entry["meta"]["2"]["node_id"] == "2"


def test_unknown_jobs_are_empty_in_history_and_404_in_jobs(server: Server) -> None:
    unknown = str(uuid.uuid4())
    assert server.get(f"/history/{unknown}").json() == {}
    answer = server.get(f"/api/jobs/{unknown}")
    assert answer.status_code == 404
    assert answer.json() == {"error": "Job not found"}


def test_history_can_be_paged_and_forgotten(server: Server) -> None:
    jobs = [run(server, image_graph())["id"] for _ in range(3)]
    assert list(server.get("/history?max_items=2").json()) == jobs[-2:]
    server.post("/history", json={"delete": [jobs[0]]})
    assert jobs[0] not in server.get("/history").json()
    assert server.get("/history?max_items=many").status_code == 500


def test_jobs_are_filtered_sorted_and_paged(server: Server) -> None:
    for _ in range(3):
        run(server, image_graph())
    page = server.get("/api/jobs?status=completed&limit=2&sort_order=asc").json()
    assert len(page["jobs"]) == 2
    assert page["pagination"]["has_more"] is True
    times = [job["create_time"] for job in page["jobs"]]
    assert times == sorted(times)
    for query in ("status=nonsense", "sort_by=name", "sort_order=up", "limit=x"):
        answer = server.get(f"/api/jobs?{query}")
        assert answer.status_code == 400
        assert isinstance(answer.json()["error"], str)


def test_the_png_holds_the_prompt_and_the_extra_metadata(server: Server) -> None:
    graph = image_graph()
    job = run(server, graph, extra_data={"extra_pnginfo": {"workflow": {"id": "w", "nodes": []}}})
    image = Image.open(io.BytesIO(view(server, job).content))
    assert image.size == (64, 64)
    assert json.loads(image.text["prompt"]) == graph  # type: ignore[attr-defined]
    assert json.loads(image.text["workflow"])["id"] == "w"  # type: ignore[attr-defined]


def view(server: Server, job: dict[str, Any], **options: Any) -> requests.Response:
    [item] = job["outputs"]["2"]["images"]
    return server.get("/view", params=item, **options)


def test_save_image_numbers_its_files_by_the_folder(server: Server) -> None:
    prefix = f"n{uuid.uuid4().hex[:8]}/pic"
    names = [run(server, image_graph(prefix=prefix))["outputs"]["2"]["images"][0]["filename"] for _ in range(2)]
    assert names == ["pic_00001_.png", "pic_00002_.png"]


def test_the_same_graph_again_is_cached_and_names_the_old_file(server: Server, listen: Callable[..., Any]) -> None:
    graph = image_graph()
    first = run(server, graph)
    client_id = uuid.uuid4().hex
    socket = listen(client_id)
    again = submit(server, graph, client_id=client_id)
    events = events_until_end(socket, again)
    assert finished(server, again)["outputs"] == first["outputs"]
    [cached] = [event["data"]["nodes"] for event in events if event["type"] == "execution_cached"]
    assert set(cached) == {"1", "2"}
    types = [event["type"] for event in events]
    assert "executed" in types
    assert [e for e in events if e["type"] == "executing" and e["data"]["node"] is not None] == []


def test_a_preview_is_a_temp_file(server: Server) -> None:
    graph = image_graph()
    graph["2"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    job = run(server, graph)
    assert job["outputs"]["2"]["images"][0]["type"] == "temp"
    assert view(server, job).status_code == 200


def test_animations_and_videos_are_listed_as_images_with_a_flag(server: Server) -> None:
    graph = image_graph(batch_size=3)
    graph["2"] = {
        "class_type": "SaveAnimatedWEBP",
        "inputs": {"images": ["1", 0], "filename_prefix": "contract", "fps": 6.0, "lossless": False, "quality": 50,
                   "method": "fastest"},
    }  # fmt: skip
    output = run(server, graph)["outputs"]["2"]
    assert output["animated"] == [True]
    assert output["images"][0]["filename"].endswith(".webp")


# Files ----------------------------------------------------------------------------------------------------------------


def test_view_serves_ranges_and_etags(server: Server) -> None:
    job = run(server, image_graph())
    whole = view(server, job)
    assert whole.status_code == 200
    assert whole.headers["Content-Type"] == "image/png"
    part = view(server, job, headers={"Range": "bytes=0-7"})
    assert part.status_code == 206
    assert part.content == whole.content[:8]
    assert view(server, job, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
    [item] = job["outputs"]["2"]["images"]
    assert requests.head(f"{server.url}/view", params=item, timeout=10).status_code == 200


def test_view_makes_previews_and_channels(server: Server) -> None:
    [item] = run(server, image_graph())["outputs"]["2"]["images"]
    for parameters, image_format in (
        ({"preview": "webp;50"}, "WEBP"),
        ({"preview": "jpeg"}, "JPEG"),
        ({"channel": "a"}, "PNG"),
    ):
        answer = server.get("/view", params={**item, **parameters})
        assert answer.status_code == 200
        assert Image.open(io.BytesIO(answer.content)).format == image_format


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("filename=../secret.png", 400),
        ("filename=/etc/passwd", 400),
        ("filename=a.png&type=nonsense", 400),
        ("filename=a.png&subfolder=../..", 403),
        ("filename=no-such-file.png", 404),
        ("", 404),
    ],
)
def test_view_refuses_bad_requests(server: Server, query: str, status: int) -> None:
    assert server.get(f"/view?{query}").status_code == status


def png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def upload(server: Server, name: str, data: bytes, kind: str = "image", **form: str) -> requests.Response:
    return server.post(f"/upload/{kind}", files={"image": (name, data)}, data=form)


def test_uploads_keep_their_name_unless_other_bytes_have_it(server: Server) -> None:
    stem = f"up-{uuid.uuid4().hex[:8]}"
    for data, name in ((png("red"), f"{stem}.png"), (png("red"), f"{stem}.png"), (png("blue"), f"{stem} (1).png")):
        answer = upload(server, f"{stem}.png", data)
        assert answer.json() == {"name": name, "subfolder": "", "type": "input"}
    overwritten = upload(server, f"{stem}.png", png("green"), overwrite="true")
    assert overwritten.json()["name"] == f"{stem}.png"
    assert server.get(f"/view?filename={stem}.png&type=input").content == png("green")
    assert server.get(f"/view?filename={stem}.png [input]").content == png("green")


def test_uploads_cannot_leave_their_folder(server: Server) -> None:
    assert upload(server, "x.png", png("red"), subfolder="../..").status_code == 400
    assert server.post("/upload/image", data={"type": "input"}).status_code == 400
    assert upload(server, "x.png", png("red"), type="nonsense").status_code == 500


def test_an_uploaded_image_can_be_loaded_from_its_subfolder(server: Server) -> None:
    upload(server, "pic.png", png("red"), subfolder="contract")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "contract/pic.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": f"l{new_colour()}"}},
    }
    job = run(server, graph)
    assert Image.open(io.BytesIO(view(server, job).content)).getpixel((0, 0)) == (255, 0, 0)


def test_a_missing_input_image_fails_its_own_validation(server: Server) -> None:
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "no-such-image.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    [problem] = refused(server, graph)["node_errors"]["1"]["errors"]
    assert problem["type"] == "custom_validation_failed"
    assert "no-such-image.png" in problem["details"]


def test_a_file_that_is_not_an_image_fails_when_it_is_loaded(server: Server) -> None:
    name = upload(server, f"fake-{uuid.uuid4().hex[:8]}.png", b"not an image").json()["name"]
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    job = run(server, graph)
    assert job["status"] == "failed"
    assert job["execution_error"]["node_id"] == "1"
    assert server.get(f"/history/{job['id']}").json()[job["id"]]["status"]["status_str"] == "error"


def test_a_mask_upload_gives_the_original_its_alpha(server: Server) -> None:
    upload(server, "original.png", png("red"), overwrite="true")
    alpha = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 100)).save(alpha, "PNG")
    reference = json.dumps({"filename": "original.png", "subfolder": "", "type": "input"})
    form = {"original_ref": reference, "overwrite": "true"}
    answer = upload(server, "masked.png", alpha.getvalue(), "mask", **form)
    assert answer.status_code == 200
    masked = Image.open(io.BytesIO(server.get("/view?filename=masked.png&type=input").content))
    assert masked.getpixel((0, 0)) == (255, 0, 0, 100)
    assert upload(server, "masked.png", alpha.getvalue(), "mask").status_code == 500


# Queue and cancelling -------------------------------------------------------------------------------------------------


def test_deleting_and_cancelling_unknown_jobs_is_a_quiet_success(server: Server) -> None:
    unknown = str(uuid.uuid4())
    answer = server.post("/queue", json={"delete": [unknown]})
    assert (answer.status_code, answer.content) == (200, b"")
    assert server.post(f"/api/jobs/{unknown}/cancel").json() == {"cancelled": False}
    assert server.post("/interrupt", json={"prompt_id": unknown}).status_code == 200
    assert server.post("/api/jobs/cancel", json={"job_ids": ["nonsense"]}).json()["invalid_ids"] == ["nonsense"]


def test_queue_remaining_is_zero_when_idle(server: Server) -> None:
    run(server, image_graph())
    for _ in range(50):
        if server.get("/prompt").json() == {"exec_info": {"queue_remaining": 0}}:
            break
        time.sleep(0.02)
    assert server.get("/prompt").json() == {"exec_info": {"queue_remaining": 0}}
    assert server.get("/queue").json() == {"queue_running": [], "queue_pending": []}


# Websocket ------------------------------------------------------------------------------------------------------------


def test_the_first_frame_is_the_status_with_the_sid(server: Server, listen: Callable[..., Any]) -> None:
    first = json.loads(listen("me-myself").recv())
    assert first["type"] == "status"
    assert first["data"]["sid"] == "me-myself"
    assert set(first["data"]["status"]["exec_info"]) == {"queue_remaining"}
    assert json.loads(listen().recv())["data"]["sid"]


def test_feature_flags_are_answered(server: Server, listen: Callable[..., Any]) -> None:
    socket = listen()
    socket.recv()
    socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
    answer = json.loads(socket.recv())
    assert answer["type"] == "feature_flags"
    assert answer["data"]["supports_preview_metadata"] is True


def test_events_come_in_order_and_history_exists_at_the_end(server: Server, listen: Callable[..., Any]) -> None:
    client_id = uuid.uuid4().hex
    socket = listen(client_id)
    prompt_id = submit(server, image_graph(), client_id=client_id)
    events = events_until_end(socket, prompt_id)
    assert prompt_id in server.get(f"/history/{prompt_id}").json()
    own = [event for event in events if event["type"] not in ("status", "progress_state", "progress")]
    received = [(event["type"], event["data"].get("node")) for event in own]
    assert received == [
        ("execution_start", None),
        ("execution_cached", None),
        ("executing", "1"),
        ("executing", "2"),
        ("executed", "2"),
        ("execution_success", None),
        ("executing", None),
    ]
    assert all(event["data"]["prompt_id"] == prompt_id for event in own)
    states = [event["data"]["nodes"] for event in events if event["type"] == "progress_state"]
    assert states[-1]["2"]["state"] == "finished"
    [start] = [event["data"] for event in own if event["type"] == "execution_start"]
    assert isinstance(start["timestamp"], int)


def test_an_error_ends_with_execution_error_and_no_success(server: Server, listen: Callable[..., Any]) -> None:
    name = upload(server, f"broken-{uuid.uuid4().hex[:8]}.png", b"not an image").json()["name"]
    client_id = uuid.uuid4().hex
    socket = listen(client_id)
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    events = events_until_end(socket, submit(server, graph, client_id=client_id))
    [error] = [event["data"] for event in events if event["type"] == "execution_error"]
    assert set(error) == {
        "prompt_id", "node_id", "node_type", "executed", "exception_message", "exception_type", "traceback",
        "current_inputs", "current_outputs", "timestamp",
    }  # fmt: skip
    assert error["node_type"] == "LoadImage"
    assert "execution_success" not in [event["type"] for event in events]


def test_another_clients_socket_receives_nothing_but_status(server: Server, listen: Callable[..., Any]) -> None:
    other = listen("other", timeout=0.5)
    other.recv()
    run(server, image_graph(), client_id="another-client")
    received = []
    with contextlib.suppress(websocket.WebSocketTimeoutException):
        while True:
            received.append(json.loads(other.recv())["type"])
    assert set(received) == {"status"}


def test_pings_are_answered(server: Server, listen: Callable[..., Any]) -> None:
    socket = listen()
    socket.recv()
    socket.ping("hello")
    opcode, data = socket.recv_data(control_frame=True)
    while opcode != websocket.ABNF.OPCODE_PONG:
        opcode, data = socket.recv_data(control_frame=True)
    assert data == b"hello"


# Catalogue ------------------------------------------------------------------------------------------------------------


def test_object_info_declares_each_node(server: Server) -> None:
    everything = server.get("/object_info").json()
    one = server.get("/object_info/KSampler").json()
    assert one["KSampler"] == everything["KSampler"]
    assert {"input", "input_order", "output", "output_is_list", "output_name", "name", "display_name", "description",
            "python_module", "category", "output_node"} <= set(one["KSampler"])  # fmt: skip
    assert one["KSampler"]["input"]["required"]["seed"][0] == "INT"
    assert one["KSampler"]["output"] == ["LATENT"]
    assert everything["SaveImage"]["output_node"] is True
    assert server.get("/object_info/NoSuchNode").json() == {}


def test_model_lists_name_kinds_and_files(server: Server) -> None:
    kinds = server.get("/models").json()
    assert {"checkpoints", "loras", "vae", "diffusion_models", "text_encoders"} <= set(kinds)
    names = server.get("/models/checkpoints").json()
    declared = server.get("/object_info/CheckpointLoaderSimple").json()["CheckpointLoaderSimple"]
    assert declared["input"]["required"]["ckpt_name"][0] == names
    details = server.get("/experiment/models/checkpoints").json()
    assert sorted(row["name"] for row in details) == sorted(names)
    assert all({"pathIndex", "modified", "created", "size"} <= set(row) for row in details)
    assert server.get("/models/no-such-kind").status_code == 404
    assert isinstance(server.get("/embeddings").json(), list)


def test_system_stats_and_features_describe_the_machine(server: Server) -> None:
    stats = server.get("/system_stats").json()
    assert {"os", "ram_total", "ram_free", "comfyui_version", "python_version", "argv"} <= set(stats["system"])
    assert {"name", "type", "vram_total", "vram_free"} <= set(stats["devices"][0])
    assert server.get("/features").json()["supports_preview_metadata"] is True
    assert server.post("/free", json={"unload_models": True, "free_memory": True}).status_code == 200
