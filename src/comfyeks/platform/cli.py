"""`comfyeks infra`: Terraform for people who do not want to type its arguments."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from comfyeks.console import note, out
from comfyeks.deployment import Deployment, current
from comfyeks.errors import UserError
from comfyeks.options import Project, Region
from comfyeks.platform import apply as platform_apply
from comfyeks.terraform import outputs
from comfyeks.terraform.variables import Settings, listed

app = typer.Typer(help="The AWS side: buckets, network, cluster, queues.", no_args_is_help=True)

Cidrs = Annotated[
    str | None,
    typer.Option(
        envvar="COMFYEKS_API_ALLOWED_CIDRS", help="Who may reach the Kubernetes API: IPv4 ranges, separated by commas."
    ),
]
Private = Annotated[
    bool | None,
    typer.Option(
        "--private-api/--public-api",
        envvar="COMFYEKS_PRIVATE_API",
        help="Kubernetes API from inside the VPC only, or also from the allowed ranges.",
    ),
]
Admins = Annotated[
    str | None,
    typer.Option(
        envvar="COMFYEKS_CLUSTER_ADMIN_ARNS",
        help="IAM roles or users that administer the cluster beside its creator, separated by commas.",
    ),
]


@app.command()
def apply(
    project: Project = None,
    region: Region = None,
    api_allowed_cidrs: Cidrs = None,
    private_api: Private = None,
    cluster_admin_arns: Admins = None,
    overwrite_settings: Annotated[
        bool, typer.Option("--overwrite-settings", help="Keep this checkout's settings file over the deployment's.")
    ] = False,
    allow_replacement: Annotated[
        bool, typer.Option("--allow-replacement", help="Go on when the VPC, the cluster or a bucket would be replaced.")
    ] = False,
    skip_checks: Annotated[
        bool,
        typer.Option("--skip-checks", help="Do not ask for quotas, instance types and routes before the first apply."),
    ] = False,
) -> None:
    """Bring everything up, or up to date, and write the generated values; safe to repeat.

    Settings that are not given are those of the last apply, from whatever checkout.
    """
    platform_apply.apply(
        current(project, region),
        Settings(
            api_allowed_cidrs=listed(api_allowed_cidrs),
            api_public_access=None if private_api is None else not private_api,
            cluster_admin_arns=listed(cluster_admin_arns),
        ),
        overwrite_settings=overwrite_settings,
        allow_replacement=allow_replacement,
        skip_checks=skip_checks,
    )


@app.command()
def destroy(
    project: Project = None,
    region: Region = None,
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Also delete all models, inputs, outputs and images.")
    ] = False,
    confirm: Annotated[
        str | None, typer.Option(metavar="NAME", help="The deployment's name, instead of being asked for it.")
    ] = None,
) -> None:
    """Take the platform down; models, inputs, outputs and images stay unless --delete-data is given."""
    deployment = current(project, region)
    lost = "cluster, network and queues" + (", every model, input, output and image" if delete_data else "")
    note(f"This deletes {lost} of {deployment.name} in account {deployment.account}, {deployment.region}.")
    typed = confirm if confirm is not None else _ask(deployment)
    if typed != deployment.name:
        raise UserError(f"{typed!r} is not the deployment's name {deployment.name!r}: nothing was deleted")
    platform_apply.destroy(deployment, with_data=delete_data)


def _ask(deployment: Deployment) -> str:
    try:
        answer: str = typer.prompt("Type its name to go on", err=True)
    except typer.Abort as error:
        raise UserError(f"nobody typed the name; without a terminal, give --confirm {deployment.name}") from error
    return answer


@app.command("outputs")
def show_outputs(project: Project = None, region: Region = None) -> None:
    """Print the platform's outputs as JSON."""
    out.print_json(json.dumps(outputs.platform(current(project, region))))
