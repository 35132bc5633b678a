"""`comfyeks charts`: what the charts render, and the files that are generated from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from comfyeks.charts import generated, validation
from comfyeks.charts import render as rendering
from comfyeks.console import note
from comfyeks.errors import Failure, UserError
from comfyeks.paths import REPO_ROOT

app = typer.Typer(help="Render the charts; generate their schemas, READMEs and values files.", no_args_is_help=True)


@app.command()
def generate() -> None:
    """Write schemas, README tables and values per instance type anew."""
    changed = generated.write()
    for path in changed:
        note(f"wrote {path.relative_to(REPO_ROOT)}")
    note(f"{len(changed)} files changed, {len(generated.files())} are generated")


@app.command()
def verify() -> None:
    """Are the generated files what `generate` would write? Exit code 1 when not."""
    stale = [str(path.relative_to(REPO_ROOT)) for path in generated.stale()]
    if stale:
        raise Failure(f"not up to date: {', '.join(stale)}. Run `comfyeks charts generate`.")
    note(f"{len(generated.files())} generated files are up to date")


@app.command()
def render(
    chart: Annotated[str, typer.Argument(help="comfyui or karpenter-gpu")],
    values: Annotated[list[Path] | None, typer.Option("--values", "-f", help="values file; later ones win")] = None,
    set_values: Annotated[list[str] | None, typer.Option("--set", help="KEY.KEY=VALUE, the value as YAML")] = None,
    release: Annotated[str | None, typer.Option(help="release name; the chart's unless given")] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n")] = "comfyui",
    validate: Annotated[bool, typer.Option(help="check against the schemas of Kubernetes and Karpenter")] = False,
) -> None:
    """Print the objects that a chart makes of some values."""
    rendered = rendering.render(chart, _nested(set_values or []), values or [], release, namespace)
    typer.echo(rendered.to_yaml(), nl=False)
    if validate:
        found = [line for version in validation.KUBERNETES_VERSIONS for line in validation.problems(rendered, version)]
        if found:
            raise Failure("\n".join(dict.fromkeys(found)))
        note(f"{len(rendered)} objects are valid on Kubernetes {', '.join(validation.KUBERNETES_VERSIONS)}")


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
