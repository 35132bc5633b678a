"""Behind a load balancer, and with connections that break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfyeks.client import JobLostError, Progress, UnreachableError
from comfyeks_local.processes import wait_until
from tests.client.conftest import fast_client, picture
from tests.support.comfyui import Server, comfyui
from tests.support.proxy import Proxy, proxying


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with proxying(server.url) as running:
        yield running


def history_count(server: Server) -> int:
    return len(server.get("/history").json())


def test_the_cookie_keeps_every_request_and_the_websocket_on_one_server(tmp_path: Path) -> None:
    with (
        comfyui(tmp_path / "a") as first,
        comfyui(tmp_path / "b") as second,
        proxying(first.url, second.url) as proxy,
    ):
        for _ in range(4):
            client = fast_client(proxy.url)
            seen: list[Progress] = []
            result = client.run(picture(), on_progress=seen.append)
            assert client.save(result, tmp_path / "out")
            assert any(progress.live for progress in seen)
            assert len({backend for _, _, backend in proxy.log}) == 1
            proxy.log.clear()
        assert None not in proxy.handshakes
        assert history_count(first) == history_count(second) == 2


def test_polling_replaces_a_websocket_that_sends_nothing(proxy: Proxy, server: Server, tmp_path: Path) -> None:
    proxy.deaf = True
    client = fast_client(proxy.url)
    seen: list[Progress] = []
    result = client.run(server.slow(1), on_progress=seen.append)
    assert client.save(result, tmp_path)
    assert [progress.state for progress in seen] == ["running"]
    assert not seen[0].live


def test_polling_replaces_a_websocket_that_cannot_be_opened(proxy: Proxy, tmp_path: Path) -> None:
    proxy.refuse_websockets = True
    client = fast_client(proxy.url)
    assert client.save(client.run(picture()), tmp_path)


def test_a_websocket_that_is_closed_repeatedly_is_opened_again(proxy: Proxy, server: Server) -> None:
    proxy.close_after = 0.3
    seen: list[Progress] = []
    fast_client(proxy.url).run(server.slow(2), on_progress=seen.append)
    assert len(proxy.handshakes) >= 2
    assert any(progress.live for progress in seen)


def test_a_quiet_websocket_is_kept_alive_with_pings(proxy: Proxy, server: Server) -> None:
    fast_client(proxy.url, ping_seconds=0.05).run(server.quiet(0.8))
    assert len(proxy.handshakes) == 1


@pytest.mark.parametrize(
    ("fault", "posts"),
    [("lose_answers", 1), ("drop_posts", 2), ("gateway_errors", 2)],
    ids=["the answer is lost", "the request is lost", "a gateway error"],
)
def test_a_lost_submission_is_looked_up_and_never_runs_twice(
    proxy: Proxy, server: Server, fault: str, posts: int
) -> None:
    before = history_count(server)
    setattr(proxy, fault, 1)
    result = fast_client(proxy.url).run(picture())
    assert result.files
    assert history_count(server) == before + 1
    assert sum(method == "POST" and path == "/api/prompt" for method, path, _ in proxy.log) == posts


def test_a_submission_that_never_gets_through_is_an_error(proxy: Proxy) -> None:
    proxy.drop_posts = 99
    with pytest.raises(UnreachableError, match="could not be submitted: no connection to"):
        fast_client(proxy.url, lost_post_seconds=0.0).run(picture())


def test_a_download_that_breaks_is_started_again(proxy: Proxy, server: Server, tmp_path: Path) -> None:
    client = fast_client(proxy.url)
    result = client.run(picture(width=256))
    proxy.break_downloads = 2
    [saved] = client.save(result, tmp_path)
    assert saved.path.read_bytes() == server.get("/view", params={"filename": result.files[0].filename}).content
    assert len(list(tmp_path.iterdir())) == 1


def test_a_job_that_a_server_restart_loses_is_reported_as_lost(proxy: Proxy, server: Server, tmp_path: Path) -> None:
    with comfyui(tmp_path) as new:
        client = fast_client(proxy.url)

        def restart(progress: Progress) -> None:
            if progress.node:
                proxy.backends[0] = new.url

        with pytest.raises(JobLostError, match="restarted"):
            client.run(server.slow(1.5), on_progress=restart)


def test_waiting_for_an_unreachable_server_ends_after_the_patience(proxy: Proxy, server: Server) -> None:
    def vanish(progress: Progress) -> None:
        proxy.backends[0] = "http://127.0.0.1:9"

    client = fast_client(proxy.url, patience=0.5)
    with pytest.raises(UnreachableError, match="no answer about job"):
        client.run(server.slow(1), on_progress=vanish)


class _OldServer:
    """Hides the jobs API, which older servers lack."""

    def __init__(self, proxy: Proxy) -> None:
        original = proxy._forward

        async def forward(request: Any, backend: str) -> Any:
            from aiohttp import web

            if request.path.startswith("/api/jobs"):
                return web.Response(status=404, text="404: Not Found")
            return await original(request, backend)

        proxy._forward = forward  # type: ignore[method-assign]


def test_a_server_without_the_jobs_api_is_followed_by_its_history(proxy: Proxy, server: Server, tmp_path: Path) -> None:
    _OldServer(proxy)
    proxy.deaf = True
    client = fast_client(proxy.url)
    assert client.save(client.run(picture()), tmp_path)
    job = client.submit(server.slow(20))
    wait_until("the job's start", lambda: bool(server.get("/queue").json()["queue_running"]), 30, every=0.02)
    assert client.cancel(job).status == "cancelled"  # type: ignore[union-attr]
    assert server.get("/prompt").json()["exec_info"]["queue_remaining"] == 0
