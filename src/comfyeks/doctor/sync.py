"""Checks of the model sync: the models fit, the nodes have them, and uploads reach the nodes."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
from botocore.exceptions import ClientError

from comfyeks.charts.instance_types import InstanceType
from comfyeks.deployment import Deployment
from comfyeks.findings import ERROR, OK, WARNING, Finding
from comfyeks.models import status
from comfyeks.models.store import ModelStore

GIB = 2**30
# What the node itself keeps free of models (chart values modelSync.settings.imageReserve and scratchReserve), in bytes.
RESERVED = 40 * 10**9


def budget(deployment: Deployment, kind: InstanceType) -> Iterator[Finding]:
    """Compare the size of all models in the bucket with the disk of a node."""
    session = boto3.Session(region_name=deployment.region)
    models = [m for m in ModelStore(session, deployment.bucket("models")).models() if m.ignored is None]
    size = sum(model.size for model in models)
    available = kind.disk_gib * GIB - RESERVED
    sizes = f"{len(models)} models, {size / 1e9:.1f} GB; a {kind.name} has room for {available / 1e9:.0f} GB"
    if size <= available:
        yield Finding("models", OK, sizes)
    else:
        yield Finding(
            "models",
            ERROR,
            f"{sizes}: nodes leave some out",
            "set which come first with modelSync.settings.priority or prefixes of charts/karpenter-gpu, remove models "
            "(comfyeks models rm), or take a type with a larger disk",
        )


def nodes(deployment: Deployment) -> Iterator[Finding]:
    """Report the state of the model sync on every GPU node."""
    session = boto3.Session(region_name=deployment.region)
    models = ModelStore(session, deployment.bucket("models")).models()
    found = status.collect(session, deployment, models)
    if not found:
        yield Finding("model sync", OK, "no GPU node runs")
    for node in found:
        if node.problem is not None:
            yield Finding(
                "model sync",
                ERROR if node.state in ("failed", "no answer") else WARNING,
                f"{node.node}: {node.state}: {node.problem}",
                f"aws ssm start-session --target {node.node}, then: journalctl -u comfyui-model-sync",
            )
        elif node.missing_files:
            yield Finding(
                "model sync",
                WARNING,
                f"{node.node}: {node.missing_files} models ({node.missing_bytes / 1e9:.1f} GB) are missing "
                f"({node.state})",
                "comfyeks models status; wait for the sync, or see whether they fit the disk",
            )
        else:
            yield Finding("model sync", OK, f"{node.node}: {node.state}, {node.files} models")


def dead_letters(deployment: Deployment) -> Iterator[Finding]:
    """Count the model events that could not be handled."""
    sqs = boto3.client("sqs", region_name=deployment.region)
    url = sqs.get_queue_url(QueueName=deployment.dead_letter_queue)["QueueUrl"]
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages", "QueueArn"])
    about = answer["Attributes"]
    count = int(about["ApproximateNumberOfMessages"])
    if count:
        yield Finding(
            "dead letters",
            ERROR,
            f"{count} model events could not be handled",
            f"aws logs tail /aws/lambda/{deployment.sync_function} --since 1d, then "
            f"aws sqs start-message-move-task --source-arn {about['QueueArn']}",
        )
    else:
        yield Finding("dead letters", OK, "none")


def function(deployment: Deployment) -> Iterator[Finding]:
    """Check that the function for model events exists and reads its queue."""
    client = boto3.client("lambda", region_name=deployment.region)
    name = deployment.sync_function
    try:
        client.get_function_configuration(FunctionName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        yield Finding(
            "model events",
            ERROR,
            f"{name} is not deployed: nodes notice uploads only by their timer",
            "comfyeks events deploy",
        )
        return
    mappings = client.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
    states = {mapping["State"] for mapping in mappings}
    if states & {"Enabled", "Enabling", "Creating", "Updating"}:
        yield Finding("model events", OK, f"{name} reads its queue")
    else:
        message = f"its queue mapping is {', '.join(sorted(states))}" if states else "it has no queue mapping"
        yield Finding("model events", ERROR, f"{name} receives no events: {message}", "comfyeks events deploy")
