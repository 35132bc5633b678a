"""Options that many commands share: which deployment they work on."""

from typing import Annotated

import typer

Project = Annotated[
    str | None,
    typer.Option(
        "--project",
        envvar="COMFYEKS_PROJECT",
        help="Project name, which distinguishes deployments in one account and region.",
    ),
]
Region = Annotated[str | None, typer.Option("--region", envvar="AWS_REGION", help="AWS region of the deployment.")]
