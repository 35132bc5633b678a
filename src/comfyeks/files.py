"""Writes files atomically."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, text: str, mode: int | None = None) -> None:
    """Create or replace a file and its folders. A reader sees either the whole old text or the whole new one.

    With `mode`, the file has those permissions from the beginning, whatever the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if mode is not None:
            unfinished.touch(mode)
            unfinished.chmod(mode)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
