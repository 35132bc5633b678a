"""Why Karpenter starts no node, in plain words: from the conditions of node pools, node classes and node claims.

Errors that Karpenter only logs (a missing role, user data that it cannot read) are looked up in its log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from comfyeks.errors import OperationError
from comfyeks.findings import Reason, short
from comfyeks.kubernetes.api import Cluster, Object, condition, is_true, path_of

_DISCOVERY = (
    "cluster.name of charts/karpenter-gpu has to be the value of the tag: comfyeks infra apply writes both, "
    "then comfyeks up"
)
# A condition of a node class that is not true → plain words, what to do. Names in braces are of its spec.
_CONDITIONS = {
    "SubnetsReady": ("no subnet {subnets}", _DISCOVERY),
    "SecurityGroupsReady": ("no security group {groups}", _DISCOVERY),
    "AMIsReady": (
        "there is no AMI {ami} in this region",
        "nodeClassDefaults.amiAlias of charts/karpenter-gpu names it",
    ),
}
# An error of a node class in Karpenter's log → plain words, what to do.
_ERRORS: tuple[tuple[str, str, str], ...] = (
    (
        r"Role .* not found|NoSuchEntity.*[Rr]ole|role .* cannot be found",
        "there is no IAM role {role} for its nodes",
        "nodeRole of charts/karpenter-gpu has to name it: comfyeks infra apply writes it, then comfyeks up",
    ),
    (
        r"parsing custom UserData",
        "its user data is not MIME text that Karpenter can read",
        "compare the user data with that of charts/karpenter-gpu: comfyeks up installs it again",
    ),
    (
        r"AccessDenied|UnauthorizedOperation|not authorized to perform",
        "AWS denies Karpenter what it asks for",
        "comfyeks infra apply restores its role; a policy of your organization may forbid it",
    ),
)
_LOG_LINES = 500
_JOINS_WITHIN = timedelta(minutes=5)  # boot and join take about two; Karpenter gives up after fifteen


def reasons(cluster: Cluster) -> Iterator[Reason]:
    """Yield what keeps nodes from starting and joining, node classes first: their pools only repeat it."""
    classes = cluster.list(path_of("EC2NodeClass"))
    unready = [each for each in classes if not is_true(each, "Ready")]
    errors = _errors(cluster) if unready else {}
    for node_class in unready:
        yield _of_class(node_class, errors.get(node_class["metadata"]["name"], ""))
    named = {each["metadata"]["name"] for each in unready}
    for pool in cluster.list(path_of("NodePool")):
        node_class = pool.get("spec", {}).get("template", {}).get("spec", {}).get("nodeClassRef", {}).get("name")
        if not is_true(pool, "Ready") and node_class not in named:
            yield _of_pool(pool, node_class, {each["metadata"]["name"] for each in classes})
    for claim in cluster.list(path_of("NodeClaim")):
        yield from _of_claim(claim)


def _of_class(node_class: Object, error: str) -> Reason:
    """`error`: the node class's last error in Karpenter's log."""
    name = node_class["metadata"]["name"]
    message, fix = _why(node_class, error)
    return Reason(f"ec2nodeclass {name} is not ready: {message}", f"{fix}; kubectl describe ec2nodeclass {name}")


def _why(node_class: Object, error: str) -> tuple[str, str]:
    spec = node_class.get("spec", {})
    values = {
        "subnets": _selected(spec.get("subnetSelectorTerms", [])),
        "groups": _selected(spec.get("securityGroupSelectorTerms", [])),
        "ami": next((term["alias"] for term in spec.get("amiSelectorTerms", []) if "alias" in term), "?"),
        "role": spec.get("role", "?"),
    }
    for kind, (message, fix) in _CONDITIONS.items():
        if condition(node_class, kind).get("status") == "False":
            return message.format(**values), fix
    for pattern, message, fix in _ERRORS:
        if re.search(pattern, error):
            return f"{message.format(**values)} ({short(error)})", fix
    conditions = node_class.get("status", {}).get("conditions") or []
    untrue = [each for each in conditions if each.get("status") == "False" and each["type"] != "Ready"]
    messages = [error, *(each.get("message", "") for each in untrue), condition(node_class, "Ready").get("message", "")]
    message = next((message for message in messages if message), "Karpenter has not processed it yet")
    return short(message), "comfyeks infra apply, then comfyeks up"


def _selected(terms: list[Object]) -> str:
    """Describe how a node class selects its subnets or groups: "has the tag a=b", "is subnet-1 or subnet-2"."""
    tags = [f"{key}={value}" for term in terms for key, value in term.get("tags", {}).items()]
    return f"has the tag {' or '.join(tags)}" if tags else f"is {' or '.join(term.get('id', '?') for term in terms)}"


def _of_pool(pool: Object, node_class: str | None, existing: set[str]) -> Reason:
    name = pool["metadata"]["name"]
    if node_class and node_class not in existing:
        message = f"there is no ec2nodeclass {node_class}, which it names"
    else:
        message = condition(pool, "Ready").get("message") or "Karpenter has not processed it yet"
    return Reason(f"nodepool {name} is not ready: {short(message)}", f"kubectl describe nodepool {name}; comfyeks up")


def _of_claim(claim: Object) -> Iterator[Reason]:
    name = claim["metadata"]["name"]
    launched = condition(claim, "Launched")
    if launched.get("status") == "False":
        message = f"node {name} could not be started: {short(launched.get('message', ''))}"
        yield Reason(message, f"kubectl describe nodeclaim {name}", certain=False)
    elif launched.get("status") == "True" and condition(claim, "Registered").get("status") != "True":
        age = datetime.now(UTC) - datetime.fromisoformat(launched["lastTransitionTime"])
        if age > _JOINS_WITHIN:
            minutes = age // timedelta(minutes=1)
            machine = str(claim.get("status", {}).get("providerID", "")).rpartition("/")[2] or name
            yield Reason(
                f"node {name} ({machine}) has been up for {minutes} minutes and has not joined the cluster",
                "its role needs an access entry of type EC2_LINUX (comfyeks infra apply), its subnet a route to the "
                f"API server; boot log: aws ec2 get-console-output --latest --instance-id {machine}",
            )


def _errors(cluster: Cluster) -> dict[str, str]:
    """Return the last error in the logs of Karpenter's pods, by node class; empty if the logs cannot be read."""
    found: dict[str, str] = {}
    for pod in cluster.list(f"{path_of('Pod')}?labelSelector=app.kubernetes.io/name=karpenter"):
        metadata = pod["metadata"]
        with suppress(OperationError):  # the pod is just starting, or its node does not answer
            for line in cluster.log(metadata["namespace"], metadata["name"], "controller", _LOG_LINES).splitlines():
                found |= _error_of(line)
    return found


def _error_of(line: str) -> dict[str, str]:
    """Return the error of a line of Karpenter's log, by node class; empty if it has none."""
    with suppress(ValueError, AttributeError):
        entry = json.loads(line)
        name = (entry.get("EC2NodeClass") or {}).get("name")
        if name and entry.get("level") == "ERROR":
            return {name: str(entry.get("error") or entry.get("message", ""))}
    return {}
