"""Options that several commands have: which deployment they are about."""

from typing import Annotated

import typer

Project = Annotated[
    str | None,
    typer.Option("--project", envvar="COMFYEKS_PROJECT", help="Tells deployments in one account and region apart."),
]
Region = Annotated[str | None, typer.Option("--region", envvar="AWS_REGION", help="AWS region.")]
