"""Running a plan of steps: in order, each asked first what is left to do, with its time, one plan at a time.

Nothing is remembered between runs: what is left is asked of what exists. A run that was stopped anywhere is therefore
continued by the next, from any checkout.
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

Work = TypeVar("Work")


@dataclass(frozen=True)
class Step(Generic[Work]):
    """`left` says what there is to do, or None; `do` does it. `cluster`: `left` can only be asked of a cluster."""

    name: str
    title: str
    left: Callable[[Work], str | None]
    do: Callable[[Work], None]
    cluster: bool = False


@dataclass(frozen=True)
class Done:
    """A step of a finished run. `did` is None when nothing was left to do."""

    name: str
    did: str | None
    seconds: float


def run(steps: Sequence[Step[Work]], work: Work, log: Path) -> list[Done]:
    """Do what is left, step by step. Raises what a step raises, after its line."""
    begun = time.monotonic()
    finished: list[Done] = []
    for number, step in enumerate(steps, start=1):
        at = time.monotonic()
        where = f"{number}/{len(steps)}  {step.name:<12}"
        try:
            did = step.left(work)
            if did is not None:
                _say(begun, f"▸ {where} {did}", log=log)
                step.do(work)
        except BaseException as error:
            stopped = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
            _say(begun, f"✗ {where} {stopped} after {time.monotonic() - at:.1f} s", "red", log)
            raise
        seconds = time.monotonic() - at
        finished.append(Done(step.name, did, seconds))
        if did is None:
            _say(begun, f"✓ {where} nothing to do  ({seconds:.1f} s)", "dim", log)
        else:
            _say(begun, f"✓ {where} done  ({seconds:.1f} s)", "green", log)
    return finished


def _say(begun: float, text: str, style: str = "", log: Path | None = None) -> None:
    line = f"{time.monotonic() - begun:7.1f}s {text}"
    err.print(Text(line, style=style), soft_wrap=True)
    if log is not None:
        with log.open("a") as file:
            file.write(f"{datetime.now(UTC):%H:%M:%S} {line}\n")


@contextmanager
def alone(what: str, state: Path | None = None) -> Iterator[int]:
    """One run at a time in a checkout, whichever deployment: they share the Chalice app's folder and configuration.

    Yields a file descriptor for children that change something: as long as one of them lives, a later run waits. Raises
    UserError naming the run that is at work.
    """
    path = (STATE if state is None else state) / "running"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        if not _locked(lock):
            lock.seek(0)
            pid, _, other = lock.read().strip().partition(" ")
            if pid.isdigit() and _alive(int(pid)):
                raise UserError(
                    f"`{other}` is at work in this checkout (process {pid}): wait for its end, or use another clone"
                )
            note("an earlier run was ended, but what it had started is still at work: waiting for its end")
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
