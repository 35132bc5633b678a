"""`comfyeks addons`: what the charts need in the cluster, installed by Helm at pinned versions."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from comfyeks.console import log_file, note, out
from comfyeks.deployment import Deployment, current
from comfyeks.errors import UserError
from comfyeks.helm import WAIT, Helm, Release
from comfyeks.infra.generated import addon_file
from comfyeks.kubernetes_api import LOCAL_CLUSTER
from comfyeks.options import Project, Region
from comfyeks.versions import VERSIONS

app = typer.Typer(help="Karpenter, load balancer controller, GPU device plugin.", no_args_is_help=True)

# A folder of chart packages, for a machine that reaches no repository: <release>-<version>.tgz.
MIRROR_VARIABLE = "COMFYEKS_CHART_MIRROR"


@dataclass(frozen=True)
class Addon:
    """A Helm release. `repository` is None for a chart that is named by its whole OCI address."""

    release: str
    chart: str
    namespace: str = "kube-system"
    repository: str | None = None
    has_values: bool = True
    flags: tuple[str, ...] = ()
    optional: bool = False


# In the order of installation. Versions: `charts` in versions.yaml.
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
    with_keda: Annotated[bool, typer.Option("--with-keda", help="Also KEDA, which scaling by schedule needs.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print the commands and change nothing.")] = False,
) -> None:
    """Install or upgrade the add-ons, in order, each waited for; safe to repeat."""
    deployment = current(project, region)
    kubeconfig = read_kubeconfig()
    releases = [release(addon, deployment) for addon in chosen(with_keda)]
    if plan:
        to = ["--kube-context", context] if context else []
        for wanted in releases:
            out.print(shlex.join([*wanted.argv(), *to, *WAIT]), soft_wrap=True, markup=False, highlight=False)
        return
    helm = Helm(checked_context(kubeconfig, context, deployment), log_file(deployment.dir / "logs", "addons"))
    for number, wanted in enumerate(releases, start=1):
        note(f"{number}/{len(releases)}  {wanted.name} {wanted.version}")
        helm.upgrade(wanted)


def chosen(with_keda: bool) -> list[Addon]:
    """In the order of installation."""
    return [addon for addon in ADDONS if with_keda or not addon.optional]


def release(addon: Addon, deployment: Deployment) -> Release:
    """The helm release of an add-on. Raises UserError when the values file that `make infra` writes is missing."""
    values = addon_file(deployment, addon.release)
    if addon.has_values and not values.exists():
        raise UserError(f"{values} is missing: run `make infra`, which writes it from Terraform's outputs")
    version = str(VERSIONS["charts"][addon.release])
    chart, repository = addon.chart, addon.repository
    if folder := os.environ.get(MIRROR_VARIABLE):
        package = Path(folder).expanduser() / f"{addon.release}-{version}.tgz"
        if not package.is_file():
            raise UserError(f"{MIRROR_VARIABLE}={folder} has no {package.name}: `helm pull` makes it, or unset it")
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


def read_kubeconfig(env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`current-context` and context name → cluster name (`contexts`), merged as kubectl does: the first file wins."""
    env = os.environ if env is None else env
    paths = [Path(part) for part in env.get("KUBECONFIG", "").split(os.pathsep) if part]
    paths = paths or [Path(env.get("HOME", "~")).expanduser() / ".kube" / "config"]
    merged: dict[str, Any] = {"current-context": None, "contexts": {}}
    for path in paths:
        if not path.exists():
            continue
        try:
            config = yaml.safe_load(path.read_text()) or {}
            contexts = {entry["name"]: entry["context"]["cluster"] for entry in config.get("contexts") or []}
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no kubeconfig: {error}") from error
        merged["current-context"] = merged["current-context"] or config.get("current-context") or None
        merged["contexts"] = {**contexts, **merged["contexts"]}
    return merged


def checked_context(kubeconfig: dict[str, Any], context: str | None, deployment: Deployment) -> str:
    """The context to use, once it is certain that it leads to the deployment's cluster. Raises UserError."""
    remedy = f"`aws eks update-kubeconfig --region {deployment.region} --name {deployment.name}` makes one that does"
    chosen = context or kubeconfig["current-context"]
    if chosen is None:
        raise UserError(f"no kubectl context is chosen; {remedy}")
    cluster = kubeconfig["contexts"].get(chosen)
    if cluster is None:
        known = ", ".join(sorted(kubeconfig["contexts"])) or "none"
        raise UserError(f"there is no kubectl context {chosen!r} (there are: {known}); {remedy}")
    if not leads_to(cluster, deployment):
        raise UserError(
            f"kubectl context {chosen!r} leads to cluster {cluster!r}, not to {deployment.name} in account "
            f"{deployment.account}, {deployment.region}: nothing was changed; {remedy}"
        )
    return str(chosen)


def leads_to(cluster: str, deployment: Deployment) -> bool:
    """Whether a kubeconfig's cluster name is the deployment's: its ARN, NAME.REGION.eksctl.io, or the bare name.

    In a shell that points at the local AWS also the local cluster's.
    """
    if cluster.startswith("arn:"):
        region, account, resource = (cluster.split(":", 5) + [""] * 6)[3:6]
        return (region, account, resource) == (deployment.region, deployment.account, f"cluster/{deployment.name}")
    if os.environ.get("COMFYEKS_LOCAL") == "1" and cluster == LOCAL_CLUSTER:
        return True
    return cluster in (deployment.name, f"{deployment.name}.{deployment.region}.eksctl.io")
