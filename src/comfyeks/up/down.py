"""The steps of `comfyeks down`: the reverse, GPU nodes and load balancer first, data last and only if asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from comfyeks.aws_account import find_cluster
from comfyeks.console import note
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError
from comfyeks.kubernetes import addons, kubeconfig
from comfyeks.kubernetes.helm import Release
from comfyeks.platform import apply as platform_apply
from comfyeks.terraform import state_bucket
from comfyeks.up import remaining_resources
from comfyeks.up.engine import Step
from comfyeks.up.work import POOLS_NAMESPACE, POOLS_RELEASE, Work

# A node ends once its pod has: jobs and uploads have up to ten minutes, then the node drains.
GONE_SECONDS = 30 * 60
POLL_SECONDS = 5.0
SAY_SECONDS = 30.0

BINDINGS = "/apis/elbv2.k8s.aws/v1beta1/targetgroupbindings"
POOLS = "/apis/karpenter.sh/v1/nodepools"
CLAIMS = "/apis/karpenter.sh/v1/nodeclaims"


@dataclass
class Down(Work):
    with_data: bool = False

    def there(self) -> bool:
        """Whether there is a cluster to take down anything in."""
        return find_cluster(self.deployment) is not None


def context_left(work: Down) -> str | None:
    return "a kubectl context" if work.context is None and work.there() else None


def context(work: Down) -> None:
    work.context = kubeconfig.add_context(work.deployment)


def workload_left(work: Down) -> str | None:
    if not work.there():
        return None
    left = [f"uninstall {work.release}"] if work.helm.installed(_named(work.release, work.namespace)) else []
    left += [f"release {name}" for name in _names(work, BINDINGS)]
    return ", ".join(left) or None


def workload(work: Down) -> None:
    """The pods end their jobs; the load balancer lets go of them."""
    work.helm.uninstall(_named(work.release, work.namespace))
    _wait("target group bindings", lambda: _names(work, BINDINGS))


def nodes_left(work: Down) -> str | None:
    pools = _names(work, POOLS) + _names(work, CLAIMS) if work.there() else []
    nodes = remaining_resources.gpu_nodes(work.deployment)
    left = [f"{len(pools)} pools and claims" if pools else "", f"{len(nodes)} instances" if nodes else ""]
    return ", ".join(filter(None, left)) or None


def nodes(work: Down) -> None:
    """Karpenter ends every node that it started; without Karpenter nobody would."""
    work.helm.uninstall(_named(POOLS_RELEASE, POOLS_NAMESPACE))
    for name in _names(work, POOLS):
        work.cluster.delete(f"{POOLS}/{name}")
    _wait("Karpenter's nodes", lambda: _names(work, POOLS) + _names(work, CLAIMS))
    _wait("GPU instances", lambda: remaining_resources.gpu_nodes(work.deployment))


def addons_left(work: Down) -> str | None:
    if not work.there():
        return None
    found = [addon.release for addon in addons.ADDONS if work.helm.installed(_named(addon.release, addon.namespace))]
    return f"uninstall {', '.join(reversed(found))}" if found else None


def remove_addons(work: Down) -> None:
    for addon in reversed(addons.ADDONS):
        if work.helm.uninstall(_named(addon.release, addon.namespace)):
            note(f"uninstalled {addon.release}")


def aws_left(work: Down) -> str | None:
    if not state_bucket.exists(work.deployment):
        return None
    if work.with_data:
        return "platform, then buckets with all models, inputs and outputs, registry, Terraform's state"
    return "platform" if platform_apply.exists(work.deployment) else None


def aws(work: Down) -> None:
    platform_apply.destroy(work.deployment, with_data=work.with_data)


def verify(work: Down) -> None:
    """Raises OperationError naming what is still paid for."""
    for what in remaining_resources.kept(work.deployment):
        note(f"kept: {what}")
    found = remaining_resources.billable(work.deployment)
    if found:
        raise OperationError(
            f"still there, and paid for: {'; '.join(found)}. Run `comfyeks down` again, or remove them by hand"
        )
    note("nothing else that is paid for is left")


def _named(name: str, namespace: str) -> Release:
    return Release(name, namespace, "")


def _names(work: Down, path: str) -> list[str]:
    return [thing["metadata"]["name"] for thing in work.cluster.list(path)]


def _wait(what: str, left: Callable[[], list[str]]) -> None:
    """Until nothing is left. Raises OperationError naming what is."""
    begun = spoke = time.monotonic()
    while found := left():
        now = time.monotonic()
        if now - begun > GONE_SECONDS:
            raise OperationError(f"{what} are still there after {GONE_SECONDS // 60} minutes: {', '.join(found[:5])}")
        if now - spoke >= SAY_SECONDS:
            note(f"waiting for the end of {len(found)} {what}: {', '.join(found[:5])}")
            spoke = now
        time.sleep(POLL_SECONDS)


def name_of(deployment: Deployment, *, with_data: bool) -> str:
    """What must be typed to go on."""
    return deployment.bucket("models") if with_data else deployment.name


DOWN: tuple[Step[Down], ...] = (
    Step("kubeconfig", "a kubectl context for the cluster", context_left, context, cluster=True),
    Step("comfyui", "pods end their jobs, the load balancer lets go of them", workload_left, workload, cluster=True),
    Step("gpu nodes", "pools go, Karpenter ends its nodes", nodes_left, nodes, cluster=True),
    Step("add-ons", "device plugin, load balancer controller, Karpenter", addons_left, remove_addons, cluster=True),
    Step("aws", "function, then the platform; data only with --delete-data", aws_left, aws),
    Step("verify", "nothing that is paid for is left", lambda work: "look", verify),
)
