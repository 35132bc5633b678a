"""The MiniStack process of the local AWS: S3, SQS, Lambda, EKS, ECR, STS and every service that moto does not serve.

    python -m comfyeks_local.emulators.ministack_server --fd N    # N: a listening TCP socket of the supervisor

Besides AWS, under `/_local/`: `health`, `calls` and `faults` as in `comfyeks_local.emulators.moto_server`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

from comfyeks_local.emulators import bridges
from comfyeks_local.emulators.traffic import Answer, Request, Traffic, from_web_page

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Application:
    """MiniStack as an ASGI application, with this project's additions in front of it. `authority` is its host:port."""

    def __init__(self, ministack: AsgiApp, authority: str, applied: list[str]) -> None:
        self._ministack = ministack
        self._authority = authority
        self._applied = applied
        self._traffic = Traffic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._ministack(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if from_web_page(self._authority, headers):
            await _refuse(scope, send)
            return
        if scope["type"] == "websocket":
            await self._ministack(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        if path.startswith("/_local/"):
            if (method, path) == ("GET", "/_local/health"):
                status, content = 200, {"part": "ministack", "bridges": self._applied}
            else:
                control = self._traffic.control(method, path, await _body(receive))
                status, content = control or (HTTPStatus.NOT_FOUND, {"error": f"no {method} {path}"})
            await _respond(send, status, {"content-type": "application/json"}, json.dumps(content).encode())
            return
        request = Request(
            method=method,
            path=(scope.get("raw_path") or path.encode()).decode("latin-1"),
            query=scope.get("query_string", b"").decode("latin-1"),
            headers=headers,
        )
        if request.is_form:
            form = await _body(receive)
            receive = _replay(form, receive)
            request = Request(request.method, request.path, request.query, request.headers, form)
        if (answer := self._traffic.intercept(request)) is not None:
            await _respond(send, *answer)
        elif request.only_reads:
            await self._ministack(scope, receive, send)
        else:
            answer = await _answer(self._ministack, scope, receive)
            self._traffic.remember(request, answer)
            await _respond(send, *answer)


async def _answer(ministack: AsgiApp, scope: Scope, receive: Receive) -> Answer:
    messages: list[Message] = []

    async def collect(message: Message) -> None:
        messages.append(message)

    await ministack(scope, receive, collect)
    start, *body = messages
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in start["headers"]
        if name.lower() != b"content-length"
    }
    return start["status"], headers, b"".join(message.get("body", b"") for message in body)


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive function that returns a body which was already read, then the messages that follow."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})  # before it was accepted, so the handshake is answered with 403
    else:
        await _respond(send, HTTPStatus.FORBIDDEN, {}, b"")


async def _respond(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    encoded.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": int(status), "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    parser = argparse.ArgumentParser(description="The MiniStack process of the local AWS.")
    parser.add_argument("--fd", type=int, required=True, help="inherited listening socket")
    fd: int = parser.parse_args().fd
    applied = bridges.apply_all("ministack")
    from ministack.app import app

    with socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM) as inherited:
        host, port = inherited.getsockname()
    config = Config()
    config.bind = [f"fd://{fd}"]
    config.keep_alive_timeout = 75  # longer than the idle time of the SDKs' connection pools
    config.accesslog = None
    config.errorlog = "-"
    asyncio.run(serve(Application(app, f"{host}:{port}", applied), config))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
