"""ComfyUI servers for tests: stand-ins in this process, one thread each, nothing shared; the one at COMFYUI_URL.

Every ComfyUI can do what `Server` needs, without a model and without a GPU.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests
from aiohttp import web

from comfyeks_local.comfyui.options import parser
from comfyeks_local.comfyui.server import StandIn

CHECKPOINT = "sd_xl_base_1.0.safetensors"
STAND_IN = "stand-in"
_colours = itertools.count(random.randrange(0x800000))


def new_colour() -> int:
    """A colour that no earlier picture on any server had, so that no result comes from a cache."""
    return next(_colours)


def targets() -> list[str]:
    """The servers to test, for a fixture's params: the stand-in, and the server at COMFYUI_URL if set."""
    real = os.environ.get("COMFYUI_URL")
    return [STAND_IN, *([real.rstrip("/")] if real else [])]


@dataclass
class Server:
    url: str

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=30, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=30, **options)

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/ws"

    @property
    def stand_in(self) -> bool:
        return False

    def slow(self, seconds: float) -> dict[str, Any]:
        """A workflow that takes about `seconds`, reports progress and can be interrupted."""
        graph: dict[str, Any] = {"1": empty_image(512)}
        for number in range(max(2, round(seconds * 5))):
            graph[f"s{number}"] = _scaled("1", 1024 + number)  # a server runs only one of two equal nodes
            graph[f"p{number}"] = {"class_type": "PreviewImage", "inputs": {"images": [f"s{number}", 0]}}
        return graph

    def quiet(self, seconds: float) -> dict[str, Any]:
        """A workflow with a graph node that takes about `seconds` without reporting progress."""
        return {
            "1": empty_image(512, batch=max(2, round(seconds * 10))),
            "2": _scaled("1", 1024),
            "3": _scaled("2", 8),
            "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        }


@dataclass
class RunningServer(Server):
    home: Path
    server: StandIn

    @property
    def stand_in(self) -> bool:
        return True

    def slow(self, seconds: float) -> dict[str, Any]:
        return sleeping(seconds, ticks=max(1, round(seconds * 50)))

    def quiet(self, seconds: float) -> dict[str, Any]:
        return sleeping(seconds, ticks=0)

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def output(self) -> Path:
        return self.home / "output"


def empty_image(side: int = 64, color: int | None = None, batch: int = 1) -> dict[str, Any]:
    inputs = {"width": side, "height": side, "batch_size": batch, "color": new_colour() if color is None else color}
    return {"class_type": "EmptyImage", "inputs": inputs}


def _scaled(node: str, side: int) -> dict[str, Any]:
    inputs = {"image": [node, 0], "upscale_method": "lanczos", "width": side, "height": side, "crop": "disabled"}
    return {"class_type": "ImageScale", "inputs": inputs}


def sleeping(seconds: float, ticks: int) -> dict[str, Any]:
    """A graph node that only the stand-in has. Without ticks it ignores interrupts."""
    return {
        "1": {"class_type": "StandInSleep", "inputs": {"seconds": seconds, "ticks": ticks}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


@contextmanager
def serving(app: web.Application) -> Iterator[str]:
    """Serve an aiohttp application on a free loopback port; yields its URL."""
    begun: Future[tuple[int, Callable[[], object]]] = Future()

    async def serve() -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ended = asyncio.Event()
        port = site._server.sockets[0].getsockname()[1]
        begun.set_result((port, partial(asyncio.get_running_loop().call_soon_threadsafe, ended.set)))
        await ended.wait()
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    port, end = begun.result(30)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        end()
        thread.join(30)


@contextmanager
def comfyui(home: Path, *flags: str, step_seconds: float = 0.0) -> Iterator[RunningServer]:
    """A stand-in whose directories are below `home`."""
    (home / "custom_nodes").mkdir(parents=True, exist_ok=True)
    options = parser().parse_args(["--base-directory", str(home), *flags])
    server = StandIn(options, step_seconds=step_seconds)
    with serving(server.app()) as url:
        yield RunningServer(url, home, server)
