"""Detached processes that a later command finds again: a pid file that a reused pid cannot fool, and a log."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from comfyeks.files import write_atomically

# Start times are equal to the clock tick when it is the same process; a reused pid is at least seconds younger.
_SAME_START_SECONDS = 0.5
_PORTS = (20_000, 32_000)  # below Linux' range of ephemeral ports, above most services


class Process:
    """A named process under a folder: `<home>/run/<name>.json` (pid and start time) and `<home>/log/<name>.log`."""

    def __init__(self, home: Path, name: str):
        self.name = name
        self.log = home / "log" / f"{name}.log"
        self._pid_file = home / "run" / f"{name}.json"
        self._child: subprocess.Popen[bytes] | None = None

    def start(
        self,
        argv: Sequence[str | Path],
        env: Mapping[str, str],
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start it in a session of its own, output appended to the log. Does nothing when it is already running.

        It inherits the file descriptors `pass_fds` (say, of a listening socket) under the same numbers.
        """
        if self.alive():
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [str(word) for word in argv],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=tuple(pass_fds),
            )
        started = psutil.Process(self._child.pid).create_time()
        write_atomically(self._pid_file, json.dumps({"pid": self._child.pid, "started": started}))

    @property
    def pid(self) -> int | None:
        """Its pid while it runs."""
        process = self._process()
        return process.pid if process else None

    def alive(self) -> bool:
        return self._process() is not None

    def recorded(self) -> bool:
        """Whether it was started and not stopped by us: recorded and not alive means that it died."""
        return self._pid_file.exists()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code of a process that this object started. Raises subprocess.TimeoutExpired."""
        if self._child is None:
            raise RuntimeError(f"{self.name} was not started here: only its parent learns its exit code")
        code = self._child.wait(timeout)
        self._pid_file.unlink(missing_ok=True)
        return code

    def stop(self, grace: float = 10) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds; its children end with it."""
        self._end(grace)

    def kill(self) -> None:
        """SIGKILL, children included: what a crash looks like."""
        self._end(0)

    def tail(self, lines: int = 15) -> str:
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _end(self, grace: float) -> None:
        process = self._process()
        if process is not None:
            family = {process, *_children(process)}
            if grace:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
                _wait_ended([process], grace)
                family |= _children(process)
            kill_all(family)
        self._pid_file.unlink(missing_ok=True)

    def _process(self) -> psutil.Process | None:
        try:
            recorded = json.loads(self._pid_file.read_text())
            process = psutil.Process(recorded["pid"])
            same = abs(process.create_time() - recorded["started"]) < _SAME_START_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (FileNotFoundError, ValueError, KeyError, psutil.NoSuchProcess):
            return None


def _children(process: psutil.Process) -> set[psutil.Process]:
    try:
        return set(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def kill_all(processes: Collection[psutil.Process]) -> None:
    """SIGKILL, and wait until they have ended."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _wait_ended(processes, seconds=5)


def kill_marked(variable: str, value: str) -> None:
    """SIGKILL to every process whose environment says `variable=value`: also those that nobody recorded."""
    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                marked.append(process)
    kill_all(marked)


def _wait_ended(processes: Collection[psutil.Process], seconds: float) -> None:
    """Wait until each has ended. A zombie has: its parent, or an init that sweeps now and then, collects it later."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(
        process.is_running() and not _is_zombie(process) for process in processes
    ):
        time.sleep(0.01)


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on, all different, for processes that begin later.

    Not of the range from which the kernel gives ports to connections: there a port that is free now is often taken
    when its process begins.
    """
    found: set[int] = set()
    while len(found) < count:
        port = random.randint(*_PORTS)  # noqa: S311 - no secret
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


def wait_until(what: str, ready: Callable[[], bool], seconds: float, every: float = 0.1) -> None:
    """Poll `ready()` until it is true. Raises TimeoutError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(every)
