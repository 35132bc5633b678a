"""`python -m comfyeks_local.comfyui ARGS`: the arguments of ComfyUI's own main.py."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import signal
import ssl
import sys
from pathlib import Path
from typing import IO

from aiohttp import web

from comfyeks_local.comfyui.folders import Folders
from comfyeks_local.comfyui.options import parser
from comfyeks_local.comfyui.server import StandIn

_log = logging.getLogger("comfyui")


def _lock_database(options: argparse.Namespace, folders: Folders) -> IO[str] | None:
    """Take the lock that newer servers take on their SQLite file; a second server on that file exits with code 1."""
    url: str = options.database_url or f"sqlite:///{folders.user / 'comfyui.db'}"
    if ":memory:" in url or not url.startswith("sqlite:///"):
        return None
    path = Path(url.removeprefix("sqlite:///"))
    if options.database_url is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f"{path.name}.lock").open("a", encoding="utf-8")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


async def _serve(server: StandIn) -> None:
    options = server.options
    tls = None
    if options.tls_keyfile and options.tls_certfile:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.tls_certfile, options.tls_keyfile)
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    stop = asyncio.Event()
    # As on the server, SIGINT ends cleanly, and SIGTERM keeps its default action and ends the process at once.
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    for host in options.listen.split(","):
        site = web.TCPSite(runner, host.strip(), options.port, ssl_context=tls)
        await site.start()
        port = site._server.sockets[0].getsockname()[1] if options.port == 0 else options.port  # type: ignore[union-attr]
        _log.info("To see the GUI go to: %s://%s:%s", "https" if tls else "http", host.strip(), port)
    await stop.wait()
    _log.info("Stopped server")
    await runner.cleanup()


def main() -> None:
    options = parser().parse_args()
    logging.basicConfig(
        level=options.verbose, format="%(message)s", stream=sys.stdout if options.log_stdout else sys.stderr
    )
    server = StandIn(options)
    try:
        lock = _lock_database(options, server.folders)
    except OSError as error:
        _log.error("Could not acquire the lock on the database. Another server may be using it: %s", error)
        sys.exit(1)
    asyncio.run(_serve(server))
    if lock is not None:
        lock.close()


if __name__ == "__main__":
    main()
