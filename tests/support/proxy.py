"""A load balancer for tests: sticky by cookie, with the faults that clients must handle."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import WSMsgType, web

from tests.support.comfyui import serving

COOKIE = "AWSALB"


@dataclass
class Proxy:
    """`faults` may be changed while it runs."""

    backends: list[str]
    url: str = ""
    # POST /prompt: drop the connection before the server sees it, or after it answered; or answer 502.
    drop_posts: int = 0
    lose_answers: int = 0
    gateway_errors: int = 0
    # POST /prompt: never answer, and send nothing to the server.
    mute_posts: bool = False
    # Websocket: refuse it, accept it and stay silent, or close it after so many seconds.
    refuse_websockets: bool = False
    deaf: bool = False
    close_after: float | None = None
    # Deliver the first event so many seconds late, and the others after it.
    delay: float = 0
    # Break the first so many downloads half-way.
    break_downloads: int = 0
    log: list[tuple[str, str, int]] = field(default_factory=list)
    handshakes: list[str | None] = field(default_factory=list)
    _turn: Iterator[int] = field(default_factory=itertools.count)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.cleanup_ctx.append(self._session)
        return app

    async def _session(self, app: web.Application):  # type: ignore[no-untyped-def]
        self.client = aiohttp.ClientSession(auto_decompress=False)
        yield
        await self.client.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        cookie = request.cookies.get(COOKIE)
        index = int(cookie) if cookie is not None else next(self._turn) % len(self.backends)
        self.log.append((request.method, request.path, index))
        if request.headers.get("Upgrade", "").lower() == "websocket":
            self.handshakes.append(cookie)
            return await self._websocket(request, self.backends[index])
        submits = request.method == "POST" and request.path == "/api/prompt"
        if submits and self.mute_posts:
            await asyncio.sleep(30)
        if submits and self.drop_posts:
            self.drop_posts -= 1
            return self._drop(request)
        if submits and self.gateway_errors:
            self.gateway_errors -= 1
            return web.Response(status=502, text="<html>Bad Gateway</html>", content_type="text/html")
        response = await self._forward(request, self.backends[index])
        if submits and self.lose_answers:
            self.lose_answers -= 1
            return self._drop(request)
        if cookie is None:
            response.set_cookie(COOKIE, str(index), path="/")
        return response

    @staticmethod
    def _drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _forward(self, request: web.Request, backend: str) -> web.StreamResponse:
        headers = {key: value for key, value in request.headers.items() if key not in ("Host", "Cookie")}
        try:
            async with self.client.request(
                request.method, backend + request.path_qs, data=await request.read(), headers=headers
            ) as answer:
                body = await answer.read()
                if request.path == "/api/view" and self.break_downloads:
                    self.break_downloads -= 1
                    return await self._half(request, body)
                return web.Response(status=answer.status, body=body, headers={"Content-Type": answer.content_type})
        except aiohttp.ClientError:
            return web.Response(status=502)

    async def _half(self, request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        self._drop(request)
        return response

    async def _websocket(self, request: web.Request, backend: str) -> web.StreamResponse:
        if self.refuse_websockets:
            return web.Response(status=403)
        near = web.WebSocketResponse()
        await near.prepare(request)
        async with self.client.ws_connect(backend + request.path_qs) as far:

            async def down() -> None:
                await asyncio.sleep(self.delay)
                async for message in far:
                    if self.deaf:
                        continue
                    if message.type == WSMsgType.TEXT:
                        await near.send_str(message.data)
                    elif message.type == WSMsgType.BINARY:
                        await near.send_bytes(message.data)
                await near.close()

            async def up() -> None:
                async for message in near:
                    if message.type == WSMsgType.TEXT:
                        await far.send_str(message.data)

            tasks = [asyncio.create_task(down()), asyncio.create_task(up())]
            await asyncio.wait(tasks, timeout=self.close_after, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        await near.close()
        return near


@contextmanager
def proxying(*backends: str) -> Iterator[Proxy]:
    proxy = Proxy(list(backends))
    with serving(proxy.app()) as url:
        proxy.url = url
        yield proxy
