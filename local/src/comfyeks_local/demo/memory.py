"""Measures how much memory the demo and its processes use."""

from __future__ import annotations

import contextlib
import threading

import psutil

_SAMPLE_SECONDS = 2.0


class Peak:
    """The peak memory of this process and its descendants inside the block, sampled every two seconds."""

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()

    def __enter__(self) -> Peak:
        threading.Thread(target=self._sample, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _sample(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(_SAMPLE_SECONDS):
            total = 0
            for process in (own, *own.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # it has just ended
                    total += process.memory_info().rss
            self.bytes = max(self.bytes, total)
