"""A plan of steps: what is done, what is left unchanged, and how an interrupted run is resumed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from comfyeks.errors import OperationError, UserError
from comfyeks.up.engine import Step, alone, run

Things = set[str]
THEIRS = "comfyeks up --project film"


def step(name: str, fails: type[BaseException] | None = None) -> Step[Things]:
    """Return a step that adds its own name to the things, unless it is there."""

    def do(things: Things) -> None:
        if fails is not None:
            raise fails(f"{name} broke")
        things.add(name)

    return Step(name, name, lambda things: None if name in things else f"create {name}", do)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "up.log"


def test_everything_pending_is_done_in_order(log: Path) -> None:
    things: Things = set()
    done = run([step("a"), step("b")], things, log)
    assert things == {"a", "b"}
    assert [(d.name, d.did) for d in done] == [("a", "create a"), ("b", "create b")]


def test_a_second_run_finds_nothing_to_do(log: Path) -> None:
    things: Things = set()
    run([step("a"), step("b")], things, log)
    assert [d.did for d in run([step("a"), step("b")], things, log)] == [None, None]


@pytest.mark.parametrize("error", [OperationError, KeyboardInterrupt])
def test_a_run_that_stopped_is_resumed_where_it_stopped(log: Path, error: type[BaseException]) -> None:
    things: Things = set()
    with pytest.raises(error):
        run([step("a"), step("b", error), step("c")], things, log)
    assert things == {"a"}
    done = run([step("a"), step("b"), step("c")], things, log)
    assert [d.did for d in done] == [None, "create b", "create c"]


def test_the_log_has_every_step_with_its_seconds(log: Path) -> None:
    run([step("a")], set(), log)
    assert re.search(r"✓ 1/1  a .*done  \(\d+\.\d s\)", log.read_text())


def test_two_runs_in_one_checkout_are_refused_in_one_line(tmp_path: Path) -> None:
    other = "import sys,time; sys.path[:0]=['scripts']; from pathlib import Path\n"
    other += "from comfyeks.up.engine import alone\n"
    other += (
        f"with alone('comfyeks up --project film', Path({str(tmp_path)!r})): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", other], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "in\n"
            refusal = pytest.raises(
                UserError, match=r"`comfyeks up --project film` is running in this checkout.*another clone"
            )
            with refusal as refused, alone("comfyeks up", tmp_path):
                pass
            assert "\n" not in str(refused.value)
        finally:
            process.kill()
    with alone("comfyeks up", tmp_path):  # a killed run leaves no lock
        pass


def test_a_process_that_a_killed_run_started_is_waited_for(tmp_path: Path) -> None:
    """A helm that outlives its `comfyeks up` holds the lock."""
    with alone("first", tmp_path) as lock:
        child = subprocess.Popen(["sleep", "30"], pass_fds=[lock])
    (tmp_path / "running").write_text("999999 first")  # its process is gone
    script = "import sys; sys.path[:0]=['scripts']; from pathlib import Path\nfrom comfyeks.up.engine import alone\n"
    script += f"with alone('second', Path({str(tmp_path)!r})): print('in', flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as p:
        assert p.stderr
        assert "waiting for its end" in p.stderr.readline()
        assert p.poll() is None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert p.stdout
        assert p.stdout.readline() == "in\n"
