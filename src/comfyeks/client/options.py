"""Options that `run` and `batch` share: which server, and how to reach it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from comfyeks.client.port_forward import port_forward
from comfyeks.errors import UserError

DEFAULT_URL = "http://127.0.0.1:8848"

Url = Annotated[
    str | None, typer.Option("--url", envvar="COMFYUI_URL", help=f"Address of the server. [default: {DEFAULT_URL}]")
]
PortForward = Annotated[
    bool, typer.Option("--port-forward", help="Reach a pod with `kubectl port-forward`, in kubectl's current context.")
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace for --port-forward.")]
Target = Annotated[
    str, typer.Option("--target", metavar="KIND/NAME", help="Pod, or object that has pods, for --port-forward.")
]


@contextmanager
def server(url: str | None, forward: bool, namespace: str, target: str) -> Iterator[str]:
    """The server's URL; a port-forward lasts as long as the block."""
    if not forward:
        yield url or DEFAULT_URL
        return
    if url is not None:
        raise UserError(f"--url {url} and --port-forward cannot be combined: use one (COMFYUI_URL sets --url too)")
    with port_forward(namespace, target) as forwarded:
        yield forwarded
