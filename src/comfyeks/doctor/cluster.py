"""Checks of the cluster: it answers, has what the charts need, is healthy; and why pods are not ready.

`prerequisites` looks for what the charts need in any cluster, also one of docs/how-to/existing-cluster.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from comfyeks.doctor import karpenter
from comfyeks.doctor.pods import explained
from comfyeks.findings import ERROR, OK, WARNING, Finding
from comfyeks.kubernetes.api import Cluster, Object, UnreachableError, is_true, path_of
from comfyeks.paths import REPO_ROOT
from comfyeks.versions import VERSIONS

_INSTALL = "comfyeks addons install"


@dataclass(frozen=True)
class Prerequisite:
    """A CRD or an object that must be in the cluster."""

    what: str
    path: str
    severity: str
    fix: str


PREREQUISITES = (
    Prerequisite("Karpenter's CRDs (NodePool)", "/apis/karpenter.sh/v1/nodepools", ERROR, _INSTALL),
    Prerequisite(
        "Karpenter's CRDs for AWS (EC2NodeClass)", "/apis/karpenter.k8s.aws/v1/ec2nodeclasses", ERROR, _INSTALL
    ),
    Prerequisite(
        "the Mountpoint for S3 CSI driver",
        "/apis/storage.k8s.io/v1/csidrivers/s3.csi.aws.com",
        ERROR,
        "add the EKS add-on aws-mountpoint-s3-csi-driver {csi} (comfyeks infra apply does this)",
    ),
    Prerequisite(
        "the load balancer controller's CRDs (TargetGroupBinding)",
        "/apis/elbv2.k8s.aws/v1beta1/targetgroupbindings",
        WARNING,
        f"{_INSTALL}; without it ComfyUI is reached by port-forward only",
    ),
)
KEDA = Prerequisite("KEDA's CRDs (ScaledObject)", "/apis/keda.sh/v1alpha1/scaledobjects", ERROR, f"{_INSTALL} --keda")

# Workloads that GPU pods need: a part of the image's name, what it is, and how to install it.
WORKLOADS = (
    ("/karpenter/controller", "Karpenter", _INSTALL),
    ("k8s-device-plugin", "the NVIDIA device plugin", _INSTALL),
    ("eks-pod-identity-agent", "the Pod Identity agent", "add the EKS add-on eks-pod-identity-agent"),
)


def reachable(cluster: Cluster) -> Iterator[Finding]:
    try:
        version, oldest = cluster.version(), _oldest()
    except UnreachableError as error:
        yield Finding(
            "cluster",
            ERROR,
            str(error),
            "is this machine's address in api_allowed_cidrs of the settings? A private API answers in the VPC only",
        )
        return
    if _numbers(version) < _numbers(oldest):
        yield Finding(
            "cluster",
            ERROR,
            f"Kubernetes is {version} ({cluster.where}), the oldest that works is {oldest}",
            f"upgrade the cluster to {oldest} or newer, one minor version at a time",
        )
    else:
        yield Finding("cluster", OK, f"Kubernetes {version} answers ({cluster.where})")


def prerequisites(cluster: Cluster, keda: bool = False) -> Iterator[Finding]:
    """Look for what must be in the cluster before the charts are installed."""
    csi = VERSIONS["eks_addons"]["aws-mountpoint-s3-csi-driver"]
    for need in (*PREREQUISITES, *((KEDA,) if keda else ())):
        if cluster.get(f"{need.path}") is None:
            yield Finding("prerequisites", need.severity, f"{need.what}: not in the cluster", need.fix.format(csi=csi))
        else:
            yield Finding("prerequisites", OK, f"{need.what}: installed")


def workloads(cluster: Cluster) -> Iterator[Finding]:
    """Check that all pods of the add-ons run."""
    found = [
        (kind, workload)
        for kind, path in (("deployment", "/apis/apps/v1/deployments"), ("daemonset", "/apis/apps/v1/daemonsets"))
        for workload in cluster.list(path)
    ]
    for part, what, fix in WORKLOADS:
        ours = [(kind, workload) for kind, workload in found if any(part in image for image in _images(workload))]
        if not ours:
            yield Finding("add-ons", ERROR, f"{what} is not installed", fix)
        for kind, workload in ours:
            name, namespace = workload["metadata"]["name"], workload["metadata"]["namespace"]
            ready, wanted = _ready(workload)
            none_is_fine = kind == "daemonset"  # without a node for it, it has no pod
            if ready >= wanted and (wanted or none_is_fine):
                yield Finding("add-ons", OK, f"{what}: {ready} of {wanted} pods are ready")
            else:
                yield Finding(
                    "add-ons",
                    ERROR,
                    f"{what}: {ready} of {wanted} pods are ready",
                    f"kubectl -n {namespace} describe {kind} {name}; kubectl -n {namespace} logs {kind}/{name}"
                    if wanted
                    else f"kubectl -n {namespace} scale {kind} {name} --replicas 2",
                )


def pools(cluster: Cluster) -> Iterator[Finding]:
    """Check that Karpenter accepts the pools and node classes, and that the nodes it starts join."""
    for kind in ("EC2NodeClass", "NodePool"):
        for item in cluster.list(path_of(kind)):
            if is_true(item, "Ready"):
                yield Finding("pools", OK, f"{kind.lower()} {item['metadata']['name']} is ready")
    for reason in karpenter.reasons(cluster):
        yield Finding("pools", ERROR if reason.certain else WARNING, reason.message, reason.fix)


def pods(cluster: Cluster, namespace: str) -> Iterator[Finding]:
    """Report every ComfyUI pod, and why it is not ready."""
    found = explained(cluster, namespace)
    if not found:
        yield Finding("pods", OK, f"no pod in namespace {namespace}: scaled to zero, or not installed")
    for pod, reason in found:
        name = pod["metadata"]["name"]
        if reason is None:
            yield Finding("pods", OK, f"{name} is ready")
        else:
            severity = ERROR if reason.certain else WARNING
            yield Finding("pods", severity, f"{name} does not run: {reason.message}", reason.fix)


def _oldest() -> str:
    """Return the oldest Kubernetes version that the charts accept, such as 1.34."""
    chart = yaml.safe_load((REPO_ROOT / "charts" / "comfyui" / "Chart.yaml").read_text())
    return ".".join(str(chart["kubeVersion"]).removeprefix(">=").split(".")[:2])


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _images(workload: Object) -> list[str]:
    return [container["image"] for container in workload["spec"]["template"]["spec"]["containers"]]


def _ready(workload: Object) -> tuple[int, int]:
    """Return how many pods are ready, and how many there should be."""
    status = workload.get("status", {})
    if "desiredNumberScheduled" in status:
        return int(status.get("numberReady", 0)), int(status["desiredNumberScheduled"])
    return int(status.get("readyReplicas", 0)), int(workload["spec"].get("replicas", 1))
