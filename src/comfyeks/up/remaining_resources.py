"""The resources of a deployment that still exist: what is kept on purpose, and what costs money and should be gone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.exceptions import ClientError

from comfyeks.aws_account import ec2_resources, find_cluster, instances, owned_by_cluster
from comfyeks.deployment import BUCKET_KINDS, Deployment
from comfyeks.errors import OperationError


def billable(deployment: Deployment) -> list[str]:
    """Return what costs money and is not data, as `kind id`. Raises OperationError if AWS does not answer."""
    checks = (
        _clusters,
        _all_instances,
        _volumes,
        _gateways,
        _addresses,
        _endpoints,
        _balancers,
        _file_systems,
        _keys,
        _logs,
    )
    try:
        with ThreadPoolExecutor() as pool:
            return [found for answer in pool.map(lambda check: list(check(deployment)), checks) for found in answer]
    except ClientError as error:
        raise OperationError(f"AWS did not answer which resources remain: {error}") from error


def kept(deployment: Deployment) -> list[str]:
    """Return buckets and registry, which stay until they are deleted on purpose. Raises OperationError."""
    s3 = boto3.client("s3", region_name=deployment.region)
    ecr = boto3.client("ecr", region_name=deployment.region)
    found = []
    for kind in BUCKET_KINDS:
        try:
            s3.head_bucket(Bucket=deployment.bucket(kind), ExpectedBucketOwner=deployment.account)
            found.append(f"s3://{deployment.bucket(kind)}")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise OperationError(f"S3 did not answer whether {deployment.bucket(kind)} exists: {error}") from error
    try:
        ecr.describe_repositories(repositoryNames=[deployment.image_repository])
        found.append(f"ECR repository {deployment.image_repository}")
    except ecr.exceptions.RepositoryNotFoundException:
        pass
    return found


def _ours(deployment: Deployment) -> list[dict[str, Any]]:
    """Return the filter for the tag that everything of Terraform carries."""
    return [{"Name": "tag:Deployment", "Values": [deployment.name]}]


def _all_instances(deployment: Deployment) -> Iterator[str]:
    for filters in ([owned_by_cluster(deployment)], _ours(deployment)):
        yield from (f"instance {each['InstanceId']}" for each in instances(deployment.region, filters))


def _volumes(deployment: Deployment) -> Iterator[str]:
    seen = set()
    for filters in ([owned_by_cluster(deployment)], _ours(deployment)):
        for volume in ec2_resources(deployment.region, "describe_volumes", "Volumes", filters):
            if volume["VolumeId"] not in seen:
                seen.add(volume["VolumeId"])
                yield f"volume {volume['VolumeId']} ({volume['Size']} GiB)"


def _gateways(deployment: Deployment) -> Iterator[str]:
    for gateway in ec2_resources(deployment.region, "describe_nat_gateways", "NatGateways", _ours(deployment)):
        if gateway["State"] not in ("deleted", "deleting"):
            yield f"NAT gateway {gateway['NatGatewayId']}"


def _addresses(deployment: Deployment) -> Iterator[str]:
    ec2: Any = boto3.client("ec2", region_name=deployment.region)
    for address in ec2.describe_addresses(Filters=_ours(deployment))["Addresses"]:
        yield f"public address {address.get('PublicIp', address.get('AllocationId'))}"


def _endpoints(deployment: Deployment) -> Iterator[str]:
    for endpoint in ec2_resources(deployment.region, "describe_vpc_endpoints", "VpcEndpoints", _ours(deployment)):
        if endpoint["VpcEndpointType"] == "Interface" and endpoint["State"] not in ("deleted", "deleting"):
            yield f"interface endpoint {endpoint['VpcEndpointId']}"


def _file_systems(deployment: Deployment) -> Iterator[str]:
    efs = boto3.client("efs", region_name=deployment.region)
    for found in efs.describe_file_systems(CreationToken=deployment.models_file_system)["FileSystems"]:
        if found["LifeCycleState"] not in ("deleted", "deleting"):
            yield f"EFS file system {found['FileSystemId']}"


def _keys(deployment: Deployment) -> Iterator[str]:
    """Yield keys whose deletion is not scheduled: until then they cost money."""
    kms = boto3.client("kms", region_name=deployment.region)
    for page in kms.get_paginator("list_aliases").paginate():
        for alias in page["Aliases"]:
            if alias["AliasName"] in deployment.key_aliases:
                key = kms.describe_key(KeyId=alias["TargetKeyId"])["KeyMetadata"]
                if key["KeyState"] != "PendingDeletion":
                    yield f"KMS key {alias['AliasName']}"


def _clusters(deployment: Deployment) -> Iterator[str]:
    if find_cluster(deployment) is not None:
        yield f"EKS cluster {deployment.name}"


def _balancers(deployment: Deployment) -> Iterator[str]:
    """Yield load balancers of Terraform, and those that the load balancer controller created for an Ingress."""
    elb = boto3.client("elbv2", region_name=deployment.region)
    arns = [
        balancer["LoadBalancerArn"]
        for page in elb.get_paginator("describe_load_balancers").paginate()
        for balancer in page["LoadBalancers"]
    ]
    for start in range(0, len(arns), 20):  # the most that DescribeTags takes
        for described in elb.describe_tags(ResourceArns=arns[start : start + 20])["TagDescriptions"]:
            tags = {tag["Key"]: tag["Value"] for tag in described["Tags"]}
            if deployment.name in (tags.get("Deployment"), tags.get("elbv2.k8s.aws/cluster")):
                yield f"load balancer {described['ResourceArn'].split(':', 5)[5]}"


def _logs(deployment: Deployment) -> Iterator[str]:
    logs = boto3.client("logs", region_name=deployment.region)
    for prefix in deployment.log_group_prefixes:
        for group in logs.describe_log_groups(logGroupNamePrefix=prefix)["logGroups"]:
            yield f"log group {group['logGroupName']}"
