"""The server under contract: the stand-in, and the real one at COMFYUI_URL when that is set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.comfyui import CHECKPOINT, comfyui
from tests.support.safetensors import write_model


@dataclass
class Server:
    """Talks to one server. `stand_in` tells which parts (models, slow nodes) can be taken for granted."""

    url: str
    stand_in: bool

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=30, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=30, **options)

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/ws"


def _targets() -> list[Any]:
    real = os.environ.get("COMFYUI_URL")
    return ["stand-in", *([real] if real else [])]


@pytest.fixture(scope="session", params=_targets())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if request.param != "stand-in":
        yield Server(request.param.rstrip("/"), stand_in=False)
        return
    home: Path = tmp_path_factory.mktemp("comfyui")
    write_model(home / "models", f"checkpoints/{CHECKPOINT}")
    with comfyui(home) as running:
        yield Server(running.url, stand_in=True)
