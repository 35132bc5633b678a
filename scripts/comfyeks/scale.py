"""`comfyeks scale`: how many ComfyUI pods run, now; `auto` gives the word back to the chart's schedule."""

from __future__ import annotations

import json
import subprocess
from typing import Annotated, Any

import typer

from comfyeks import tools
from comfyeks.addons import checked_context, read_kubeconfig
from comfyeks.console import note, out
from comfyeks.deployment import current
from comfyeks.errors import Failure, UserError
from comfyeks.options import Project, Region

AUTO = "auto"
# KEDA holds the number of pods at this annotation's value and lets its triggers rest.
PAUSED = "autoscaling.keda.sh/paused-replicas"


def wanted(pods: str) -> int | None:
    """Number of pods; None for the schedule's own. Raises UserError."""
    if pods == AUTO:
        return None
    if not (pods.isascii() and pods.isdigit()):
        raise UserError(f"{pods!r} is no number of pods: give 0 or more, or `{AUTO}` for the schedule's own")
    return int(pods)


class Kubectl:
    """kubectl on one context and namespace."""

    def __init__(self, context: str, namespace: str):
        self._argv = [str(tools.kubectl()), "--context", context, "--namespace", namespace]

    def __call__(self, *arguments: str) -> str:
        """Standard output. Raises Failure with what kubectl said."""
        done = subprocess.run([*self._argv, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failure(f"`kubectl {' '.join(arguments)}` failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """The object, None when there is none."""
        found = self("get", kind, name, "--ignore-not-found", "--output", "json")
        return dict(json.loads(found)) if found.strip() else None


def scale(kubectl: Kubectl, release: str, pods: int | None) -> str:
    """Set the number of pods; what was done, as a sentence.

    Raises:
        UserError: there is no such Deployment, or no schedule to return to.
    """
    deployment = kubectl.get("deployments.apps", release)
    if deployment is None:
        raise UserError(
            f"there is no Deployment {release} in the namespace: install the comfyui chart, or give --release"
        )
    # Without KEDA the cluster does not know the kind at all.
    has_keda = "scaledobjects" in kubectl("api-resources", "--api-group=keda.sh", "--output", "name")
    scheduled = has_keda and kubectl.get("scaledobjects.keda.sh", release) is not None
    if scheduled:
        if pods is None:
            kubectl("annotate", "scaledobjects.keda.sh", release, f"{PAUSED}-")
            return f"{release} follows its schedule again"
        kubectl("annotate", "scaledobjects.keda.sh", release, f"{PAUSED}={pods}", "--overwrite")
        return f"{release} has {pods} pods whatever its schedule says; `comfyeks scale {AUTO}` gives it back"
    if pods is None:
        raise UserError(
            f"{release} has no schedule to return to: give a number of pods, or set schedule.windows in the chart"
        )
    kubectl("scale", "deployments.apps", release, f"--replicas={pods}")
    return f"{release}: {deployment['spec'].get('replicas', 1)} → {pods} pods"


def run(
    pods: Annotated[str, typer.Argument(help=f"Number of pods, or `{AUTO}`: what the schedule says.")],
    release: Annotated[str, typer.Option(help="Helm release of the comfyui chart.")] = "comfyui",
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")] = "comfyui",
    context: Annotated[str | None, typer.Option(help="kubectl context; default: the current one.")] = None,
    project: Project = None,
    region: Region = None,
) -> None:
    """Set how many ComfyUI pods run. A pod that goes ends its jobs first; Karpenter brings and removes nodes."""
    count = wanted(pods)
    deployment = current(project, region)
    chosen = checked_context(read_kubeconfig(), context, deployment)
    note(f"{deployment.name} in account {deployment.account}, {deployment.region}; kubectl context {chosen}")
    out.print(scale(Kubectl(chosen, namespace), release, count))
