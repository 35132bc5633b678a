"""The servers that the client is tested on: `server` is the stand-in and, at COMFYUI_URL, a real one; docs/local.md.

`stand_in` is the stand-in alone, for tests that need a model or look into its folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfyeks.client import ComfyClient
from comfyeks_local.processes import wait_until
from tests.support.comfyui import CHECKPOINT, STAND_IN, RunningServer, Server, comfyui, empty_image, targets
from tests.support.safetensors import write_model

WORKFLOW = Path(__file__).parents[2] / "workflows" / "sdxl-text-to-image.json"


def text_to_image(seed: int = 42, width: int = 128) -> dict[str, Any]:
    """The example workflow, small; it needs its model."""
    graph: dict[str, Any] = json.loads(WORKFLOW.read_text())
    graph["5"]["inputs"].update(width=width, height=64)
    graph["3"]["inputs"].update(seed=seed, steps=3)
    return graph


def picture(color: int | None = None, width: int = 128) -> dict[str, Any]:
    """A workflow that any server runs, with a picture that it has not created before."""
    scale = {"image": ["1", 0], "upscale_method": "bilinear", "width": width, "height": 64, "crop": "disabled"}
    return {
        "1": {**empty_image(color=color), "_meta": {"title": "Canvas"}},
        "2": {"class_type": "ImageScale", "_meta": {"title": "Scale"}, "inputs": scale},
        "3": {
            "class_type": "SaveImage",
            "_meta": {"title": "Save"},
            "inputs": {"images": ["2", 0], "filename_prefix": "client"},
        },
    }


def jobs(server: Server, *statuses: str) -> list[dict[str, Any]]:
    return list(server.get(f"/api/jobs?status={','.join(statuses)}").json()["jobs"])


def fast_client(url: str, **options: Any) -> ComfyClient:
    """A client with short waits."""
    return ComfyClient(url, **{"poll_seconds": 0.1, "lost_post_seconds": 0.5, "patience": 2.0, **options})


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """With the model of the example workflow."""
    home = tmp_path_factory.mktemp("comfyui")
    write_model(home / "models", f"checkpoints/{CHECKPOINT}")
    with comfyui(home) as running:
        yield running


@pytest.fixture(params=targets())
def server(request: pytest.FixtureRequest, stand_in: RunningServer) -> Iterator[Server]:
    """Idle before and after."""
    found = stand_in if request.param == STAND_IN else Server(request.param)
    yield found
    found.post("/queue", json={"clear": True})
    found.post("/interrupt")

    def idle() -> bool:
        return bool(found.get("/prompt").json()["exec_info"]["queue_remaining"] == 0)

    wait_until("an idle server", idle, 60, every=0.02)


@pytest.fixture
def client(server: Server) -> ComfyClient:
    return fast_client(server.url)
