"""Where words go: data to stdout, everything for the person watching to stderr."""

from rich.console import Console

out = Console()
err = Console(stderr=True)


def note(message: str) -> None:
    err.print(message, style="dim", highlight=False, markup=False, soft_wrap=True)
