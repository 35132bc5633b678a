"""Facts of an AWS account that several parts ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def find_cluster(deployment: Deployment) -> ClusterTypeDef | None:
    """The deployment's EKS cluster, None when there is none. Raises OperationError when EKS does not answer."""
    eks = boto3.client("eks", region_name=deployment.region)
    try:
        return eks.describe_cluster(name=deployment.name)["cluster"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return None
        raise OperationError(f"EKS did not answer whether cluster {deployment.name} exists: {error}") from error
