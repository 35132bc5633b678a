"""Stand-in ComfyUI servers for tests: in this process, one thread each, nothing shared."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from aiohttp import web

from comfyeks.local.comfyui.options import parser
from comfyeks.local.comfyui.server import StandIn

CHECKPOINT = "sd_xl_base_1.0.safetensors"


@dataclass
class RunningServer:
    url: str
    home: Path
    server: StandIn

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def output(self) -> Path:
        return self.home / "output"

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=10, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=10, **options)


@contextmanager
def serving(app: web.Application) -> Iterator[str]:
    """Serve an aiohttp application on a free loopback port; its URL."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return site._server.sockets[0].getsockname()[1]

    port = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def comfyui(home: Path, *flags: str, step_seconds: float = 0.0) -> Iterator[RunningServer]:
    """A stand-in whose directories are below `home`."""
    (home / "custom_nodes").mkdir(parents=True, exist_ok=True)
    options = parser().parse_args(["--base-directory", str(home), *flags])
    server = StandIn(options, step_seconds=step_seconds)
    with serving(server.app()) as url:
        yield RunningServer(url, home, server)
