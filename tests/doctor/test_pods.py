"""Why a pod does not run, in plain words."""

from __future__ import annotations

import pytest

from comfyeks.doctor import pods
from tests.support.fake_kubernetes import pod, unscheduled


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("0/3 nodes: 3 Insufficient nvidia.com/gpu", "no node has a free GPU"),
        ("creating instance, InsufficientInstanceCapacity", "AWS has no such instance free"),
        ("VcpuLimitExceeded: You have requested more vCPU capacity", "quota of GPU vCPUs"),
        ('0/1 nodes: persistentvolumeclaim "comfyui-inputs" not found', "a volume that the pod asks for"),
        ("hostPath type check failed: /comfyui-models is not a directory", "models folder is not there yet"),
        ("driver name s3.csi.aws.com not found in the list", "the S3 driver is not on this node"),
        ('incompatible with nodepool "gpu", label comfyui-on-eks/pool', "no pool and no node takes this pod"),
        ("no instance type satisfied resources", "asks for more than the pool's instance types have"),
        ("something new", "something new"),
    ],
)
def test_why_a_pod_waits_in_plain_words(message: str, said: str) -> None:
    reason = pods.explain(unscheduled(message))
    assert reason
    assert said in reason.said
    assert reason.fix


@pytest.mark.parametrize(
    ("waiting", "said"),
    [("ImagePullBackOff", "image cannot be pulled"), ("CrashLoopBackOff", "starts and ends again")],
)
def test_why_a_container_waits_in_plain_words(waiting: str, said: str) -> None:
    state = {"name": "comfyui", "state": {"waiting": {"reason": waiting}}}
    reason = pods.explain(pod(phase="Pending", containerStatuses=[state]))
    assert reason
    assert said in reason.said
    assert "{" not in reason.fix


def test_a_pod_that_waits_for_models_says_where_to_look() -> None:
    gate = {"name": "wait-for-models", "state": {"running": {}}}
    reason = pods.explain(pod(phase="Pending", initContainerStatuses=[gate]))
    assert reason
    assert "logs comfyui-0 -c wait-for-models" in reason.fix
    assert not reason.certain
