"""`comfyeks scale`: set the number of ComfyUI pods; `auto` returns to the chart's schedule."""

from __future__ import annotations

from typing import Annotated

import typer

from comfyeks.console import note, out
from comfyeks.deployment import current
from comfyeks.errors import UserError
from comfyeks.kubernetes.api import Cluster, path_of
from comfyeks.kubernetes.kubeconfig import checked_context
from comfyeks.options import Project, Region

AUTO = "auto"
# KEDA keeps the number of pods at this annotation's value, and ignores its triggers meanwhile.
PAUSED = "autoscaling.keda.sh/paused-replicas"


def pod_count(pods: str) -> int | None:
    """Parse the number of pods; None stands for the schedule's number. Raises UserError."""
    if pods == AUTO:
        return None
    if not (pods.isascii() and pods.isdigit()):
        raise UserError(
            f"{pods!r} is not a number of pods: expected 0 or more, or `{AUTO}` for the number of the schedule"
        )
    return int(pods)


def scale(cluster: Cluster, namespace: str, release: str, pods: int | None) -> str:
    """Set the number of pods, and return what was done as a sentence.

    Raises:
        UserError: there is no such Deployment, or no schedule to return to.
        OperationError: the cluster does not answer, or refuses the change.
    """
    path = path_of("Deployment", namespace, release)
    deployment = cluster.get(path)
    if deployment is None:
        raise UserError(
            f"there is no Deployment {release} in namespace {namespace}: install the comfyui chart, or give --release "
            "and --namespace"
        )
    schedule = path_of("ScaledObject", namespace, release)
    if cluster.get(schedule) is not None:
        cluster.patch(schedule, {"metadata": {"annotations": {PAUSED: None if pods is None else str(pods)}}})
        if pods is None:
            return f"{release} follows its schedule again"
        return f"{release} has {pods} pods and ignores its schedule; `comfyeks scale {AUTO}` returns to it"
    if pods is None:
        raise UserError(
            f"{release} has no schedule to return to: give a number of pods, or set schedule.windows in the chart"
        )
    cluster.patch(f"{path}/scale", {"spec": {"replicas": pods}})
    return f"{release}: {deployment['spec'].get('replicas', 1)} → {pods} pods"


def run(
    pods: Annotated[str, typer.Argument(help=f"Number of pods, or `{AUTO}` for the number of the schedule.")],
    release: Annotated[str, typer.Option(help="Helm release of the comfyui chart.")] = "comfyui",
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the release.")] = "comfyui",
    context: Annotated[str | None, typer.Option(help="kubectl context; default: the current one.")] = None,
    project: Project = None,
    region: Region = None,
) -> None:
    """Set how many ComfyUI pods run; safe to repeat.

    Pods that are removed finish their jobs first; Karpenter adds and removes nodes.
    """
    count = pod_count(pods)
    deployment = current(project, region)
    chosen = checked_context(context, deployment)
    note(f"{deployment.name} in account {deployment.account}, {deployment.region}; kubectl context {chosen}")
    out.print(scale(Cluster(chosen), namespace, release, count))
