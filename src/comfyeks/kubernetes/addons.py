"""`comfyeks addons`: the Helm releases that the charts need in the cluster, at pinned versions."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from comfyeks.console import log_file, note, out
from comfyeks.deployment import Deployment, current
from comfyeks.errors import UserError
from comfyeks.kubernetes import kubeconfig
from comfyeks.kubernetes.helm import WAIT, Helm, Release
from comfyeks.options import Project, Region
from comfyeks.versions import VERSIONS

app = typer.Typer(help="Karpenter, load balancer controller, GPU device plugin.", no_args_is_help=True)

# A folder of chart packages (<release>-<version>.tgz), for a machine that cannot reach the chart repositories.
MIRROR_VARIABLE = "COMFYEKS_CHART_MIRROR"


@dataclass(frozen=True)
class Addon:
    """A Helm release. `repository` is None if `chart` is a whole OCI address."""

    release: str
    chart: str
    namespace: str = "kube-system"
    repository: str | None = None
    has_values: bool = True
    flags: tuple[str, ...] = ()
    optional: bool = False


# In the order of installation. Versions: `helm_charts` in versions.yaml.
ADDONS = (
    # Helm never upgrades a chart's own CRDs, so they are a release of their own, ahead of the controller.
    Addon("karpenter-crd", "oci://public.ecr.aws/karpenter/karpenter-crd", has_values=False),
    Addon("karpenter", "oci://public.ecr.aws/karpenter/karpenter", flags=("--skip-crds",)),
    Addon(
        "aws-load-balancer-controller",
        "aws-load-balancer-controller",
        repository="https://aws.github.io/eks-charts",
    ),
    Addon("nvidia-device-plugin", "nvidia-device-plugin", repository="https://nvidia.github.io/k8s-device-plugin"),
    Addon(
        "keda",
        "keda",
        namespace="keda",
        repository="https://kedacore.github.io/charts",
        has_values=False,
        flags=("--create-namespace",),
        optional=True,
    ),
)


@app.callback()
def addons() -> None:
    """Keeps `install` a command of its own while it is the only one."""


@app.command()
def install(
    project: Project = None,
    region: Region = None,
    context: Annotated[str | None, typer.Option(help="kubectl context; default: the current one.")] = None,
    keda: Annotated[
        bool, typer.Option("--keda", help="Also install KEDA, which scheduled and queue-based autoscaling need.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print the commands, and change nothing.")] = False,
) -> None:
    """Install or upgrade the add-ons in order, waiting until each is ready; safe to repeat."""
    deployment = current(project, region)
    releases = [release(addon, deployment) for addon in chosen(keda)]
    if plan:
        to = ["--kube-context", context] if context else []
        for wanted in releases:
            out.print(shlex.join([*wanted.argv(), *to, *WAIT]), soft_wrap=True, markup=False, highlight=False)
        return
    helm = Helm(kubeconfig.checked_context(context, deployment), log_file(deployment.dir / "logs", "addons"))
    for number, wanted in enumerate(releases, start=1):
        note(f"{number}/{len(releases)}  {wanted.name} {wanted.version}")
        helm.upgrade(wanted)


def chosen(keda: bool) -> list[Addon]:
    """Return the add-ons in the order of installation, KEDA only if asked for."""
    return [addon for addon in ADDONS if keda or not addon.optional]


def release(addon: Addon, deployment: Deployment) -> Release:
    """Return the Helm release of an add-on. Raises UserError if its values file or its mirrored chart is missing."""
    values = deployment.addon_values(addon.release)
    if addon.has_values and not values.exists():
        raise UserError(f"{values} is missing: run `comfyeks infra apply`, which writes it from Terraform's outputs")
    version = str(VERSIONS["helm_charts"][addon.release])
    chart, repository = addon.chart, addon.repository
    if folder := os.environ.get(MIRROR_VARIABLE):
        package = Path(folder).expanduser() / f"{addon.release}-{version}.tgz"
        if not package.is_file():
            raise UserError(
                f"{MIRROR_VARIABLE}={folder} has no {package.name}: get it with `helm pull`, or unset the variable"
            )
        chart, repository = str(package), None
    return Release(
        name=addon.release,
        namespace=addon.namespace,
        chart=chart,
        version=version,
        repository=repository,
        values=(values,) if addon.has_values else (),
        flags=addon.flags,
    )
