"""The times of the demo's steps: printed while they run, and written as a page."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.text import Text

from comfyeks.console import err
from comfyeks.files import write_atomically


@dataclass
class Step:
    """A step of the timeline; times in seconds since its beginning. `end` is None while it runs."""

    title: str
    begin: float
    end: float | None = None
    failed: bool = False
    details: list[str] = field(default_factory=list)


class Timeline:
    """Prints each step when it begins, and again with its duration when it has ended."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.steps: list[Step] = []

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._start

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Yields a function that adds a line of detail below the step."""
        step = Step(title, self.elapsed)
        self.steps.append(step)
        self._print(step.begin, "▸", title)

        def detail(text: str) -> None:
            step.details.append(text)
            self._print(None, " ", text)

        try:
            yield detail
        except BaseException:
            step.end, step.failed = self.elapsed, True
            self._print(step.end, "✗", title, "red")
            raise
        step.end = self.elapsed
        self._print(step.end, "✓", f"{title}  ({step.end - step.begin:.1f} s)", "green")

    @staticmethod
    def _print(at: float | None, mark: str, text: str, style: str = "") -> None:
        clock = f"{at:7.1f} s" if at is not None else " " * 9
        err.print(Text(f"{clock}  {mark} {text}", style=style or ("" if at is not None else "dim")), soft_wrap=True)

    def write_json(self, path: Path, **more: object) -> None:
        """Write the steps as JSON, with the keys of `more`; times are in seconds since the beginning."""
        content = {"elapsed": self.elapsed, **more, "steps": [asdict(step) for step in self.steps]}
        write_atomically(path, json.dumps(content, indent=2) + "\n")

    def write_page(self, path: Path, title: str, facts: list[str]) -> None:
        """Write the steps as bars on one time axis, in a page without further files."""
        total = self.elapsed or 1.0
        rows = []
        for step in self.steps:
            end = self.elapsed if step.end is None else step.end
            left, width = 100 * step.begin / total, max(0.3, 100 * (end - step.begin) / total)
            details = "".join(f"<div class=detail>{html.escape(text)}</div>" for text in step.details)
            kind = "bar failed" if step.failed else "bar"
            rows.append(
                f"<tr><td class=number>{step.begin:.1f}</td><td class=number>{end - step.begin:.1f}</td>"
                f"<td>{html.escape(step.title)}{details}</td><td class=chart>"
                f'<div class="{kind}" style="margin-left:{left:.2f}%;width:{width:.2f}%"></div></td></tr>'
            )
        items = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
        write_atomically(path, _PAGE.format(title=html.escape(title), rows="\n".join(rows), facts=items))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th {{ white-space: nowrap }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #8884 }}
.number {{ text-align: right; font-variant-numeric: tabular-nums }}
.detail {{ opacity: .7; font-size: .85em; overflow-wrap: anywhere }}
.chart {{ width: 40% }}
.bar {{ background: #2a7ae2; border-radius: 2px; height: 1em; margin-top: .15em }}
.failed {{ background: #c62828 }}
</style></head><body>
<h1>{title}</h1>
<table><thead><tr><th>at, s</th><th>took, s</th><th>step</th><th>when</th></tr></thead><tbody>
{rows}
</tbody></table>
<ul>{facts}</ul>
</body></html>
"""
