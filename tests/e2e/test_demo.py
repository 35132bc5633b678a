"""`make demo`, as the README describes it for a newcomer."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from comfyeks_local.emulators.local_aws import PARTS
from comfyeks_local.processes import wait_until
from tests.support.clones import Clone, make_clone, plain_environment

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("demo"), pytest.mark.timeout(1200)]


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    clone = make_clone(tmp_path / "clone", plain_environment())
    yield clone
    for process in left_by(clone.root):
        process.kill()


def left_by(root: Path) -> list[psutil.Process]:
    """Processes whose command line or folder lies in the clone."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and (
                str(root) in " ".join(process.cmdline()) or process.cwd().startswith(str(root))
            ):
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.fixture
def default_ports_taken() -> Iterator[None]:
    """Other programs listen on the ports that the local AWS prefers."""
    with contextlib.ExitStack() as stack:
        for port in PARTS.values():
            with contextlib.suppress(OSError):  # taken already
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


def newcomer(clone: Clone) -> subprocess.CompletedProcess[str]:
    """Type what docs/start-here.md shows after `make setup`, in a shell that ends at the first line that fails."""
    [_, transcript] = re.findall(r"```console\n(.*?)```", (clone.root / "docs/start-here.md").read_text(), re.DOTALL)
    lines = [line.removeprefix("$ ") for line in transcript.splitlines()]
    assert lines[0] == "make demo KEEP=1"
    assert lines[-1] == "comfyeks local down"
    # As `make setup` would have installed it, and as `make demo` calls it.
    program = clone.root / ".venv" / "bin" / "comfyeks"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m comfyeks "$@"\n')
    program.chmod(0o755)
    script = "\n".join(["set -e", ".venv/bin/comfyeks demo --keep --no-cluster", *lines[1:]])
    answer = subprocess.run(["bash", "-c", script], cwd=clone.root, env=clone.env, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "comfyui-demo, account 123456789012" in answer.stdout  # of `comfyeks status`
    return answer


def test_the_demo_and_the_documents_transcript_survive_a_kill_and_end_clean(
    clone: Clone, default_ports_taken: None, measured: Callable[[str], None]
) -> None:
    killed = subprocess.Popen(
        clone.argv("demo", "--no-cluster"), cwd=clone.root, env=clone.env, stderr=subprocess.DEVNULL
    )
    # In the middle of Terraform: it leaves behind the emulators, a command of the demo and that command's children.
    wait_until("terraform", lambda: any("terraform" in process.name() for process in left_by(clone.root)), 120)
    assert killed.poll() is None, "the demo ended before it could be killed"
    killed.kill()
    killed.wait()
    assert left_by(clone.root)

    began = time.monotonic()
    answer = newcomer(clone)
    measured(f"a demo, while other tests run: {time.monotonic() - began:.0f} s")
    [image] = list((clone.root / ".comfyeks/demo/results").rglob("*.png"))
    with Image.open(image) as picture:
        picture.load()
        assert picture.width > 0
    assert str(image) in answer.stderr
    assert left_by(clone.root) == []
    assert clone.changes() == ""
