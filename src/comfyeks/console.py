"""Output and prompts: data goes to stdout, everything for a person who watches to stderr."""

import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from comfyeks.errors import UserError

out = Console()
err = Console(stderr=True)


def note(message: str) -> None:
    """Print a line for a person who watches."""
    err.print(message, style="dim", highlight=False, markup=False, soft_wrap=True)


def plain(value: object) -> Text:
    """Return text from elsewhere (object keys, a node's report) unchanged, for a table's cell.

    Rich interprets no markup in it, and no control character reaches the terminal.
    """
    return Text("".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) == "Cc" else c for c in str(value)))


def log_file(folder: Path, verb: str) -> Path:
    """Return the path of a new log in `folder`, which is created and which git ignores."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{verb}.log"


def confirm_name(what: str, name: str, given: str | None) -> None:
    """Return if `given` is `name`; ask for it when it is None, so that nothing is deleted by mistake.

    Args:
        what: the thing whose name it is, such as "the deployment".
        given: value of the option --confirm.

    Raises UserError for another name, and when there is no terminal to ask on.
    """
    if given is None:
        try:
            given = typer.prompt(f"To confirm, type the name of {what} ({name})", err=True)
        except typer.Abort as error:
            raise UserError(
                f"no name was typed: nothing was deleted; without a terminal, give --confirm {name}"
            ) from error
    if given != name:
        raise UserError(f"the name given is {given!r}, not {name!r}: nothing was deleted")
