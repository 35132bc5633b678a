"""A process that was started is found again, ended with its children, and never mistaken for another one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from comfyeks_local.processes import Process, wait_until

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
PARENT = [sys.executable, "-c", f"import subprocess; subprocess.run({SLEEPER!r})"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def start(home: Path, argv: list[str]) -> Process:
    process = Process(home, "it")
    process.start(argv, dict(os.environ))
    return process


def up(process: Process) -> bool:
    return "up" in process.tail()


def test_another_command_finds_it_by_its_record(tmp_path: Path) -> None:
    process = start(tmp_path, SLEEPER)
    assert Process(tmp_path, "it").pid == process.pid
    Process(tmp_path, "it").stop()
    assert not process.alive()
    assert not process.recorded()


def test_starting_it_twice_leaves_one(tmp_path: Path) -> None:
    process = start(tmp_path, SLEEPER)
    first = process.pid
    assert start(tmp_path, SLEEPER).pid == first
    process.kill()


def test_a_process_with_a_reused_pid_is_not_mistaken_for_it(tmp_path: Path) -> None:
    other = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    (tmp_path / "run").mkdir()
    started = psutil.Process(other.pid).create_time()
    (tmp_path / "run/it.json").write_text(json.dumps({"pid": other.pid, "started": started - 60}))
    stale = Process(tmp_path, "it")
    assert not stale.alive()
    stale.kill()
    assert other.poll() is None, "another process was killed"
    other.kill()
    other.wait()


@pytest.mark.parametrize("record", ["", "{", "{}", '{"pid": 999999999, "started": 1}'])
def test_a_broken_or_stale_record_means_that_it_does_not_run(tmp_path: Path, record: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/it.json").write_text(record)
    assert not Process(tmp_path, "it").alive()


def test_its_children_end_with_it(tmp_path: Path) -> None:
    process = start(tmp_path, PARENT)
    wait_until("the child", lambda: up(process), 10)
    assert process.pid
    [child] = psutil.Process(process.pid).children()
    process.stop(grace=1)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_one_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    process = start(tmp_path, STUBBORN)
    wait_until("the start", lambda: up(process), 10)
    began = time.monotonic()
    process.stop(grace=0.5)
    assert not process.alive()
    assert 0.4 < time.monotonic() - began < 5


def test_its_exit_code_is_known_even_when_it_ended_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, [sys.executable, "-c", "raise SystemExit(3)"])
    time.sleep(0.3)
    assert process.wait() == 3


def test_a_timeout_names_what_was_waited_for() -> None:
    with pytest.raises(TimeoutError, match="the moon: did not happen within 0 s"):
        wait_until("the moon", lambda: False, 0.05, every=0.01)
