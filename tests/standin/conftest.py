"""The server under test: the stand-in, and the real one at COMFYUI_URL if that is set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.comfyui import CHECKPOINT, STAND_IN, Server, comfyui, targets
from tests.support.safetensors import write_model


@pytest.fixture(scope="session", params=targets())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if request.param != STAND_IN:
        yield Server(request.param)
        return
    home = tmp_path_factory.mktemp("comfyui")
    write_model(home / "models", f"checkpoints/{CHECKPOINT}")
    with comfyui(home) as running:
        yield running
