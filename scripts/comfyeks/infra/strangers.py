"""What is in the deployment's own network and none of Terraform's: it would hold the network, and a destroy with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import boto3

from comfyeks.errors import UserError

if TYPE_CHECKING:
    from comfyeks.infra.terraform import Plan

NODE_GROUP_TAG = "eks:nodegroup-name"  # EKS ends these with their group
CLUSTER_TAG = "aws:eks:cluster-name"  # EKS removes this group with the cluster


def refuse(region: str, plan: Plan) -> None:
    """Raise UserError naming what is in the network that a plan would delete, and that nothing deletes along with it.

    Terraform would try for twenty minutes, with the cluster gone already.
    """
    known = _known(plan)
    for vpc in networks(plan):
        if found := list(in_network(vpc, region, known)):
            raise UserError(
                f"somebody else uses the network {vpc}, and AWS deletes none that is in use: {'; '.join(found)}. "
                "Delete that, then run this again; Terraform has deleted nothing yet"
            )


def networks(plan: Plan) -> list[str]:
    """Ids of the VPCs that a plan would delete."""
    return [
        change["change"]["before"]["id"]
        for change in plan.get("resource_changes", [])
        if change["type"] == "aws_vpc" and change["change"]["actions"] == ["delete"]
    ]


def interfaces(vpc: str, region: str) -> list[str]:
    """Every network interface that is left in a VPC, and what it says of itself: it holds subnet and security group."""
    pages = boto3.client("ec2", region_name=region).get_paginator("describe_network_interfaces")
    found = [
        i for page in pages.paginate(Filters=[{"Name": "vpc-id", "Values": [vpc]}]) for i in page["NetworkInterfaces"]
    ]
    return [f"network interface {i['NetworkInterfaceId']} ({i.get('Description') or i['Status']})" for i in found]


def in_network(vpc: str, region: str, known: set[str]) -> Iterator[str]:
    """What is in a VPC and not `known` (ids), one text for each."""
    ec2, elb = boto3.client("ec2", region_name=region), boto3.client("elbv2", region_name=region)
    inside: list[Any] = [{"Name": "vpc-id", "Values": [vpc]}]
    alive: list[Any] = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
    for page in ec2.get_paginator("describe_instances").paginate(Filters=[*inside, *alive]):
        for instance in (each for group in page["Reservations"] for each in group["Instances"]):
            if NODE_GROUP_TAG not in _tags(instance):
                yield f"instance {instance['InstanceId']}"
    for balancers in elb.get_paginator("describe_load_balancers").paginate():
        for balancer in balancers["LoadBalancers"]:
            if balancer["VpcId"] == vpc and balancer["LoadBalancerArn"] not in known:
                yield f"load balancer {balancer['LoadBalancerName']}"
    for groups in ec2.get_paginator("describe_security_groups").paginate(Filters=inside):
        for security_group in groups["SecurityGroups"]:
            own = security_group["GroupName"] == "default" or CLUSTER_TAG in _tags(security_group)
            if not own and security_group["GroupId"] not in known:
                yield f"security group {security_group['GroupId']} ({security_group['GroupName']})"
    for subnets in ec2.get_paginator("describe_subnets").paginate(Filters=inside):
        for subnet in subnets["Subnets"]:
            if subnet["SubnetId"] not in known:
                yield f"subnet {subnet['SubnetId']} ({subnet['CidrBlock']})"
    for tables in ec2.get_paginator("describe_route_tables").paginate(Filters=inside):
        for table in tables["RouteTables"]:
            main = any(association.get("Main") for association in table["Associations"])
            if not main and table["RouteTableId"] not in known:
                yield f"route table {table['RouteTableId']}"
    for endpoints in ec2.get_paginator("describe_vpc_endpoints").paginate(Filters=inside):
        for endpoint in endpoints["VpcEndpoints"]:
            if endpoint["State"] not in ("deleting", "deleted") and endpoint["VpcEndpointId"] not in known:
                yield f"endpoint {endpoint['VpcEndpointId']} ({endpoint['ServiceName']})"


def _known(plan: Plan) -> set[str]:
    """Ids of all that the state has."""
    return {
        change["change"]["before"].get("id", "")
        for change in plan.get("resource_changes", [])
        if change["mode"] == "managed" and change["change"]["before"]
    }


def _tags(thing: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in thing.get("Tags", [])}
