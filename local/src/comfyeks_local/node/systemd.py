"""A stand-in for systemd on a local node: runs the service, timer and path units of a folder.

    python -m comfyeks_local.node.systemd VERB [OPTION] UNIT...     the node's `systemctl`

It reads the unit files below the node's root (drop-ins too) and supports what our units use: oneshot services with
After=, Restart=on-failure, RestartSec= and RestartPreventExitStatus=; timers with OnBootSec=, OnUnitInactiveSec= and
RandomizedDelaySec=; PathExists=; WantedBy=. Of the image's own units it knows only nodeadm-run, which the caller
emulates. Sandboxing, cgroups and resource weights are read and not applied.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import shlex
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CONTROL = "COMFYEKS_SYSTEMD"  # environment variable of the node's programs: host:port of its systemd
NODEADM = "nodeadm-run.service"
_BOOT_TARGETS = ("multi-user.target", "paths.target", "timers.target")

_PATH_POLL = 0.05  # seconds; the real one uses inotify
_TIMER_POLL = 0.1
_UNIT_SECONDS = {
    "": 1.0, "s": 1.0, "sec": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0, "hr": 3600.0, "d": 86400.0,
}  # fmt: skip


class UnitError(Exception):
    """A unit cannot be used; the message is what `systemctl` would print."""


@dataclass(frozen=True)
class Unit:
    """One unit file with its drop-ins: (section, directive) -> values in order."""

    name: str
    directives: Mapping[tuple[str, str], list[str]]

    @classmethod
    def load(cls, folder: Path, name: str) -> Unit:
        """Raises UnitError when there is no such file or it has a line that is neither section nor assignment."""
        file = folder / name
        if not file.is_file():
            raise UnitError(f"Unit {name} not found.")
        directives: dict[tuple[str, str], list[str]] = defaultdict(list)
        for source in [file, *sorted((folder / f"{name}.d").glob("*.conf"))]:
            section = ""
            for number, line in enumerate(source.read_text().splitlines(), start=1):
                text = line.strip()
                if not text or text[0] in "#;":
                    continue
                if text.startswith("[") and text.endswith("]"):
                    section = text[1:-1]
                    continue
                key, equals, value = text.partition("=")
                if not section or not equals:
                    raise UnitError(f"{source.name}:{number}: neither a section nor an assignment: {text}")
                values = directives[section, key.strip()]
                if value.strip():
                    values.append(value.strip())
                else:
                    values.clear()  # an empty assignment removes the earlier values
        return cls(name, dict(directives))

    def value(self, section: str, key: str) -> str | None:
        values = self.directives.get((section, key))
        return values[-1] if values else None

    def items(self, section: str, key: str) -> list[str]:
        return [item for value in self.directives.get((section, key), []) for item in value.split()]

    def seconds(self, section: str, key: str) -> float | None:
        value = self.value(section, key)
        return None if value is None else time_span(value)

    @property
    def service(self) -> str:
        """The service that a timer or path unit starts."""
        stem, _, kind = self.name.rpartition(".")
        return self.value(kind.capitalize(), "Unit") or f"{stem}.service"


def time_span(text: str) -> float:
    """Seconds of a systemd time span: `90`, `15min`, `1h 30min`, `infinity`. Raises UnitError."""
    if text == "infinity":
        return float("inf")
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text)
    if not parts or any(unit not in _UNIT_SECONDS for _, unit in parts):
        raise UnitError(f"not a time span: {text!r}")
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


class Systemd:
    """The units below `<root>/etc/systemd/system`; output of a service goes to `<logs>/<unit>.log`."""

    def __init__(self, root: Path, environment: Mapping[str, str], logs: Path) -> None:
        self._root = root
        self._folder = root / "etc/systemd/system"
        self._environment = dict(environment)
        self._logs = logs
        self._booted = time.monotonic()
        self._nodeadm = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._state: dict[str, str] = {}
        self._inactive_since: dict[str, float] = {}

    async def serve(self) -> str:
        """Listen for `systemctl`; returns the value of the CONTROL variable."""
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self._environment[CONTROL] = f"{host}:{port}"
        return f"{host}:{port}"

    def boot(self) -> None:
        """Start the units that are enabled for the usual targets and for nodeadm (which a unit orders itself after)."""
        for target in (*_BOOT_TARGETS, NODEADM):
            for link in sorted((self._folder / f"{target}.wants").glob("*")):
                self._start(link.name)

    def nodeadm_finished(self) -> None:
        self._nodeadm.set()

    async def stop(self) -> None:
        """Stop every unit and its processes."""
        self._server.close()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def daemon_reload(self) -> None:
        for file in self._folder.glob("comfyui-*.*"):
            if file.is_file():
                Unit.load(self._folder, file.name)

    def enable(self, names: list[str]) -> None:
        for name in names:
            targets = Unit.load(self._folder, name).items("Install", "WantedBy")
            if not targets:
                raise UnitError(f"Unit {name} has no installation config (WantedBy=).")
            for target in targets:
                link = self._folder / f"{target}.wants" / name
                link.parent.mkdir(exist_ok=True)
                if not link.is_symlink():
                    link.symlink_to(Path("..") / name)

    async def start(self, names: list[str], *, block: bool) -> None:
        """Start units. With `block` wait until a service has ended once, as `systemctl start` does.

        Raises UnitError for what would be a deadlock on a real node: user data runs before nodeadm, so it must not wait
        for a unit that is ordered after nodeadm.
        """
        for name in names:
            if block and not self._nodeadm.is_set() and NODEADM in Unit.load(self._folder, name).items("Unit", "After"):
                raise UnitError(f"{name} is ordered After={NODEADM}, which waits for this script: use --no-block")
        started = [self._start(name) for name in names]
        if block:
            while any(self.is_active(name) == "activating" for name in names):
                await asyncio.wait(started, timeout=_TIMER_POLL)
            failed = [name for name in names if self.is_active(name) == "failed"]
            if failed:
                raise UnitError(f"Job for {', '.join(failed)} failed.")

    def is_active(self, name: str) -> str:
        """`active` (path and timer units), `activating` (a running or restarting service), `failed` or `inactive`."""
        return self._state.get(name, "inactive")

    def _start(self, name: str) -> asyncio.Task[None]:
        task = self._tasks.get(name)
        if task is not None and not task.done():
            return task
        unit = Unit.load(self._folder, name)
        kind = name.rpartition(".")[2]
        if kind == "service":
            self._state[name] = "activating"
            task = asyncio.create_task(self._run_service(unit), name=name)
        elif kind in ("path", "timer"):
            self._state[name] = "active"
            task = asyncio.create_task(self._watch_path(unit) if kind == "path" else self._run_timer(unit), name=name)
        else:
            raise UnitError(f"Unit {name}: the local node's systemd supports only services, timers and paths.")
        self._tasks[name] = task
        return task

    async def _run_service(self, unit: Unit) -> None:
        if unit.value("Service", "Type") != "oneshot":
            raise UnitError(f"Unit {unit.name}: the local node's systemd supports only Type=oneshot.")
        if NODEADM in unit.items("Unit", "After"):
            await self._nodeadm.wait()
        final = {int(code) for code in unit.items("Service", "RestartPreventExitStatus")}
        while (code := await self._execute(unit)) != 0:
            if unit.value("Service", "Restart") != "on-failure" or code in final:
                break
            await asyncio.sleep(unit.seconds("Service", "RestartSec") or 0.1)
        self._state[unit.name] = "inactive" if code == 0 else "failed"
        self._inactive_since[unit.name] = time.monotonic()

    async def _execute(self, unit: Unit) -> int:
        program, *arguments = shlex.split(unit.value("Service", "ExecStart") or "")
        path = self._root / program.lstrip("/")
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{unit.name}.log").open("ab") as log:
            try:
                process = await asyncio.create_subprocess_exec(
                    path, *arguments, env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
                )
            except OSError as error:
                log.write(f"{program}: {error.strerror}\n".encode())
                return 203  # systemd's EXIT_EXEC
            try:
                return await process.wait()
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.terminate()
                    await process.wait()

    async def _watch_path(self, unit: Unit) -> None:
        paths = [self._root / path.lstrip("/") for path in unit.items("Path", "PathExists")]
        while True:
            if self.is_active(unit.service) != "activating" and any(path.exists() for path in paths):
                self._start(unit.service)
            await asyncio.sleep(_PATH_POLL)

    async def _run_timer(self, unit: Unit) -> None:
        on_boot = unit.seconds("Timer", "OnBootSec")
        on_inactive = unit.seconds("Timer", "OnUnitInactiveSec")
        spread = unit.seconds("Timer", "RandomizedDelaySec") or 0.0
        jitter = random.uniform(0, spread)  # noqa: S311 - no secret
        while True:
            await asyncio.sleep(_TIMER_POLL)
            if self.is_active(unit.service) == "activating":
                continue
            since = self._inactive_since.get(unit.service)
            if since is not None and on_inactive is not None:
                due = since + on_inactive
            elif since is None and on_boot is not None:
                due = self._booted + on_boot
            else:
                continue
            if time.monotonic() >= due + jitter:
                self._start(unit.service)
                jitter = random.uniform(0, spread)  # noqa: S311 - no secret

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            code, text = await self._systemctl(json.loads(await reader.readline()))
        except UnitError as error:
            code, text = 1, str(error)
        writer.write(json.dumps([code, text]).encode() + b"\n")
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async def _systemctl(self, arguments: list[str]) -> tuple[int, str]:
        verb, *rest = arguments or [""]
        options = {argument for argument in rest if argument.startswith("-")}
        names = [argument for argument in rest if not argument.startswith("-")]
        if verb == "daemon-reload" and not rest:
            self.daemon_reload()
        elif verb == "enable" and names and options <= {"--now"}:
            self.enable(names)
            if options:
                await self.start(names, block=True)
        elif verb == "start" and names and options <= {"--no-block"}:
            await self.start(names, block=not options)
        elif verb == "is-active" and names and not options:
            states = [self.is_active(name) for name in names]
            return (0 if "active" in states else 3), "\n".join(states)
        else:
            raise UnitError(f"the local node's systemctl does not know: {shlex.join(arguments)}")
        return 0, ""


def main() -> int:
    """`systemctl` of a local node: send the arguments to the node's systemd, print its answer, return its exit code."""
    host, _, port = os.environ[CONTROL].rpartition(":")
    with socket.create_connection((host, int(port))) as connection, connection.makefile("rw") as stream:
        stream.write(json.dumps(sys.argv[1:]) + "\n")
        stream.flush()
        code, text = json.loads(stream.readline())
    if text:
        print(text, file=sys.stdout if sys.argv[1:2] == ["is-active"] else sys.stderr)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
