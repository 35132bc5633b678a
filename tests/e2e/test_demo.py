"""What the README promises a newcomer: `make demo`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from comfyeks.local.emulators import PARTS
from tests.support.clones import Clone, make_clone, plain_environment

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("demo")]


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
    """Somebody else listens on the ports that the local AWS prefers."""
    with contextlib.ExitStack() as stack:
        for port in PARTS.values():
            with contextlib.suppress(OSError):  # taken already
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


def test_the_demo_survives_a_kill_in_the_middle_and_ends_clean(
    clone: Clone, default_ports_taken: None, measured: Callable[[str], None]
) -> None:
    killed = subprocess.Popen(
        clone.argv("demo", "--no-cluster"), cwd=clone.root, env=clone.env, stderr=subprocess.DEVNULL
    )
    time.sleep(20)
    assert killed.poll() is None, "the demo ended before it could be killed"
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    began = time.monotonic()
    answer = clone.comfyeks("demo", "--no-cluster")
    measured(f"a demo, while other tests run: {time.monotonic() - began:.0f} s")
    [image] = list((clone.root / ".comfyeks/demo/results").rglob("*.png"))
    with Image.open(image) as picture:
        picture.load()
        assert picture.width > 0
    assert str(image) in answer.stderr
    assert left_by(clone.root) == []
    assert clone.changes() == ""
