"""A stand-in for kube-proxy: forwards a loopback port of this machine for each Service to a ready pod.

The endpoints are those that the real endpoint controller wrote. All clients have the address of this machine, so
ClientIP affinity means that a Service uses the same pod as long as it is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping

from comfyeks_local.cluster.control_plane import HOST

Address = tuple[str, int]


class ServiceProxy:
    """Listeners by "<namespace>/<service>", served from a thread of their own."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self._targets: dict[str, list[Address]] = {}
        self._last: dict[str, Address] = {}
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def update(self, targets: Mapping[str, list[Address]]) -> None:
        """Set the ready pods of every Service, as addresses of this machine. A deleted Service refuses connections."""
        for name in targets.keys() - self.ports.keys():
            self.ports[name] = asyncio.run_coroutine_threadsafe(self._listen(name), self._loop).result()
        self._targets = {name: list(addresses) for name, addresses in targets.items()}

    async def _listen(self, name: str) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._forward(name, reader, writer)

        server = await asyncio.start_server(serve, HOST, 0)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def _target(self, name: str) -> Address | None:
        targets = self._targets.get(name, [])
        if (last := self._last.get(name)) not in targets:
            last = targets[0] if targets else None
        if last:
            self._last[name] = last
        return last

    async def _forward(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            if (target := self._target(name)) is None:
                return
            try:
                pod_reader, pod_writer = await asyncio.open_connection(*target)
            except OSError:
                return
            with contextlib.closing(pod_writer):
                await asyncio.gather(_copy(reader, pod_writer), _copy(pod_reader, writer), return_exceptions=True)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(64 * 1024):
        target.write(data)
        await target.drain()
    with contextlib.suppress(OSError):
        target.write_eof()
