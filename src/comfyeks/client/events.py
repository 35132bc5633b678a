"""Live events from the server's websocket. They may be lost: a caller that needs the outcome of a job polls it too."""

from __future__ import annotations

import contextlib
import json
import queue
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import websocket

PING_SECONDS = 20.0  # below the 60 s after which load balancers close a quiet connection
_RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
_PREVIEW, _PREVIEW_WITH_METADATA = 1, 4
_IMAGE_FORMATS = {1: "jpeg", 2: "png"}


@dataclass(frozen=True)
class Event:
    """`type` is the server's, or "connected"/"disconnected" from this client, or "image" with its bytes in `image`.

    An image's data has `format` ("jpeg" or "png"), and node_id and prompt_id when the server sends them.
    """

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    image: bytes = b""


def decode_binary(frame: bytes) -> Event | None:
    """The image in a binary frame; None for any other kind of frame."""
    if len(frame) < 8:
        return None
    kind, second = struct.unpack(">II", frame[:8])
    if kind == _PREVIEW and second in _IMAGE_FORMATS:
        return Event("image", {"format": _IMAGE_FORMATS[second]}, frame[8:])
    if kind == _PREVIEW_WITH_METADATA:
        try:
            data = json.loads(frame[8 : 8 + second])
        except ValueError:
            return None
        image_format = str(data.get("image_type", "image/jpeg")).rpartition("/")[2]
        return Event("image", {**data, "format": image_format}, frame[8 + second :])
    return None


class EventStream:
    """Reads a websocket in its own thread, keeps it alive with pings and reconnects when it breaks.

    `connect` opens one connection; it is called for every new one, so that cookies are current. `open` makes the first
    attempt before it returns, so that no event of a job submitted afterwards is missed.
    """

    def __init__(self, connect: Callable[[], websocket.WebSocket], ping_seconds: float = PING_SECONDS) -> None:
        self._connect = connect
        self._ping_seconds = ping_seconds
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._socket: websocket.WebSocket | None = None
        self._thread = threading.Thread(target=self._work, name="comfyui-events", daemon=True)

    def open(self) -> EventStream:
        with contextlib.suppress(websocket.WebSocketException, OSError):
            self._socket = self._open_socket()
        self._thread.start()
        return self

    def close(self) -> None:
        self._closing.set()
        self._drop()
        self._thread.join(timeout=2)

    def __enter__(self) -> EventStream:
        return self.open()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def next(self, timeout: float) -> Event | None:
        """The next event, or None when none came within `timeout` seconds."""
        try:
            return self._events.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return None

    def _open_socket(self) -> websocket.WebSocket:
        socket = self._connect()
        socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        self._events.put(Event("connected"))
        return socket

    def _work(self) -> None:
        failures = 0
        while not self._closing.is_set():
            try:
                if self._socket is None:
                    self._socket = self._open_socket()
                failures = 0
                self._read(self._socket)
            except (websocket.WebSocketException, OSError, ValueError, AttributeError) as error:
                # AttributeError: in websocket-client, when another thread calls close().
                self._drop()
                self._events.put(Event("disconnected", {"reason": str(error)}))
                self._closing.wait(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                failures += 1

    def _read(self, socket: websocket.WebSocket) -> None:
        socket.settimeout(self._ping_seconds)
        last_received = time.monotonic()
        while not self._closing.is_set():
            try:
                opcode, frame = socket.recv_data(control_frame=True)
            except websocket.WebSocketTimeoutException:
                if time.monotonic() - last_received > 3 * self._ping_seconds:
                    raise websocket.WebSocketConnectionClosedException("no answer to pings") from None
                socket.ping()
                continue
            last_received = time.monotonic()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                raise websocket.WebSocketConnectionClosedException("closed by the server")
            if opcode == websocket.ABNF.OPCODE_TEXT:
                message = json.loads(frame)
                self._events.put(Event(message["type"], message.get("data") or {}))
            elif opcode == websocket.ABNF.OPCODE_BINARY and (event := decode_binary(frame)) is not None:
                self._events.put(event)

    def _drop(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            with contextlib.suppress(websocket.WebSocketException, OSError, AttributeError):
                socket.send_close()
            with contextlib.suppress(websocket.WebSocketException, OSError, AttributeError):
                socket.shutdown()  # type: ignore[no-untyped-call]
