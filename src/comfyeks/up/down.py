"""The steps of `comfyeks down`, the reverse of `up`: pods and GPU nodes first, data last and only if asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from comfyeks.aws_account import find_cluster, gpu_instances
from comfyeks.console import note
from comfyeks.errors import OperationError
from comfyeks.kubernetes import addons, kubeconfig
from comfyeks.kubernetes.helm import Release
from comfyeks.platform import apply as platform_apply
from comfyeks.terraform import state_bucket
from comfyeks.up import remaining_resources
from comfyeks.up.engine import CHECK, Step
from comfyeks.up.run_context import POOLS_NAMESPACE, POOLS_RELEASE, RunContext

# A node ends once its pod has: jobs and uploads have up to ten minutes, then the node drains.
GONE_SECONDS = 30 * 60
POLL_SECONDS = 5.0
REPORT_SECONDS = 30.0

BINDINGS = "/apis/elbv2.k8s.aws/v1beta1/targetgroupbindings"
POOLS = "/apis/karpenter.sh/v1/nodepools"
CLAIMS = "/apis/karpenter.sh/v1/nodeclaims"


@dataclass
class DownContext(RunContext):
    """`with_data`: delete the buckets, images and Terraform's state too."""

    with_data: bool = False

    def has_cluster(self) -> bool:
        """Return whether the cluster, and what runs in it, still exists."""
        return find_cluster(self.deployment) is not None


def pending_context(run: DownContext) -> str | None:
    return "a kubectl context" if run.kube_context is None and run.has_cluster() else None


def context(run: DownContext) -> None:
    run.kube_context = kubeconfig.add_context(run.deployment)


def pending_workload(run: DownContext) -> str | None:
    if not run.has_cluster():
        return None
    pending = [f"uninstall {run.release}"] if run.helm.installed(_named(run.release, run.namespace)) else []
    pending += [f"wait for the end of target group binding {name}" for name in _names(run, BINDINGS)]
    return ", ".join(pending) or None


def workload(run: DownContext) -> None:
    """Uninstall ComfyUI: pods finish their jobs, and leave the load balancer."""
    run.helm.uninstall(_named(run.release, run.namespace))
    _wait("target group bindings", lambda: _names(run, BINDINGS))


def pending_nodes(run: DownContext) -> str | None:
    pools = _names(run, POOLS) + _names(run, CLAIMS) if run.has_cluster() else []
    nodes = gpu_instances(run.deployment)
    pending = [f"{len(pools)} pools and claims" if pools else "", f"{len(nodes)} instances" if nodes else ""]
    return ", ".join(filter(None, pending)) or None


def nodes(run: DownContext) -> None:
    """Delete the node pools and wait until Karpenter has ended every node: without Karpenter nothing would end them."""
    run.helm.uninstall(_named(POOLS_RELEASE, POOLS_NAMESPACE))
    for name in _names(run, POOLS):
        run.cluster.delete(f"{POOLS}/{name}")
    _wait("Karpenter's nodes", lambda: _names(run, POOLS) + _names(run, CLAIMS))
    _wait("GPU instances", lambda: gpu_instances(run.deployment))


def pending_addons(run: DownContext) -> str | None:
    if not run.has_cluster():
        return None
    found = [addon.release for addon in addons.ADDONS if run.helm.installed(_named(addon.release, addon.namespace))]
    return f"uninstall {', '.join(reversed(found))}" if found else None


def remove_addons(run: DownContext) -> None:
    for addon in reversed(addons.ADDONS):
        if run.helm.uninstall(_named(addon.release, addon.namespace)):
            note(f"uninstalled {addon.release}")


def pending_aws(run: DownContext) -> str | None:
    if not state_bucket.exists(run.deployment):
        return None
    if run.with_data:
        return "platform, then buckets with all models, inputs and outputs, registry, Terraform's state"
    return "platform" if platform_apply.exists(run.deployment) else None


def aws(run: DownContext) -> None:
    platform_apply.destroy(run.deployment, with_data=run.with_data)


def verify(run: DownContext) -> None:
    """Print what is kept. Raises OperationError naming what still costs money."""
    for what in remaining_resources.kept(run.deployment):
        note(f"kept: {what}")
    found = remaining_resources.billable(run.deployment)
    if found:
        raise OperationError(
            f"these resources still exist and cost money: {'; '.join(found)}. Run `comfyeks down` again, or delete "
            "them by hand"
        )
    note("nothing else that costs money remains")


def _named(name: str, namespace: str) -> Release:
    return Release(name, namespace, "")


def _names(run: DownContext, path: str) -> list[str]:
    return [item["metadata"]["name"] for item in run.cluster.list(path)]


def _wait(what: str, remaining: Callable[[], list[str]]) -> None:
    """Wait until nothing remains. Raises OperationError naming what does after GONE_SECONDS."""
    begun = reported = time.monotonic()
    while found := remaining():
        now = time.monotonic()
        if now - begun > GONE_SECONDS:
            raise OperationError(f"{what} still exist after {GONE_SECONDS // 60} minutes: {', '.join(found[:5])}")
        if now - reported >= REPORT_SECONDS:
            note(f"waiting until {len(found)} {what} are gone: {', '.join(found[:5])}")
            reported = now
        time.sleep(POLL_SECONDS)


DOWN: tuple[Step[DownContext], ...] = (
    Step("kubeconfig", "a kubectl context for the cluster", pending_context, context, cluster=True),
    Step("comfyui", "pods finish their jobs and leave the load balancer", pending_workload, workload, cluster=True),
    Step("gpu nodes", "node pools are deleted, Karpenter ends its nodes", pending_nodes, nodes, cluster=True),
    Step("add-ons", "device plugin, load balancer controller, Karpenter", pending_addons, remove_addons, cluster=True),
    Step("aws", "function, then the platform; data only with --delete-data", pending_aws, aws),
    Step("verify", "nothing that costs money remains", lambda run: CHECK, verify),
)
