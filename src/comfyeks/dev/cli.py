"""`comfyeks dev`: generators and checks for this checkout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from comfyeks.errors import UserError

app = typer.Typer(help="Generate files and render charts, for developers of this project.", no_args_is_help=True)
charts = typer.Typer(
    help="Render the charts; generate their schemas, README tables and values files.", no_args_is_help=True
)
app.add_typer(charts, name="charts")


@contextmanager
def developers_dependencies() -> Iterator[None]:
    """Raise UserError when an import in the block needs a dependency that only developers have."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"`comfyeks dev` needs the developers' dependencies, and {error.name} is missing: run `make setup`"
        ) from error


@app.command()
def reference(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if a page is out of date.")
    ] = False,
) -> None:
    """Write the pages and pictures that are generated from commands, settings and Terraform files."""
    with developers_dependencies():
        from comfyeks.dev.reference import write
    write(check=check)


@charts.command()
def generate() -> None:
    """Write the charts' generated files: schemas, README tables, values per instance type."""
    with developers_dependencies():
        from comfyeks.dev.charts import generate
    generate()


@charts.command()
def verify() -> None:
    """Check that the charts' generated files are up to date. Changes nothing; exit code 1 if one is not."""
    with developers_dependencies():
        from comfyeks.dev.charts import verify
    verify()


@charts.command()
def render(
    chart: Annotated[str, typer.Argument(help="Chart: comfyui or karpenter-gpu.")],
    values: Annotated[
        list[Path] | None,
        typer.Option("--values", "-f", help="Values file; later ones override earlier ones. Repeatable."),
    ] = None,
    set_values: Annotated[
        list[str] | None, typer.Option("--set", help="KEY.KEY=VALUE, with the value in YAML. Repeatable.")
    ] = None,
    release: Annotated[str | None, typer.Option(help="Release name. Default: the chart's name.")] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the release.")] = "comfyui",
    validate: Annotated[bool, typer.Option(help="Validate against the schemas of Kubernetes and the CRDs.")] = False,
) -> None:
    """Print the objects that a chart renders from some values."""
    with developers_dependencies():
        from comfyeks.dev.charts import render
    render(chart, values or [], set_values or [], release, namespace, validate=validate)
