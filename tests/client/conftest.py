from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfyeks.client import ComfyClient
from tests.support.comfyui import CHECKPOINT, RunningServer, comfyui
from tests.support.safetensors import write_model

WORKFLOW = Path(__file__).parents[2] / "workflows" / "sdxl-text-to-image.json"


def text_to_image(seed: int = 42, width: int = 128) -> dict[str, Any]:
    """The example workflow, small."""
    graph: dict[str, Any] = json.loads(WORKFLOW.read_text())
    graph["5"]["inputs"].update(width=width, height=64)
    graph["3"]["inputs"].update(seed=seed, steps=3)
    return graph


def sleeping(seconds: float = 20, ticks: int = 1000) -> dict[str, Any]:
    return {
        "1": {"class_type": "StandInSleep", "inputs": {"seconds": seconds, "ticks": ticks}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "slept"}},
    }


def fast_client(url: str, **options: Any) -> ComfyClient:
    """Patience for tests."""
    return ComfyClient(url, **{"poll_seconds": 0.1, "lost_post_seconds": 0.5, "patience": 2.0, **options})


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    home = tmp_path_factory.mktemp("comfyui")
    write_model(home / "models", f"checkpoints/{CHECKPOINT}")
    with comfyui(home) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> ComfyClient:
    return fast_client(server.url)
