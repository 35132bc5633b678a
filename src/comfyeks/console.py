"""Where words go: data to stdout, everything for the person watching to stderr."""

import unicodedata
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

out = Console()
err = Console(stderr=True)


def note(message: str) -> None:
    err.print(message, style="dim", highlight=False, markup=False, soft_wrap=True)


def plain(value: object) -> Text:
    """Words of others (object keys, what a node reports) as they are, for a table's cell.

    Rich finds no markup in them, and no control character reaches the terminal.
    """
    return Text("".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) == "Cc" else c for c in str(value)))


def log_file(folder: Path, verb: str) -> Path:
    """A new log of a run, below a folder that git ignores."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{verb}.log"
