"""Options that several commands share: which deployment they act on."""

from typing import Annotated

import typer

Project = Annotated[
    str | None,
    typer.Option(
        "--project", envvar="COMFYEKS_PROJECT", help="Name that tells deployments in one account and region apart."
    ),
]
Region = Annotated[str | None, typer.Option("--region", envvar="AWS_REGION", help="AWS region.")]
