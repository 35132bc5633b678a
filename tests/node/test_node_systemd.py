"""The local node's systemd: what it promises is what the tests of a whole node stand on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from comfyeks_local.node.systemd import CONTROL, NODEADM, Systemd, UnitError

Scenario = Callable[[Systemd], Awaitable[None]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    program(tmp_path, "true")
    return tmp_path


def program(root: Path, body: str) -> None:
    (root / "bin/job").write_text(f"#!/bin/sh\ncd '{root}'\necho started >>count\n{body}\n")
    (root / "bin/job").chmod(0o755)


def unit(root: Path, name: str, text: str) -> None:
    (root / "etc/systemd/system" / name).write_text(text)


def service(root: Path, more: str = "", after: str = "") -> None:
    unit(root, "job.service", f"[Unit]\nAfter={after}\n[Service]\nType=oneshot\nExecStart=/bin/job\n{more}")


def count(root: Path) -> int:
    return len((root / "count").read_text().splitlines()) if (root / "count").exists() else 0


def play(root: Path, scenario: Scenario) -> None:
    async def run() -> None:
        systemd = Systemd(root, os.environ, root / "log")
        await systemd.serve()
        try:
            await scenario(systemd)
        finally:
            await systemd.stop()

    asyncio.run(asyncio.wait_for(run(), timeout=20))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_blocking_start_returns_when_the_service_has_ended(root: Path) -> None:
    program(root, "sleep 0.3; echo done >done")
    service(root)

    async def scenario(systemd: Systemd) -> None:
        await systemd.start(["job.service"], block=True)
        assert (root / "done").exists()
        assert systemd.is_active("job.service") == "inactive"

    play(root, scenario)


def test_a_service_waits_for_nodeadm(root: Path) -> None:
    service(root, after=NODEADM)

    async def scenario(systemd: Systemd) -> None:
        await systemd.start(["job.service"], block=False)
        await asyncio.sleep(0.3)
        assert (count(root), systemd.is_active("job.service")) == (0, "activating")
        systemd.nodeadm_finished()
        await until(lambda: count(root) == 1)

    play(root, scenario)


def test_a_start_that_would_deadlock_a_real_boot_is_refused(root: Path) -> None:
    service(root, after=NODEADM)

    async def scenario(systemd: Systemd) -> None:
        with pytest.raises(UnitError, match="use --no-block"):
            await systemd.start(["job.service"], block=True)

    play(root, scenario)


def test_a_failed_service_starts_again_until_it_succeeds(root: Path) -> None:
    program(root, "[ $(wc -l <count) -ge 3 ]")
    service(root, "Restart=on-failure\nRestartSec=100ms")

    async def scenario(systemd: Systemd) -> None:
        await systemd.start(["job.service"], block=True)
        assert count(root) == 3

    play(root, scenario)


def test_an_exit_status_that_prevents_a_restart_does(root: Path) -> None:
    program(root, "exit 2")
    service(root, "Restart=on-failure\nRestartSec=10ms\nRestartPreventExitStatus=2")

    async def scenario(systemd: Systemd) -> None:
        with pytest.raises(UnitError, match=r"job\.service failed"):
            await systemd.start(["job.service"], block=True)
        assert (count(root), systemd.is_active("job.service")) == (1, "failed")

    play(root, scenario)


def test_a_path_unit_starts_its_service_again_when_the_file_comes_back_meanwhile(root: Path) -> None:
    program(root, "rm asked; sleep 0.3")
    service(root)
    unit(root, "job.path", "[Path]\nPathExists=/asked\n")

    async def scenario(systemd: Systemd) -> None:
        await systemd.start(["job.path"], block=True)
        assert systemd.is_active("job.path") == "active"
        await asyncio.sleep(0.2)
        assert count(root) == 0
        (root / "asked").touch()
        await until(lambda: count(root) == 1 and not (root / "asked").exists())
        (root / "asked").touch()
        await until(lambda: count(root) == 2 and systemd.is_active("job.service") == "inactive")
        await asyncio.sleep(0.2)
        assert count(root) == 2

    play(root, scenario)


def test_a_timer_starts_its_service_after_boot_and_after_every_end(root: Path) -> None:
    service(root)
    unit(root, "job.timer", "[Timer]\nOnBootSec=100ms\nOnUnitInactiveSec=1h\n")
    (root / "etc/systemd/system/job.timer.d").mkdir()
    unit(root, "job.timer.d/shorter.conf", "[Timer]\nOnUnitInactiveSec=\nOnUnitInactiveSec=200ms\n")

    async def scenario(systemd: Systemd) -> None:
        begun = time.monotonic()
        await systemd.start(["job.timer"], block=True)
        await until(lambda: count(root) == 3)
        assert time.monotonic() - begun >= 0.5

    play(root, scenario)


def test_what_is_enabled_starts_at_the_next_boot(root: Path) -> None:
    service(root, "[Install]\nWantedBy=nodeadm-run.service", after=NODEADM)

    async def first(systemd: Systemd) -> None:
        systemd.enable(["job.service"])
        systemd.nodeadm_finished()
        await asyncio.sleep(0.2)
        assert count(root) == 0

    async def second(systemd: Systemd) -> None:
        systemd.boot()
        systemd.nodeadm_finished()
        await until(lambda: count(root) == 1)

    play(root, first)
    play(root, second)


def test_stopping_leaves_no_process(root: Path) -> None:
    program(root, "echo $$ >pid; exec sleep 60")
    service(root)

    async def scenario(systemd: Systemd) -> None:
        await systemd.start(["job.service"], block=False)
        await until(lambda: (root / "pid").exists() and (root / "pid").read_text() != "")

    play(root, scenario)
    with pytest.raises(ProcessLookupError):
        os.kill(int((root / "pid").read_text()), 0)


def systemctl(systemd_at: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "comfyeks_local.node.systemd", *arguments]
    return subprocess.run(argv, env={**os.environ, CONTROL: systemd_at}, capture_output=True, text=True, timeout=20)


def test_systemctl_reaches_the_nodes_systemd(root: Path) -> None:
    service(root, "[Install]\nWantedBy=nodeadm-run.service")

    async def run() -> None:
        systemd = Systemd(root, os.environ, root / "log")
        at = await systemd.serve()
        try:
            for arguments, code, output in [
                (("daemon-reload",), 0, ""),
                (("enable", "job.service"), 0, ""),
                (("start", "--no-block", "job.service"), 0, ""),
                (("is-active", "job.service"), 3, "inactive\n"),
                (("enable", "other.service"), 1, "Unit other.service not found.\n"),
                (("mask", "job.service"), 1, "the local node's systemctl does not know: mask job.service\n"),
            ]:
                result = await asyncio.to_thread(systemctl, at, *arguments)
                if arguments[0] == "start":
                    await until(lambda: systemd.is_active("job.service") == "inactive")
                assert (result.returncode, result.stdout + result.stderr) == (code, output)
        finally:
            await systemd.stop()

    asyncio.run(run())
    assert count(root) == 1
