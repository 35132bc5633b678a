"""Run a plan of steps in order, one plan at a time: each step first finds out what is pending, then does it.

Nothing is stored between runs: what is pending follows from what exists. An interrupted run is therefore resumed by
the next one, from any checkout.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Generic, TypeVar

from rich.text import Text

from comfyeks.console import err, note
from comfyeks.errors import UserError
from comfyeks.paths import STATE

Context = TypeVar("Context")  # what the steps of a plan share

CHECK = "check"  # the pending work of a step that always runs and creates nothing


@dataclass(frozen=True)
class Step(Generic[Context]):
    """`pending` describes what there is to do, or returns None; `do` does it. `cluster`: `pending` needs a cluster."""

    name: str
    title: str
    pending: Callable[[Context], str | None]
    do: Callable[[Context], None]
    cluster: bool = False


@dataclass(frozen=True)
class StepResult:
    """A step of a finished run. `did` is None if nothing was pending."""

    name: str
    did: str | None
    seconds: float


def run(steps: Sequence[Step[Context]], context: Context, log: Path) -> list[StepResult]:
    """Do what is pending, step by step. Raises what a step raises, after printing that the step stopped."""
    begun = time.monotonic()
    finished: list[StepResult] = []
    for number, step in enumerate(steps, start=1):
        at = time.monotonic()
        where = f"{number}/{len(steps)}  {step.name:<12}"
        try:
            did = step.pending(context)
            if did is not None:
                _report(begun, f"▸ {where} {did}", log=log)
                step.do(context)
        except BaseException as error:
            stopped = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
            _report(begun, f"✗ {where} {stopped} after {time.monotonic() - at:.1f} s", "red", log)
            raise
        seconds = time.monotonic() - at
        finished.append(StepResult(step.name, did, seconds))
        if did is None:
            _report(begun, f"✓ {where} nothing to do  ({seconds:.1f} s)", "dim", log)
        else:
            _report(begun, f"✓ {where} done  ({seconds:.1f} s)", "green", log)
    return finished


def _report(begun: float, text: str, style: str = "", log: Path | None = None) -> None:
    line = f"{time.monotonic() - begun:7.1f}s {text}"
    err.print(Text(line, style=style), soft_wrap=True)
    if log is not None:
        with log.open("a") as file:
            file.write(f"{datetime.now(UTC):%H:%M:%S} {line}\n")


@contextmanager
def alone(what: str, state: Path | None = None) -> Iterator[int]:
    """Allow one run at a time in a checkout: all deployments share the Chalice app's folder and configuration.

    Yields a file descriptor to pass to child processes that change something: a later run waits until they have ended.
    Raises UserError naming the run that is in progress.
    """
    path = (STATE if state is None else state) / "running"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        if not _locked(lock):
            lock.seek(0)
            pid, _, other = lock.read().strip().partition(" ")
            if pid.isdigit() and _alive(int(pid)):
                raise UserError(
                    f"`{other}` is running in this checkout (process {pid}): wait until it ends, or use another clone"
                )
            note("an earlier run was killed, but a process that it started is still running: waiting for its end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()} {what}")
        lock.flush()
        try:
            yield lock.fileno()
        finally:
            lock.truncate(0)


def _locked(lock: IO[str]) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
