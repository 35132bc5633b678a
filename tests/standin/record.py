"""Records what a server declares and answers, as shapes: names, types and limits, without texts.

    python -m tests.standin.record http://127.0.0.1:8188 > tests/standin/real_server.yaml

records a real server, so that the stand-in and the example workflows can be compared with it where there is none.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Iterable
from typing import Any

import requests
import websocket
import yaml

from comfyeks_local.comfyui.graph_nodes import GRAPH_NODES
from tests.support.comfyui import Server, empty_image

_LIMITS = ("min", "max", "step")
# Choices that are the same on every machine; other choices are names of files.
CHOICES = (
    "KSampler.sampler_name", "KSampler.scheduler", "KSamplerAdvanced.add_noise",
    "KSamplerAdvanced.return_with_leftover_noise", "KSamplerSelect.sampler_name", "UNETLoader.weight_dtype",
    "CLIPLoader.type", "CLIPLoader.device", "DualCLIPLoader.type", "DualCLIPLoader.device", "SaveWEBM.codec",
    "ImageScale.upscale_method", "ImageScale.crop", "SaveAnimatedWEBP.method", "LoadImageMask.channel",
)  # fmt: skip
GRAPH_NODE_NAMES = sorted(
    GRAPH_NODES.keys() - {"StandInSleep"}
)  # the examples need no others, as test_record.py checks


def choices(spec: list[Any]) -> list[Any] | None:
    """The choices in an input's declaration; None if it is not a choice."""
    if isinstance(spec[0], list):
        return spec[0]
    return spec[1]["options"] if spec[0] == "COMBO" else None


def declaration(info: dict[str, Any]) -> dict[str, Any]:
    """Inputs with types and limits, and outputs, of one graph node in /object_info."""

    def one(spec: list[Any]) -> str:
        options = spec[1] if len(spec) > 1 else {}
        kind = "choice" if isinstance(spec[0], list) else spec[0]
        return " ".join([kind, *(f"{limit}={options[limit]:g}" for limit in _LIMITS if limit in options)])

    groups = {group: {name: one(spec) for name, spec in info["input"].get(group, {}).items()} for group in
              ("required", "optional")}  # fmt: skip
    return {**groups, **{key: info[key] for key in ("output", "output_name", "output_node")}}


def shape(value: Any) -> Any:
    """Types in place of values; for a list the shapes of its items, each once."""
    if isinstance(value, dict):
        return {key: "…" if key == "input_config" else shape(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        found = {json.dumps(shape(item), sort_keys=True) for item in value}
        return [json.loads(item) for item in sorted(found)]
    return "number" if type(value) in (int, float) else type(value).__name__


def _graph() -> dict[str, Any]:
    return {
        "1": empty_image(16),
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "record"}},
    }


def _job(server: Server, graph: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Run a workflow; returns its id and the shape of each kind of event."""
    client_id, events = uuid.uuid4().hex, dict[str, list[Any]]()
    socket = websocket.create_connection(f"{server.ws_url}?clientId={client_id}", timeout=60, suppress_origin=True)
    try:
        prompt_id = server.post("/prompt", json={"prompt": graph, "client_id": client_id}).json()["prompt_id"]
        while True:
            frame = socket.recv()
            if isinstance(frame, bytes):
                continue
            event = json.loads(frame)
            events.setdefault(event["type"], []).append(event["data"])
            if event["type"] == "executing" and event["data"]["node"] is None:
                return prompt_id, {kind: shape(data) for kind, data in sorted(events.items())}
    finally:
        socket.close()


def answers(server: Server) -> dict[str, Any]:
    """The shapes of the server's answers to the client's requests."""
    found: dict[str, Any] = {}
    good, found["events"] = _job(server, _graph())
    upload = server.post("/upload/image", files={"image": (f"{uuid.uuid4().hex}.png", b"no image")}).json()
    broken = {
        "1": {"class_type": "LoadImage", "inputs": {"image": upload["name"]}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    bad, found["events of a failure"] = _job(server, broken)
    refusals = {
        "a model that is not there": {
            **_graph(), "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "absent"}},
            "2": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
            "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        },
        "a missing input": {**_graph(), "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}},
        "an unknown class": {**_graph(), "9": {"class_type": "Mystery", "inputs": {}}},
    }  # fmt: skip
    for name, graph in refusals.items():
        answer = server.post("/prompt", json={"prompt": graph})
        found[name] = [answer.status_code, shape(answer.json())]
    unknown = uuid.uuid4()
    for name, path in {
        "job": f"/api/jobs/{good}", "failed job": f"/api/jobs/{bad}", "unknown job": f"/api/jobs/{unknown}",
        "history": f"/history/{good}", "queue": "/prompt", "machine": "/system_stats",
    }.items():  # fmt: skip
        answer = server.get(path)
        body = answer.json()
        found[name] = [answer.status_code, shape(body[good] if name == "history" else body)]
    found["upload"] = shape(upload)
    return found


def record(server: Server, classes: Iterable[str] = GRAPH_NODE_NAMES) -> dict[str, Any]:
    declared = server.get("/object_info").json()
    named = {place: place.split(".") for place in CHOICES}
    inputs = {name: {**info["input"].get("required", {}), **info["input"].get("optional", {})}
              for name, info in declared.items()}  # fmt: skip
    return {
        "comfyui": server.get("/system_stats").json()["system"]["comfyui_version"],
        "recorded": time.strftime("%Y-%m-%d", time.gmtime()),
        "nodes": {name: declaration(declared[name]) for name in classes},
        "choices": {place: choices(inputs[node][key]) for place, (node, key) in named.items()},
        "answers": answers(server),
    }


if __name__ == "__main__":
    try:
        found = record(Server(sys.argv[1].rstrip("/")))
    except requests.ConnectionError as error:
        sys.exit(f"{sys.argv[1]} does not answer: {error}")
    print("# Made by `python -m tests.standin.record URL` from a real server: names, types and limits, no texts.")
    print(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=110), end="")
