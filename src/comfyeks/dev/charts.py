"""`comfyeks dev charts`: render the charts, generate and verify their files."""

from __future__ import annotations

from pathlib import Path

import typer
import yaml

from comfyeks.charts import render as rendering
from comfyeks.console import note
from comfyeks.dev import chart_files, chart_validation
from comfyeks.errors import OperationError, UserError
from comfyeks.paths import REPO_ROOT


def generate() -> None:
    """Write the charts' generated files: schemas, README tables, values per instance type."""
    changed = chart_files.write()
    for path in changed:
        note(f"wrote {path.relative_to(REPO_ROOT)}")
    note(f"{len(changed)} files changed, {len(chart_files.files())} are generated")


def verify() -> None:
    """Raise OperationError naming generated files that are out of date."""
    stale = [str(path.relative_to(REPO_ROOT)) for path in chart_files.stale()]
    if stale:
        raise OperationError(f"not up to date: {', '.join(stale)}. Run `comfyeks dev charts generate`.")
    note(f"{len(chart_files.files())} generated files are up to date")


def render(
    chart: str, files: list[Path], assignments: list[str], release: str | None, namespace: str, *, validate: bool
) -> None:
    """Print the objects that a chart renders from some values. Raises OperationError when one is invalid."""
    rendered = rendering.render(chart, _nested(assignments), files, release, namespace)
    typer.echo(rendered.to_yaml(), nl=False)
    if validate:
        found = [
            line
            for version in chart_validation.KUBERNETES_VERSIONS
            for line in chart_validation.problems(rendered, version)
        ]
        if found:
            raise OperationError("\n".join(dict.fromkeys(found)))
        note(f"{len(rendered)} objects are valid on Kubernetes {', '.join(chart_validation.KUBERNETES_VERSIONS)}")


def _nested(assignments: list[str]) -> dict[str, object]:
    """["a.b=1"] → {"a": {"b": 1}}."""
    root: dict[str, object] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment}: write KEY.KEY=VALUE, such as --set gpu.count=0")
        *above, last = path.split(".")
        node = root
        for key in above:
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                raise UserError(f"--set {assignment}: {key} already has the value {child!r}")
            node = child
        node[last] = yaml.safe_load(text)
    return root
