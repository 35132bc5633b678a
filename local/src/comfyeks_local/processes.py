"""Detached processes that a later command can find again, by a pid file that also records the start time."""

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

# The start time of one process never differs by more than a clock tick; a process with a reused pid starts later.
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
        """Start it in its own session and append its output to the log. Does nothing if it is already running.

        It inherits the file descriptors `pass_fds` (for example of a listening socket) under the same numbers.
        """
        if self.alive():
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [str(argument) for argument in argv],
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
        """Its pid, or None if it does not run."""
        process = self._process()
        return process.pid if process else None

    def alive(self) -> bool:
        return self._process() is not None

    def recorded(self) -> bool:
        """Whether it was started and not stopped since; recorded but not alive means that it died."""
        return self._pid_file.exists()

    def wait(self, timeout: float | None = None) -> int:
        """The exit code of a process that this object started. Raises subprocess.TimeoutExpired."""
        if self._child is None:
            raise RuntimeError(
                f"{self.name} was started by another process: only the parent of a process can read its exit code"
            )
        code = self._child.wait(timeout)
        self._pid_file.unlink(missing_ok=True)
        return code

    def stop(self, grace: float = 10) -> None:
        """Send SIGTERM, then SIGKILL after `grace` seconds; its children are killed as well."""
        self._end(grace)

    def kill(self) -> None:
        """Send SIGKILL to it and its children, as in a crash."""
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
    """Send SIGKILL, and wait until they have ended."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _wait_ended(processes, seconds=5)


def kill_marked(variable: str, value: str) -> None:
    """Send SIGKILL to every process that has `variable=value` in its environment, recorded or not."""
    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                marked.append(process)
    kill_all(marked)


def _wait_ended(processes: Collection[psutil.Process], seconds: float) -> None:
    """Wait until each has ended. A zombie counts as ended: its parent or init collects it later."""
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
    """Different loopback ports that are free now, for processes that start later.

    They lie outside the range of ephemeral ports, where a connection could take a port before its process starts.
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
            raise TimeoutError(f"{what}: did not happen within {seconds:.0f} s")
        time.sleep(every)
