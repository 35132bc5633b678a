"""Why a pod does not run, in plain words."""

from __future__ import annotations

import pytest

from comfyeks.doctor import pods
from comfyeks.findings import Reason
from tests.support.fake_kubernetes import pod, unscheduled


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("0/3 nodes are available: 3 Insufficient nvidia.com/gpu", "no node that runs now takes it"),
        ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity", "no node that runs now takes it"),
        ("Pod should schedule on: nodeclaim/gpu-default-x", "Karpenter starts a node for it"),
        ("creating instance, InsufficientInstanceCapacity", "AWS has no such instance free"),
        ("VcpuLimitExceeded: You have requested more vCPU capacity", "quota of GPU vCPUs"),
        ('0/1 nodes: persistentvolumeclaim "comfyui-inputs" not found', "a volume that the pod asks for"),
        ("hostPath type check failed: /comfyui-models is not a directory", "models folder is not there yet"),
        ("driver name s3.csi.aws.com not found in the list", "the S3 driver is not on this node"),
        ("Failed to schedule pod, did not tolerate taint (taint=a)", "no pool and no node takes this pod"),
        ('incompatible with nodepool "gpu", label comfyui-on-eks/pool', "no pool and no node takes this pod"),
        ("no instance type satisfied resources", "asks for more than the pool's instance types have"),
        ("something new", "something new"),
    ],
)
def test_why_a_pod_waits_in_plain_words(message: str, expected: str) -> None:
    reason = pods.explain(unscheduled(message))
    assert reason
    assert expected in reason.message
    assert reason.fix


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [("ImagePullBackOff", "image cannot be pulled"), ("CrashLoopBackOff", "starts and ends again")],
)
def test_why_a_container_waits_in_plain_words(waiting: str, expected: str) -> None:
    state = {"name": "comfyui", "state": {"waiting": {"reason": waiting}}}
    reason = pods.explain(pod(phase="Pending", containerStatuses=[state]))
    assert reason
    assert expected in reason.message
    assert "{" not in reason.fix


def test_a_pod_that_waits_for_models_says_where_to_look() -> None:
    gate = {"name": "wait-for-models", "state": {"running": {}}}
    reason = pods.explain(pod(phase="Pending", initContainerStatuses=[gate]))
    assert reason
    assert "logs comfyui-0 -c wait-for-models" in reason.fix
    assert not reason.certain


def test_while_a_node_may_still_come_nothing_is_certain() -> None:
    for message in ("0/1 nodes are available: 1 Insufficient memory", "Pod should schedule on: nodeclaim/gpu-x"):
        reason = pods.explain(unscheduled(message))
        assert reason
        assert not reason.certain


def test_a_pod_that_waits_for_a_node_says_what_keeps_nodes_from_starting() -> None:
    no_role = Reason("ec2nodeclass gpu is not ready: there is no IAM role", "nodeRole")
    reason = pods.explain(unscheduled("0/1 nodes are available: 1 Insufficient nvidia.com/gpu"), [], [no_role])
    assert reason == Reason("no node starts: ec2nodeclass gpu is not ready: there is no IAM role", "nodeRole")
    limit = {"metadata": {}, "message": "all available instance types exceed limits for nodepool"}
    reason = pods.explain(unscheduled("0/1 nodes are available"), [limit], [no_role])
    assert reason
    assert "the pool's own limit" in reason.message  # an event about this very pod counts more


def test_earlier_events_of_the_scheduler_no_longer_apply() -> None:
    before = {"metadata": {}, "message": "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."}
    reason = pods.explain(unscheduled("0/1 nodes are available: 1 Insufficient nvidia.com/gpu"), [before])
    assert reason
    assert "no node that runs now takes it" in reason.message


def test_a_mount_that_was_refused_before_is_not_the_reason_once_the_readiness_gate_runs() -> None:
    gate = {"name": "wait-for-models", "state": {"running": {}}}
    refused = {"metadata": {}, "message": "hostPath type check failed: /comfyui-models is not a directory"}
    reason = pods.explain(pod(phase="Pending", initContainerStatuses=[gate]), [refused])
    assert reason
    assert reason.message == "it waits for the node's models"
