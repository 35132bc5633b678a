"""Why a pod does not run, in plain words, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from comfyeks.doctor import karpenter
from comfyeks.findings import Reason, short
from comfyeks.kubernetes.api import Cluster, Object, condition, path_of

# What Karpenter, kubelet and the scheduler write → plain words, what to do.
_PHRASES: tuple[tuple[str, str, str], ...] = (
    (
        r"InsufficientInstanceCapacity|insufficient capacity|ICE cache",
        "AWS has no such instance free in these zones now",
        "wait, or give the pool more instance types: pools.default.instanceTypes of charts/karpenter-gpu",
    ),
    (
        r"VcpuLimitExceeded|MaxSpotInstanceCountExceeded|vCPU limit",
        "the account's quota of GPU vCPUs is used up",
        "ask for more: comfyeks doctor names the quota and the command",
    ),
    (
        r"(would )?exceed(s|ed)? (the )?limits? (for|of) nodepool|all available instance types exceed limits",
        "the pool's own limit of GPUs is reached",
        "raise pools.default.maxGpus of charts/karpenter-gpu, or scale something else down",
    ),
    (
        r"persistentvolumeclaim .* not found|unbound immediate PersistentVolumeClaims",
        "a volume that the pod asks for is not there",
        "comfyeks up installs the chart's volumes again; kubectl -n comfyui get pvc,pv shows them",
    ),
    (
        r"is not a directory|hostPath type check failed",
        "the node's models folder is not there yet: its disk or model sync is not ready",
        "comfyeks models status; on the node: journalctl -u comfyui-model-sync",
    ),
    (
        r"driver name s3\.csi\.aws\.com not found|MountVolume\.\w+ failed.*s3\.csi",
        "the S3 driver is not on this node",
        "kubectl -n kube-system get pods -l app=s3-csi-node; is the EKS add-on aws-mountpoint-s3-csi-driver active?",
    ),
    (
        r"incompatible with nodepool|did not tolerate taint",
        "no pool and no node takes this pod: its pool, taints or labels do not match",
        "compare pool.name and gpu.taint of charts/comfyui with the pools of charts/karpenter-gpu",
    ),
    (
        r"no instance type (satisfied|has enough|met)",
        "the pod asks for more than the pool's instance types have",
        "install the values of the type: -f charts/comfyui/instance-types/<type>.yaml",
    ),
)
# The scheduler knows only existing nodes, not those that Karpenter can start: its message alone is not yet a fault.
_STARTING = (
    r"Pod should schedule on: nodeclaim/",
    "Karpenter starts a node for it",
    "it takes two to four minutes: kubectl get nodeclaims",
)
_NO_NODE = (
    r"\d+/\d+ nodes",
    "no node that runs now takes it",
    "Karpenter starts one in a minute or two; if not: kubectl get nodepools,nodeclaims",
)
_WAITING = {
    "ImagePullBackOff": (
        "the image cannot be pulled",
        "is the tag in the registry? comfyeks up --plan shows the image",
    ),
    "ErrImagePull": ("the image cannot be pulled", "is the tag in the registry? comfyeks up --plan shows the image"),
    "InvalidImageName": ("the image's name is not valid", "check image.repository and image.tag"),
    "CrashLoopBackOff": (
        "it starts and ends again and again",
        "kubectl -n {namespace} logs {pod} -c {container} --previous",
    ),
    "CreateContainerConfigError": (
        "a secret or config map that it needs is not there",
        "kubectl -n {namespace} describe pod {pod}",
    ),
}
_READINESS_GATE = "wait-for-models"


def explained(cluster: Cluster, namespace: str, selector: str = "") -> list[tuple[Object, Reason | None]]:
    """Return the pods of a namespace, or those of a label selector, each with why it is not ready (None if it is)."""
    path = path_of("Pod", namespace) + (f"?labelSelector={selector}" if selector else "")
    found = cluster.list(path)
    events = cluster.list(path_of("Event", namespace)) if found else []
    waits = any(condition(pod, "PodScheduled").get("status") == "False" for pod in found)
    no_nodes = list(karpenter.reasons(cluster)) if waits else []
    return [(pod, explain(pod, [event for event in events if _is_about(event, pod)], no_nodes)) for pod in found]


def explain(pod: Object, events: Iterable[Object] = (), no_nodes: Sequence[Reason] = ()) -> Reason | None:
    """Return why a pod is not ready; None if it is ready, or has succeeded.

    Args:
        events: those about the pod.
        no_nodes: why no nodes start, see `comfyeks.doctor.karpenter`.
    """
    status = pod.get("status", {})
    if status.get("phase") == "Succeeded" or condition(pod, "Ready").get("status") == "True":
        return None
    names = {"pod": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting", {})
        if (found := _WAITING.get(waiting.get("reason", ""))) is not None:
            message, fix = found
            detail = f" ({waiting['message']})" if waiting.get("message") else ""
            return Reason(f"{container['name']}: {message}{detail}", fix.format(container=container["name"], **names))
    running = {c["name"] for c in status.get("initContainerStatuses", []) if "running" in c.get("state", {})}
    if _READINESS_GATE in running:
        return Reason(
            "it waits for the node's models",
            f"kubectl -n {names['namespace']} logs {names['pod']} -c {_READINESS_GATE} shows how far they are",
            certain=False,
        )
    # The newest event counts most. Of the scheduler only the condition counts: its earlier events, about volumes that
    # were not bound yet or about other nodes, no longer apply.
    texts = [event.get("message", "") for event in sorted(events, key=_when, reverse=True)]
    texts = [text for text in texts if not re.search(_NO_NODE[0], text)]
    texts.append(condition(pod, "PodScheduled").get("message", ""))
    for text in texts:
        for pattern, message, fix in _PHRASES:
            if re.search(pattern, text, re.IGNORECASE):
                return Reason(f"{message} ({short(text)})", fix)
    if condition(pod, "PodScheduled").get("status") == "False":
        if no_nodes:
            return Reason(f"no node starts: {no_nodes[0].message}", no_nodes[0].fix, no_nodes[0].certain)
        for pattern, message, fix in (_STARTING, _NO_NODE):
            if text := next((text for text in texts if re.search(pattern, text)), ""):
                return Reason(f"{message} ({short(text)})", fix, certain=False)
    text = next((text for text in texts if text), "it has only just been created")
    return Reason(short(text), f"kubectl -n {names['namespace']} describe pod {names['pod']}", certain=False)


def _is_about(event: Object, pod: Object) -> bool:
    return bool(event.get("involvedObject", {}).get("name") == pod["metadata"]["name"])


def _when(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")
