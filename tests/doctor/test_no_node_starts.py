"""Why no node starts, in plain words. The same on the real Karpenter: tests/e2e/test_karpenter.py."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from comfyeks.doctor import karpenter
from comfyeks.findings import Reason
from comfyeks.kubernetes.api import Cluster, RefusedError

SPEC = {
    "role": "comfyui-node",
    "amiSelectorTerms": [{"alias": "al2023@v20260714"}],
    "subnetSelectorTerms": [{"tags": {"karpenter.sh/discovery": "comfyui"}}],
    "securityGroupSelectorTerms": [{"tags": {"karpenter.sh/discovery": "comfyui"}}],
}


def thing(name: str, spec: dict[str, Any] | None = None, **conditions: str) -> dict[str, Any]:
    """An object whose conditions are "True", or false with the text as their message."""
    listed = [
        {"type": kind, "status": "True", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        if text == "True"
        else {"type": kind, "status": "Unknown" if text == "?" else "False", "message": text}
        for kind, text in conditions.items()
    ]
    return {"metadata": {"name": name}, "spec": spec or {}, "status": {"conditions": listed}}


class Answers(Cluster):
    """A cluster with these node classes, pools and claims, whose Karpenter has written `log`."""

    def __init__(self, *, classes: Any = (), pools: Any = (), claims: Any = (), log: list[str] | None = None) -> None:
        self._lists = {"ec2nodeclasses": classes, "nodepools": pools, "nodeclaims": claims}
        self._log = log

    def list(self, path: str) -> list[dict[str, Any]]:
        if "/pods" in path:
            return [{"metadata": {"namespace": "kube-system", "name": "karpenter-0"}}]
        return list(self._lists[path.rpartition("/")[2]])

    def log(self, namespace: str, pod: str, container: str, lines: int) -> str:
        if self._log is None:
            raise RefusedError("GET …/log: 403 forbidden", "forbidden")
        return "\n".join(self._log)


def error(of: str, text: str) -> str:
    return json.dumps({"level": "ERROR", "message": "Reconciler error", "EC2NodeClass": {"name": of}, "error": text})


def only(cluster: Cluster) -> Reason:
    [found] = karpenter.reasons(cluster)
    assert found.fix
    return found


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("SubnetsReady", "no subnet has the tag karpenter.sh/discovery=comfyui"),
        ("SecurityGroupsReady", "no security group has the tag karpenter.sh/discovery=comfyui"),
        ("AMIsReady", "there is no AMI al2023@v20260714 in this region"),
    ],
)
def test_what_a_node_class_reports_in_its_conditions(kind: str, expected: str) -> None:
    unready = thing("gpu", SPEC, **{kind: "did not match any", "Ready": f"{kind}=False"})
    reason = only(Answers(classes=[unready], log=[]))
    assert reason.message == f"ec2nodeclass gpu is not ready: {expected}"
    assert reason.certain


def test_subnets_by_their_ids() -> None:
    spec = {**SPEC, "subnetSelectorTerms": [{"id": "subnet-1"}, {"id": "subnet-2"}]}
    unready = thing("gpu", spec, SubnetsReady="SubnetSelector did not match any Subnets", Ready="no")
    assert "no subnet is subnet-1 or subnet-2" in only(Answers(classes=[unready], log=[])).message


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("creating instance profile, adding role: NoSuchEntity: Role x not found", "there is no IAM role comfyui-node"),
        ("parsing custom UserData, multipart: NextPart: EOF", "its user data is not MIME text that Karpenter can read"),
        ("AccessDenied: not authorized to perform iam:PassRole", "AWS denies Karpenter what it asks for"),
        ("something new", "is not ready: something new"),
    ],
)
def test_what_is_only_in_the_log_of_karpenter(written: str, expected: str) -> None:
    unready = thing("gpu", SPEC, ValidationSucceeded="?", Ready="object is awaiting reconciliation")
    log = ["not json", error("other", "not this one"), error("gpu", "before"), error("gpu", written)]
    assert expected in only(Answers(classes=[unready], log=log)).message


def test_without_the_log_the_condition_is_reported() -> None:
    unready = thing("gpu", SPEC, Ready="object is awaiting reconciliation")
    assert "object is awaiting reconciliation" in only(Answers(classes=[unready])).message


def test_a_pool_repeats_nothing_of_its_class_and_names_one_that_is_missing() -> None:
    named = {"template": {"spec": {"nodeClassRef": {"name": "gpu"}}}}
    unready = thing("gpu", SPEC, SubnetsReady="none", Ready="no")
    pool = thing("gpu-default", named, Ready="NodeClassReady=False")
    assert len(list(karpenter.reasons(Answers(classes=[unready], pools=[pool], log=[])))) == 1
    assert "there is no ec2nodeclass gpu" in only(Answers(pools=[pool])).message


def test_a_node_that_does_not_join_is_reported_only_after_some_minutes() -> None:
    claim = thing("gpu-x", Launched="True", Registered="?", Ready="no")
    claim["status"]["providerID"] = "aws:///us-west-2a/i-0123"
    launched = claim["status"]["conditions"][0]
    launched["lastTransitionTime"] = (datetime.now(UTC) - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert list(karpenter.reasons(Answers(claims=[claim]))) == []
    launched["lastTransitionTime"] = (datetime.now(UTC) - timedelta(minutes=70)).strftime("%Y-%m-%dT%H:%M:%SZ")
    reason = only(Answers(claims=[claim]))
    assert "gpu-x (i-0123) has been up for 70 minutes and has not joined" in reason.message
    assert "access entry" in reason.fix


def test_where_everything_is_ready_nothing_is_reported() -> None:
    ready = {"Ready": "True"}
    claim = thing("gpu-x", Launched="True", Registered="True")
    cluster = Answers(classes=[thing("gpu", SPEC, **ready)], pools=[thing("gpu-default", **ready)], claims=[claim])
    assert list(karpenter.reasons(cluster)) == []
