"""`--port-forward`: through a kubectl that is killed and started again, to a real server."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import requests
import typer
from typer.testing import CliRunner

from comfyeks.client import cli
from comfyeks.client.port_forward import port_forward
from comfyeks.errors import OperationError, UserError
from comfyeks_local.processes import wait_until
from tests.client.conftest import WORKFLOW
from tests.support.comfyui import RunningServer

# Like kubectl: prints where it forwards from, and forwards byte streams.
KUBECTL = """\
#!{python}
import os, socket, sys, threading
arguments = sys.argv[1:]
open({log!r}, "a").write(" ".join(arguments) + "\\n")
if "deploy/absent" in arguments:
    sys.exit('Error from server (NotFound): deployments.apps "absent" not found')
near, far = arguments[-1].split(":")
listener = socket.create_server(("127.0.0.1", int(near or 0)))
port = listener.getsockname()[1]
print(f"Forwarding from 127.0.0.1:{{port}} -> {{far}}", flush=True)
open({log!r} + ".pid", "w").write(str(os.getpid()))
def copy(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    b.close()
while True:
    one, _ = listener.accept()
    two = socket.create_connection(("127.0.0.1", {port}))
    for a, b in ((one, two), (two, one)):
        threading.Thread(target=copy, args=(a, b), daemon=True).start()
"""


@pytest.fixture
def kubectl(stand_in: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its log: a line per start."""
    log = tmp_path / "kubectl.log"
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    port = stand_in.url.rpartition(":")[2]
    program.write_text(textwrap.dedent(KUBECTL).format(python=sys.executable, log=str(log), port=port))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return log


def run(*arguments: Any) -> Any:
    app = typer.Typer()
    app.command()(cli.run)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_workflow_runs_through_a_port_forward_and_kubectl_ends_with_the_command(
    kubectl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMFYUI_URL", raising=False)
    small = ["--set", "5.width=64", "--set", "5.height=64", "--set", "3.steps=1"]
    result = run(WORKFLOW, "--port-forward", "-n", "art", "--out", tmp_path / "out", *small)
    assert result.exit_code == 0, result.exception
    assert "--namespace art port-forward --address 127.0.0.1 deploy/comfyui :8848" in kubectl.read_text()
    pid = int(kubectl.with_suffix(".log.pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_kubectl_is_restarted_on_the_same_port(kubectl: Path) -> None:
    with port_forward("comfyui", "deploy/comfyui") as url:
        assert requests.get(f"{url}/prompt", timeout=10).status_code == 200
        os.kill(int(kubectl.with_suffix(".log.pid").read_text()), 9)

        def answers() -> bool:
            try:
                return requests.get(f"{url}/prompt", timeout=10).status_code == 200
            except requests.ConnectionError:
                return False

        wait_until("the forward again", lambda: len(kubectl.read_text().splitlines()) == 2 and answers(), 60)


def test_kubectls_error_is_reported(kubectl: Path) -> None:
    with (
        pytest.raises(OperationError, match=r"port-forward did not start: Error from server.*absent.* not found"),
        port_forward("comfyui", "deploy/absent"),
    ):
        pass


def test_two_ways_to_a_server_are_refused(kubectl: Path) -> None:
    error = run(WORKFLOW, "--port-forward", "--url", "http://127.0.0.1:1").exception
    assert isinstance(error, UserError)
    assert "cannot be combined" in str(error)
