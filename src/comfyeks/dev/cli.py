"""`comfyeks dev`: generators and checks of this checkout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from comfyeks.errors import UserError

app = typer.Typer(help="For those who change this project: generated files, charts.", no_args_is_help=True)
charts = typer.Typer(help="Render the charts; generate their schemas, READMEs and values files.", no_args_is_help=True)
app.add_typer(charts, name="charts")


@contextmanager
def developers_dependencies() -> Iterator[None]:
    """What is imported inside may need more than an operator has. Raises UserError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"`comfyeks dev` needs the developers' dependencies, and {error.name} is missing: run `make setup`"
        ) from error


@app.command()
def reference(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 when a page is stale.")] = False,
) -> None:
    """Write the pages and pictures of docs/ that are generated from commands, settings and Terraform."""
    with developers_dependencies():
        from comfyeks.dev.reference import write
    write(check=check)


@charts.command()
def generate() -> None:
    """Write schemas, README tables and values per instance type again."""
    with developers_dependencies():
        from comfyeks.dev.charts import generate
    generate()


@charts.command()
def verify() -> None:
    """Are the generated files what `generate` would write? Exit code 1 when not."""
    with developers_dependencies():
        from comfyeks.dev.charts import verify
    verify()


@charts.command()
def render(
    chart: Annotated[str, typer.Argument(help="comfyui or karpenter-gpu")],
    values: Annotated[list[Path] | None, typer.Option("--values", "-f", help="Values file; later ones win.")] = None,
    set_values: Annotated[list[str] | None, typer.Option("--set", help="KEY.KEY=VALUE, the value as YAML.")] = None,
    release: Annotated[str | None, typer.Option(help="Release name; the chart's unless given.")] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")] = "comfyui",
    validate: Annotated[bool, typer.Option(help="Check against the schemas of Kubernetes and Karpenter.")] = False,
) -> None:
    """Print the objects that a chart makes of some values."""
    with developers_dependencies():
        from comfyeks.dev.charts import render
    render(chart, values or [], set_values or [], release, namespace, validate=validate)
