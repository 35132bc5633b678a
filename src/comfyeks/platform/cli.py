"""`comfyeks infra`: apply and destroy the Terraform roots without typing Terraform's arguments."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from comfyeks.console import confirm_name, note, out
from comfyeks.deployment import current
from comfyeks.options import Project, Region
from comfyeks.platform import apply as platform_apply
from comfyeks.terraform import outputs
from comfyeks.terraform.variables import AccessFlags, listed

app = typer.Typer(help="The AWS resources: buckets, network, cluster, queues.", no_args_is_help=True)

Cidrs = Annotated[
    str | None,
    typer.Option(
        envvar="COMFYEKS_API_ALLOWED_CIDRS", help="IPv4 ranges that may reach the Kubernetes API, separated by commas."
    ),
]
Private = Annotated[
    bool | None,
    typer.Option(
        "--private-api/--public-api",
        envvar="COMFYEKS_PRIVATE_API",
        help="Kubernetes API reachable from inside the VPC only, or also from the allowed ranges.",
    ),
]
Admins = Annotated[
    str | None,
    typer.Option(
        envvar="COMFYEKS_CLUSTER_ADMIN_ARNS",
        help="ARNs of IAM roles or users that administer the cluster in addition to its creator, separated by commas.",
    ),
]


def access_flags(
    api_allowed_cidrs: str | None, private_api: bool | None, cluster_admin_arns: str | None
) -> AccessFlags:
    """The values of the three options above."""
    return AccessFlags(
        api_allowed_cidrs=listed(api_allowed_cidrs),
        api_public_access=None if private_api is None else not private_api,
        cluster_admin_arns=listed(cluster_admin_arns),
    )


@app.command()
def apply(
    project: Project = None,
    region: Region = None,
    api_allowed_cidrs: Cidrs = None,
    private_api: Private = None,
    cluster_admin_arns: Admins = None,
    overwrite_settings: Annotated[
        bool,
        typer.Option(
            "--overwrite-settings",
            help="Apply this checkout's settings file, even if the one of the last apply differs.",
        ),
    ] = False,
    allow_replacement: Annotated[
        bool, typer.Option("--allow-replacement", help="Continue even if the VPC, the cluster or a bucket is replaced.")
    ] = False,
    skip_checks: Annotated[
        bool,
        typer.Option(
            "--skip-checks", help="Skip the checks of quotas, instance types and routes before the first apply."
        ),
    ] = False,
) -> None:
    """Create or update the AWS resources, and write the generated values; safe to repeat.

    Settings that are not given are those of the last apply, from whatever checkout.
    """
    platform_apply.apply(
        current(project, region),
        access_flags(api_allowed_cidrs, private_api, cluster_admin_arns),
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
        str | None, typer.Option(metavar="NAME", help="The deployment's name, which the command asks for otherwise.")
    ] = None,
) -> None:
    """Destroy the platform; models, inputs, outputs and images are kept unless --delete-data is given."""
    deployment = current(project, region)
    lost = "cluster, network and queues" + (", every model, input, output and image" if delete_data else "")
    note(f"This deletes {lost} of {deployment.name} in account {deployment.account}, {deployment.region}.")
    confirm_name("the deployment", deployment.name, confirm)
    platform_apply.destroy(deployment, with_data=delete_data)


@app.command("outputs")
def show_outputs(project: Project = None, region: Region = None) -> None:
    """Print the platform's outputs as JSON."""
    out.print_json(json.dumps(outputs.platform(current(project, region))))
