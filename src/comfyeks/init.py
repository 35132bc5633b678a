"""`comfyeks init`: ask a few questions, and write the settings file."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import requests
import typer
import yaml

from comfyeks.charts.instance_types import instance_type as known_type
from comfyeks.console import note, out
from comfyeks.deployment import current
from comfyeks.errors import UserError
from comfyeks.files import write_atomically
from comfyeks.options import Project, Region
from comfyeks.platform.cli import Admins, Cidrs, Private
from comfyeks.settings import DeploymentSettings, dump
from comfyeks.terraform.variables import AccessFlags, listed

WHAT_IS_MY_ADDRESS = "https://checkip.amazonaws.com"
_HEADER = """\
# Settings of {name}. `comfyeks up` reads them and keeps them with the deployment; flags and environment win over them.
# platform and data: inputs of the Terraform roots (infra/terraform/*/README.md),
# comfyui and karpenter-gpu: values of the charts (charts/*/README.md).
"""


def run(
    project: Project = None,
    region: Region = None,
    instance_type: Annotated[str | None, typer.Option(help="GPU instance type.")] = None,
    api_allowed_cidrs: Cidrs = None,
    private_api: Private = None,
    cluster_admin_arns: Admins = None,
    keda: Annotated[
        bool | None,
        typer.Option("--keda/--no-keda", help="Install KEDA, for scheduled or queue-based autoscaling of pods."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask no questions: use the proposed value for every option that is not given.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing settings file.")] = False,
) -> None:
    """Ask a few questions and write the settings file of a deployment. Creates nothing in AWS."""
    deployment = current(project, region or os.environ.get("AWS_REGION"))
    path = deployment.settings_file
    if path.exists() and not force:
        raise UserError(f"{path} exists already: edit it, or give --force to replace it")
    interactive = sys.stdin.isatty() and not yes
    note(f"{deployment.name} in account {deployment.account}, {deployment.region}")
    kind = instance_type or _ask("GPU instance type", "g5.2xlarge", interactive)
    known_type(kind)
    cidrs = listed(api_allowed_cidrs)
    if not private_api and cidrs is None:
        cidrs = listed(_ask("IPv4 ranges that may reach the Kubernetes API", _own_address(), interactive))
    access = AccessFlags(
        api_allowed_cidrs=cidrs,
        api_public_access=False if private_api else None,
        cluster_admin_arns=listed(cluster_admin_arns),
    )
    access.check(deployment)
    variables = {name: list(v) if isinstance(v, tuple) else v for name, v in access.decided().items()}
    if keda is None:
        question = "Install KEDA, for scheduled or queue-based autoscaling of pods?"
        keda = interactive and typer.confirm(question, default=False, err=True)
    settings = DeploymentSettings(
        account=deployment.account, region=deployment.region, instance_type=kind, keda=keda, platform=variables
    )
    content = {"account": None, "region": None, "instance-type": kind, **dump(settings)}
    write_atomically(path, _HEADER.format(name=deployment.name) + yaml.safe_dump(content, sort_keys=False))
    out.print(str(path), highlight=False, soft_wrap=True)
    again = f" --project {deployment.project}" if deployment.project else ""
    note(f"next: comfyeks up{again} --plan, then comfyeks up{again}")


def _ask(question: str, proposed: str, interactive: bool) -> str:
    return str(typer.prompt(question, default=proposed or None, err=True)) if interactive else proposed


def _own_address() -> str:
    """Return this machine's public address as a range; empty if it cannot be found out."""
    try:
        address = requests.get(WHAT_IS_MY_ADDRESS, timeout=3).text.strip()
    except requests.RequestException:
        return ""
    return f"{address}/32" if address.count(".") == 3 else ""
