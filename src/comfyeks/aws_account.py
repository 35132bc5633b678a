"""Facts of an AWS account that several parts ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import ClientError

from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError

if TYPE_CHECKING:
    from mypy_boto3_eks.type_defs import ClusterTypeDef

# (quota code, name) in Service Quotas: docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html
ON_DEMAND_QUOTA = ("L-DB2E81BA", "Running On-Demand G and VT instances")
SPOT_QUOTA = ("L-3819A6DF", "All G and VT Spot Instance Requests")
# Without this service-linked role, which an account that never used spot lacks, no spot instance starts.
SPOT_ROLE = "AWSServiceRoleForEC2Spot"
RUNNING = ("pending", "running")
EXISTING = (*RUNNING, "stopping", "stopped")  # states in which an instance or its disks are paid for


def find_cluster(deployment: Deployment) -> ClusterTypeDef | None:
    """The deployment's EKS cluster, None when there is none. Raises OperationError when EKS does not answer."""
    eks = boto3.client("eks", region_name=deployment.region)
    try:
        return eks.describe_cluster(name=deployment.name)["cluster"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return None
        raise OperationError(f"EKS did not answer whether cluster {deployment.name} exists: {error}") from error


def ec2_resources(
    region: str, operation: str, key: str, filters: Sequence[Any], session: boto3.Session | None = None
) -> Iterator[dict[str, Any]]:
    """What a paginated `describe_…` operation of EC2 finds below `key` of its answers. Raises ClientError."""
    ec2: Any = (session or boto3).client("ec2", region_name=region)
    for page in ec2.get_paginator(operation).paginate(Filters=list(filters)):
        yield from page[key]


def instances(
    region: str, filters: Sequence[Any], states: Sequence[str] = EXISTING, session: boto3.Session | None = None
) -> Iterator[dict[str, Any]]:
    """EC2 instances in one of these states, as EC2 describes them. Raises ClientError."""
    in_state = {"Name": "instance-state-name", "Values": list(states)}
    for reservation in ec2_resources(region, "describe_instances", "Reservations", [*filters, in_state], session):
        yield from reservation["Instances"]


def owned_by_cluster(deployment: Deployment) -> dict[str, Any]:
    """The EC2 filter for what Karpenter and controllers in the cluster created."""
    return {"Name": f"tag:kubernetes.io/cluster/{deployment.name}", "Values": ["owned"]}


def gpu_instances(deployment: Deployment) -> list[str]:
    """Ids of the instances that Karpenter started for this deployment. Raises ClientError."""
    of_pool = {"Name": "tag-key", "Values": ["karpenter.sh/nodepool"]}
    found = instances(deployment.region, [owned_by_cluster(deployment), of_pool])
    return [instance["InstanceId"] for instance in found]
