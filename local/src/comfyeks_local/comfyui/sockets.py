"""The websockets of the server, with their limitations, which clients must handle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import uuid
from typing import Any

from aiohttp import WSMsgType, web

FEATURES = {"supports_preview_metadata": True, "max_upload_size": 104_857_600, "assets": False}


class Sockets:
    """Sockets by client id. `send` may be called from any thread once `start` has run."""

    def __init__(self) -> None:
        self._by_id: dict[str, web.WebSocketResponse] = {}
        self._features: dict[str, dict[str, Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outgoing: asyncio.Queue[tuple[str | int, Any, str | None]] | None = None
        self._publisher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._outgoing = asyncio.Queue()
        self._publisher = asyncio.create_task(self._publish(self._outgoing))

    async def stop(self) -> None:
        if self._publisher is not None:
            self._publisher.cancel()
        for socket in list(self._by_id.values()):
            await socket.close()

    def send(self, event: str | int, data: Any, client_id: str | None) -> None:
        """Queue an event for one socket, or for all when `client_id` is None."""
        if self._loop is None or self._outgoing is None or self._loop.is_closed():
            return
        # Serialized now, because nodes keep changing the objects that they report.
        payload = data if isinstance(data, bytes) else json.dumps({"type": event, "data": data})
        self._loop.call_soon_threadsafe(self._outgoing.put_nowait, (event, payload, client_id))

    def wants_metadata(self, client_id: str | None) -> bool:
        return bool(self._features.get(client_id or "", {}).get("supports_preview_metadata"))

    async def serve(
        self, request: web.Request, greeting: dict[str, Any], running: tuple[str | None, str | None]
    ) -> web.WebSocketResponse:
        """Serve one connection. `running` is (client id, node) of the running prompt, which is sent to its owner.

        A second connection with the same id replaces the first one. When the first one ends later, its clean-up removes
        the second, which stays open but receives nothing more. The server has the same behaviour.
        """
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        self._by_id[client_id] = socket
        self._features.pop(client_id, None)
        try:
            await socket.send_json({"type": "status", "data": {**greeting, "sid": client_id}})
            if running[0] == client_id and running[1] is not None:
                await socket.send_json({"type": "executing", "data": {"node": running[1]}})
            first = True
            async for message in socket:
                if message.type == WSMsgType.TEXT and first:
                    await self._negotiate(socket, client_id, message.data)
                    first = False
        finally:
            self._by_id.pop(client_id, None)
            self._features.pop(client_id, None)
        return socket

    async def _negotiate(self, socket: web.WebSocketResponse, client_id: str, text: str) -> None:
        with contextlib.suppress(ValueError):
            message = json.loads(text)
            if isinstance(message, dict) and message.get("type") == "feature_flags":
                self._features[client_id] = message.get("data") or {}
                await socket.send_json({"type": "feature_flags", "data": FEATURES})

    async def _publish(self, outgoing: asyncio.Queue[tuple[str | int, Any, str | None]]) -> None:
        while True:
            event, payload, client_id = await outgoing.get()
            if client_id is None:
                targets = list(self._by_id.values())
            else:
                targets = [self._by_id[client_id]] if client_id in self._by_id else []
            for socket in targets:
                with contextlib.suppress(ConnectionError, RuntimeError):
                    if isinstance(event, int):
                        await socket.send_bytes(struct.pack(">I", event) + payload)
                    else:
                        await socket.send_str(payload)
