"""The emulators, with and without bridges."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from comfyeks_local.emulators.local_aws import ACCOUNT, MOTO_SERVICES, REGION, LocalAws, service_id

Clients = Callable[[str], Any]  # boto3 service name → client


@pytest.fixture(scope="session")
def local_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    """One local AWS for all tests that do not stop it."""
    with LocalAws(tmp_path_factory.mktemp("local-aws")) as aws:
        yield aws


@pytest.fixture(scope="session")
def plain_ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of MiniStack without bridges, in a thread of this process."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        settings = {  # read at import
            "GATEWAY_PORT": str(port),
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            "MINISTACK_REGION": REGION,
            "MINISTACK_HOST": "127.0.0.1",
            "DOCKER_HOST": "unix:///nonexistent",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
        }
        before = dict(os.environ)
        os.environ.update(settings)
        from ministack.app import app

        config = Config()
        config.bind = [f"fd://{listener.fileno()}"]
        loop = asyncio.new_event_loop()
        ended = asyncio.Event()
        server = threading.Thread(
            target=loop.run_until_complete, args=(serve(app, config, shutdown_trigger=ended.wait),), daemon=True
        )
        server.start()
        yield f"http://127.0.0.1:{port}"
        loop.call_soon_threadsafe(ended.set)
        server.join(timeout=10)
        os.environ.clear()
        os.environ.update(before)
        listener.detach()  # closed by the server


@functools.cache
def _client(service: str, **endpoint: str) -> Any:
    return boto3.client(service, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test", **endpoint)


@pytest.fixture
def plain_emulators(plain_ministack: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clients]:
    """Clients of moto and MiniStack without bridges, inside this process."""
    from moto import mock_aws

    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)

    def client(service: str) -> Any:
        endpoint = {} if service_id(service) in MOTO_SERVICES else {"endpoint_url": plain_ministack}
        return _client(service, **endpoint)

    with mock_aws():
        yield client


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home folder of its own; everything that runs in it is stopped afterwards."""
    yield tmp_path / "home"
    LocalAws(tmp_path / "home").down()
