"""What `comfyeks down` reports as still costing money: each kind of resource, and nothing of other deployments."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest

from comfyeks.deployment import Deployment
from comfyeks.up.remaining_resources import billable
from tests.support.mocked_aws import make_image, mocked_aws

ACCOUNT, REGION = "123456789012", "us-west-2"
DEPLOYMENT = Deployment("film", REGION, ACCOUNT)
OURS = [{"Key": "Deployment", "Value": DEPLOYMENT.name}]
THEIRS = [{"Key": "Deployment", "Value": "comfyui-ads"}]


@pytest.fixture(autouse=True)
def account() -> Iterator[None]:
    with mocked_aws(ACCOUNT):
        yield


def tagged(kind: str, tags: list[dict[str, str]]) -> list[dict[str, object]]:
    return [{"ResourceType": kind, "Tags": tags}]


def create_one_of_each(name: str, tags: list[dict[str, str]]) -> None:
    """Create one of every resource that costs money, for a deployment."""
    ec2, elb = boto3.client("ec2", region_name=REGION), boto3.client("elbv2", region_name=REGION)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    ec2.run_instances(
        ImageId=make_image(REGION),
        MinCount=1,
        MaxCount=1,
        SubnetId=subnet,
        TagSpecifications=tagged("instance", tags),
    )
    ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1, TagSpecifications=tagged("volume", tags))
    address = ec2.allocate_address(TagSpecifications=tagged("elastic-ip", tags))["AllocationId"]
    ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address, TagSpecifications=tagged("natgateway", tags))
    service = f"com.amazonaws.{REGION}.sqs"
    ec2.create_vpc_endpoint(
        VpcId=vpc,
        ServiceName=service,
        VpcEndpointType="Interface",
        SubnetIds=[subnet],
        TagSpecifications=tagged("vpc-endpoint", tags),
    )
    elb.create_load_balancer(Name=name, Subnets=[subnet], Type="network", Tags=tags)
    boto3.client("efs", region_name=REGION).create_file_system(CreationToken=f"{name}-models")
    kms = boto3.client("kms", region_name=REGION)
    for alias in ("secrets", "messages"):
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        kms.create_alias(AliasName=f"alias/{name}-{alias}", TargetKeyId=key)
    boto3.client("logs", region_name=REGION).create_log_group(logGroupName=f"/aws/eks/{name}/cluster")
    boto3.client("eks", region_name=REGION).create_cluster(
        name=name, roleArn=f"arn:aws:iam::{ACCOUNT}:role/x", resourcesVpcConfig={"subnetIds": [subnet]}
    )


def test_each_kind_of_resource_that_costs_money_is_named_and_keys_until_their_deletion_is_scheduled() -> None:
    create_one_of_each(DEPLOYMENT.name, OURS)
    kinds = [
        "EKS cluster", "instance", "volume", "NAT gateway", "public address", "interface endpoint", "load balancer",
        "EFS file system", "KMS key", "KMS key", "log group",
    ]  # fmt: skip
    found = billable(DEPLOYMENT)
    assert [kind for kind, what in zip(kinds, found, strict=True) if not what.startswith(kind)] == []
    kms = boto3.client("kms", region_name=REGION)
    for alias in ("secrets", "messages"):
        key = kms.describe_key(KeyId=f"alias/{DEPLOYMENT.name}-{alias}")["KeyMetadata"]["KeyId"]
        kms.schedule_key_deletion(KeyId=key)
    assert [what for what in found if not what.startswith("KMS key")] == billable(DEPLOYMENT)


def test_resources_of_other_deployments_are_not_named() -> None:
    create_one_of_each("comfyui-ads", THEIRS)
    found = billable(DEPLOYMENT)
    assert [what for what in found if not what.startswith("NAT gateway")] == []  # moto does not filter those by tag
