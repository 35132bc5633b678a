"""Which GPU nodes have which models: asked of the nodes themselves through SSM."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from comfyeks.deployment import Deployment
from comfyeks.errors import Failure
from comfyeks.models.store import Model

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

_FINAL = ("Success", "Failed", "TimedOut", "Cancelled")
_LIVE_INSTANCES = ["pending", "running"]
_DELIVERY_SECONDS = 30  # SSM's minimum


@dataclass(frozen=True)
class NodeStatus:
    """One node. `state` is its own word (syncing, idle, failed, waiting_for_storage), or "no answer"."""

    node: str
    instance_type: str
    zone: str
    state: str
    ready: bool = False
    converged: bool = False
    files: int = 0
    bytes: int = 0
    missing_files: int = 0
    missing_bytes: int = 0
    finished: str | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def collect(
    session: boto3.Session, deployment: Deployment, models: list[Model], wait: float = 20.0
) -> list[NodeStatus]:
    """The status of every node of the deployment, those that do not answer within `wait` seconds included.

    A node is converged when it is idle, misses nothing, and holds as many files and bytes as `models` has for nodes.
    Raises Failure when EC2 or SSM refuse.
    """
    try:
        instances = _instances(session, deployment)
        answers = _ask(session.client("ssm"), deployment, set(instances), wait) if instances else {}
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        hint = " Has 'make infra' run?" if code == "InvalidDocument" else ""
        raise Failure(f"cannot ask the nodes: {code}: {message.rstrip('.')}.{hint}") from error
    except BotoCoreError as error:
        raise Failure(f"cannot ask the nodes: {error}") from error
    wanted = [model for model in models if model.ignored is None]
    expected = (len(wanted), sum(model.size for model in wanted))
    return [_status(instance, answers.get(node), expected) for node, instance in sorted(instances.items())]


def _instances(session: boto3.Session, deployment: Deployment) -> dict[str, dict[str, Any]]:
    key, value = deployment.sync_tag
    pages = (
        session.client("ec2")
        .get_paginator("describe_instances")
        .paginate(
            Filters=[
                {"Name": f"tag:{key}", "Values": [value]},
                {"Name": "instance-state-name", "Values": _LIVE_INSTANCES},
            ]
        )
    )
    return {
        instance["InstanceId"]: dict(instance)
        for page in pages
        for reservation in page["Reservations"]
        for instance in reservation["Instances"]
    }


def _ask(ssm: SSMClient, deployment: Deployment, nodes: set[str], wait: float) -> dict[str, dict[str, Any]]:
    """Invocations by instance id, as far as they ended in time."""
    key, value = deployment.sync_tag
    command = ssm.send_command(
        DocumentName=deployment.sync_document,
        Targets=[{"Key": f"tag:{key}", "Values": [value]}],
        Parameters={"action": ["status"]},
        MaxConcurrency="100%",
        MaxErrors="100%",
        TimeoutSeconds=_DELIVERY_SECONDS,
    )["Command"]["CommandId"]
    deadline, pause = time.monotonic() + wait, 0.2
    while True:
        pages = ssm.get_paginator("list_command_invocations").paginate(CommandId=command, Details=True)
        ended = {
            invocation["InstanceId"]: dict(invocation)
            for page in pages
            for invocation in page["CommandInvocations"]
            if invocation["Status"] in _FINAL
        }
        if nodes <= ended.keys() or time.monotonic() >= deadline:
            return ended
        time.sleep(pause)
        pause = min(2.0, pause * 1.5)


def _status(instance: dict[str, Any], invocation: dict[str, Any] | None, expected: tuple[int, int]) -> NodeStatus:
    node = NodeStatus(
        node=instance["InstanceId"],
        instance_type=instance.get("InstanceType", ""),
        zone=instance.get("Placement", {}).get("AvailabilityZone", ""),
        state="no answer",
        problem="still booting, or its SSM agent is not connected",
    )
    if invocation is None:
        return node
    output = "".join(plugin.get("Output", "") for plugin in invocation.get("CommandPlugins", []))
    try:
        report = json.loads(output.strip().partition("\n")[0])
        state, files, size = str(report["state"]), int(report["files"]), int(report["bytes"])
    except (ValueError, KeyError, TypeError):
        first_line = output.strip().partition("\n")[0][:200]
        return NodeStatus(
            node.node,
            node.instance_type,
            node.zone,
            state="no answer",
            problem=f"the command ended with {invocation['Status']}: {first_line or 'no output'}",
        )
    missing = int(report.get("missing_files") or 0)
    ready = bool(report.get("ready"))
    behind = (files, size) != expected
    problem = report.get("error")
    if problem is None and state == "idle" and behind and not missing:
        problem = f"holds {files} files, the bucket has {expected[0]}: a sync is due"
    return NodeStatus(
        node=node.node,
        instance_type=node.instance_type,
        zone=node.zone,
        state=state,
        ready=ready,
        converged=ready and state == "idle" and not missing and not behind and not report.get("error"),
        files=files,
        bytes=size,
        missing_files=missing,
        missing_bytes=int(report.get("missing_bytes") or 0),
        finished=report.get("finished"),
        problem=problem,
    )
