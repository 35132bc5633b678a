"""SIGTERM (`timeout`, a cancelled CI job) ends a command as Ctrl-C does: cleanly, but with its own exit code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143  # 128 + the signal's number


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, so that it is handled like Ctrl-C."""


def exit_code(interrupt: KeyboardInterrupt) -> int:
    return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Make SIGTERM raise Terminated in the block."""

    def raise_terminated(number: int, frame: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore SIGINT and SIGTERM in the block: for a short cleanup that must not be cut off."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
