"""Which models the GPU nodes have, reported by the nodes themselves through SSM."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from rich.filesize import decimal

from comfyeks.aws_account import RUNNING, instances
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError
from comfyeks.models.store import Model

if TYPE_CHECKING:
    from mypy_boto3_ssm import SSMClient

_FINAL = ("Success", "Failed", "TimedOut", "Cancelled")
_DELIVERY_SECONDS = 30  # SSM's minimum


@dataclass(frozen=True)
class NodeStatus:
    """One node. `state` is reported by it (syncing, idle, failed, waiting_for_storage), or "no answer".

    `left_out`: models for which its disk has no space; `unselected`: models that its pool excludes (prefixes);
    `skipped`: objects that cannot be models. `age` is the seconds since disk and bucket were last equal. `verified` has
    the keys finished, files, replaced, unknown.
    """

    node: str
    instance_type: str
    zone: str
    state: str
    ready: bool = False
    first_ready: bool = False
    converged: bool = False
    files: int = 0
    bytes: int = 0
    missing_files: int = 0
    missing_bytes: int = 0
    budget_bytes: int | None = None
    left_out_count: int = 0
    left_out_bytes: int = 0
    left_out: tuple[str, ...] = ()  # the first few
    unselected: int = 0
    skipped_count: int = 0
    finished: str | None = None
    last_success: str | None = None
    age: int | None = None
    verified: dict[str, Any] | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def collect(
    session: boto3.Session, deployment: Deployment, models: list[Model], wait: float = 20.0
) -> list[NodeStatus]:
    """The status of every node of the deployment, including those that do not answer within `wait` seconds.

    A node is converged when it is idle, misses nothing, leaves nothing out, and reports as many objects and bytes as
    `models`, the content of the bucket, has. Raises OperationError when EC2 or SSM fail.
    """
    return [
        _status(instance, answer, models) for instance, answer in _run_on_nodes(session, deployment, "status", wait)
    ]


def verify(session: boto3.Session, deployment: Deployment, wait: float = 20.0) -> dict[str, str | None]:
    """Ask every node to read all its files and replace damaged ones; return node → id of that run, None for no answer.

    The result is in `verified` of a later `collect`. Raises OperationError when EC2 or SSM fail.
    """
    answers = _run_on_nodes(session, deployment, "verify", wait)
    return {instance["InstanceId"]: (_report(answer) or {}).get("run_id") for instance, answer in answers}


def _run_on_nodes(
    session: boto3.Session, deployment: Deployment, action: str, wait: float
) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Every live node with its answer to the command (None for no answer), in the order of their ids."""
    try:
        found = live_instances(session, deployment)
        answers = _send(session.client("ssm"), deployment, set(found), action, wait) if found else {}
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        hint = " Run `comfyeks infra apply` first." if code == "InvalidDocument" else ""
        raise OperationError(f"cannot ask the nodes: {code}: {message.rstrip('.')}.{hint}") from error
    except BotoCoreError as error:
        raise OperationError(f"cannot ask the nodes: {error}") from error
    return [(instance, answers.get(node)) for node, instance in sorted(found.items())]


def live_instances(session: boto3.Session, deployment: Deployment) -> dict[str, dict[str, Any]]:
    """Instance id → EC2's description of the deployment's GPU nodes that are running or pending."""
    key, value = deployment.sync_tag
    found = instances(deployment.region, [{"Name": f"tag:{key}", "Values": [value]}], RUNNING, session)
    return {instance["InstanceId"]: instance for instance in found}


def _send(
    ssm: SSMClient, deployment: Deployment, nodes: set[str], action: str, wait: float
) -> dict[str, dict[str, Any]]:
    """Instance id → invocation, for those that ended in time."""
    key, value = deployment.sync_tag
    command = ssm.send_command(
        DocumentName=deployment.sync_document,
        Targets=[{"Key": f"tag:{key}", "Values": [value]}],
        Parameters={"action": [action]},
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


def _output(invocation: dict[str, Any]) -> str:
    """The first line of what the command printed."""
    output = "".join(plugin.get("Output", "") for plugin in invocation.get("CommandPlugins", []))
    return output.strip().partition("\n")[0]


def _report(invocation: dict[str, Any] | None) -> dict[str, Any] | None:
    """The JSON object that the node program printed."""
    try:
        report = json.loads(_output(invocation or {}))
    except ValueError:
        return None
    return report if isinstance(report, dict) else None


def _status(instance: dict[str, Any], invocation: dict[str, Any] | None, models: list[Model]) -> NodeStatus:
    node = NodeStatus(
        node=instance["InstanceId"],
        instance_type=instance.get("InstanceType", ""),
        zone=instance.get("Placement", {}).get("AvailabilityZone", ""),
        state="no answer",
        problem="still booting, or its SSM agent is not connected",
    )
    if invocation is None:
        return node
    report = _report(invocation) or {}
    try:
        node = replace(
            node,
            state=str(report["state"]),
            ready=bool(report.get("ready")),
            first_ready=bool(report.get("first_ready")),
            files=int(report["files"]),
            bytes=int(report["bytes"]),
            missing_files=int(report.get("missing_files", 0)),
            missing_bytes=int(report.get("missing_bytes", 0)),
            left_out_count=int(report.get("left_out_count", 0)),
            left_out_bytes=int(report.get("left_out_bytes", 0)),
            unselected=int(report.get("unselected", 0)),
            skipped_count=int(report.get("skipped_count", 0)),
            budget_bytes=(report.get("budget") or {}).get("bytes"),
            left_out=tuple(str(item["key"]) for item in report.get("left_out") or ()),
            finished=report.get("finished"),
            last_success=report.get("last_success"),
            age=_age(report.get("last_success")),
            verified=report.get("verified"),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        line = _output(invocation)[:200] or "no output"
        return replace(node, problem=f"the command ended with {invocation['Status']}: {line}")
    problem = report.get("error") or _behind(node, models) or _left_out(node)
    converged = node.ready and node.state == "idle" and not node.missing_files and not problem
    return replace(node, converged=converged, problem=problem)


def _behind(node: NodeStatus, models: list[Model]) -> str | None:
    """How an idle node differs from the bucket, or None."""
    if node.state != "idle" or node.missing_files:
        return None
    known = node.files + node.left_out_count + node.unselected + node.skipped_count
    wanted = [model.size for model in models if model.ignored is None]
    # Bytes differ after an overwrite; they cannot be compared where the node has only a part of the models.
    whole = node.files + node.left_out_count == len(wanted)
    if known != len(models) or (whole and node.bytes + node.left_out_bytes != sum(wanted)):
        return f"holds {node.files} files, the bucket has {len(wanted)}: a sync is due"
    return None


def _left_out(node: NodeStatus) -> str | None:
    if not node.left_out_count:
        return None
    names = ", ".join(node.left_out[:3]) + (", …" if node.left_out_count > 3 else "")
    return (
        f"no space for {node.left_out_count} models ({decimal(node.left_out_bytes)}): {names}; "
        "use a larger instance type, or set modelSync.settings.prefixes of this pool's node class"
    )


def _age(timestamp: str | None) -> int | None:
    if not timestamp:
        return None
    return max(0, int((datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds()))
