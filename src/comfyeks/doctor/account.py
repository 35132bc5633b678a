"""The AWS account: may the GPU nodes that are asked for be started there?"""

from __future__ import annotations

from collections.abc import Iterator

import boto3

from comfyeks.aws_account import ON_DEMAND_QUOTA, SPOT_QUOTA, SPOT_ROLE
from comfyeks.charts.instance_types import InstanceType
from comfyeks.deployment import Deployment
from comfyeks.findings import ERROR, OK, WARNING, Finding


def quotas(deployment: Deployment, kind: InstanceType, pods: int) -> Iterator[Finding]:
    """vCPUs of GPU nodes that the account may run, on-demand and spot, against what the pods need."""
    client = boto3.client("service-quotas", region_name=deployment.region)
    need = kind.vcpu * max(1, pods)
    allowed = {
        quota: int(client.get_service_quota(ServiceCode="ec2", QuotaCode=quota[0])["Quota"]["Value"])
        for quota in (ON_DEMAND_QUOTA, SPOT_QUOTA)
    }
    severity = WARNING if max(allowed.values()) >= need else ERROR  # with one of them, nodes can start
    for (code, name), vcpus in allowed.items():
        message = f"{name}: {vcpus} vCPUs, {max(1, pods)} × {kind.name} needs {need}"
        if vcpus >= need:
            yield Finding("quota", OK, message)
            continue
        yield Finding(
            "quota",
            severity,
            message,
            f"aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {code} "
            f"--desired-value {need} --region {deployment.region}",
        )


def spot_role(deployment: Deployment) -> Iterator[Finding]:
    """The role that EC2 needs for spot; an account that never used spot has none."""
    iam = boto3.client("iam", region_name=deployment.region)
    try:
        iam.get_role(RoleName=SPOT_ROLE)
    except iam.exceptions.NoSuchEntityException:
        yield Finding(
            "spot role",
            WARNING,
            f"the account has no {SPOT_ROLE}: no spot node can start",
            "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com",
        )
        return
    yield Finding("spot role", OK, f"{SPOT_ROLE} is there")


def zones(deployment: Deployment, kind: InstanceType) -> Iterator[Finding]:
    """Zones that offer the type, against the zones of the cluster's subnets once there are some."""
    ec2 = boto3.client("ec2", region_name=deployment.region)
    pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": [kind.name]}]
    )
    offering = sorted({offer["Location"] for page in pages for offer in page["InstanceTypeOfferings"]})
    if not offering:
        yield Finding(
            "zones",
            ERROR,
            f"no zone of {deployment.region} offers {kind.name}",
            "choose another instance-type in the settings file, or another region",
        )
        return
    subnets = ec2.describe_subnets(Filters=[{"Name": "tag:karpenter.sh/discovery", "Values": [deployment.name]}])[
        "Subnets"
    ]
    ours = sorted({subnet["AvailabilityZone"] for subnet in subnets}) or offering
    both = sorted(set(ours) & set(offering))
    if not both:
        yield Finding(
            "zones",
            ERROR,
            f"{kind.name} is offered in {', '.join(offering)}, but the cluster's subnets are in {', '.join(ours)}",
            "choose another instance-type in the settings file, or add a subnet in one of those zones",
        )
    elif len(both) == 1:
        yield Finding(
            "zones", WARNING, f"only {both[0]} offers {kind.name}: little choice for spot", "add more instance types"
        )
    else:
        yield Finding("zones", OK, f"{kind.name} is offered in {', '.join(both)}")
