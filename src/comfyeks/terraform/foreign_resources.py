"""What is in the deployment's own network and none of Terraform's: it would hold the network, and a destroy with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import boto3

from comfyeks.errors import UserError

if TYPE_CHECKING:
    from comfyeks.terraform.protected_resources import Plan

NODE_GROUP_TAG = "eks:nodegroup-name"  # EKS ends these with their group


def refuse(region: str, plan: Plan) -> None:
    """Raise UserError naming what others run in the network that a plan would delete.

    Terraform would try for twenty minutes, with the cluster gone already.
    """
    known = _known(plan)
    for vpc in networks(plan):
        if found := _used(vpc, region, known):
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


def left(vpc: str, region: str, plan: Plan) -> list[str]:
    """What holds a network that AWS would not delete.

    More than `refuse` asks for: services of AWS put security groups, endpoints and interfaces into a network, and
    mostly take them out again.
    """
    known = _known(plan)
    return [
        *_used(vpc, region, known),
        *_security_groups(vpc, region, known),
        *_route_tables(vpc, region, known),
        *_endpoints(vpc, region, known),
        *_interfaces(vpc, region),
    ]


def _used(vpc: str, region: str, known: set[str]) -> list[str]:
    """What only somebody can have put there."""
    return [*_machines(vpc, region), *_balancers(vpc, region, known), *_subnets(vpc, region, known)]


def _machines(vpc: str, region: str) -> Iterator[str]:
    alive: list[Any] = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
    pages = boto3.client("ec2", region_name=region).get_paginator("describe_instances")
    for page in pages.paginate(Filters=[*_inside(vpc), *alive]):
        for instance in (each for group in page["Reservations"] for each in group["Instances"]):
            if NODE_GROUP_TAG not in _tags(instance):
                yield f"instance {instance['InstanceId']}"


def _balancers(vpc: str, region: str, known: set[str]) -> Iterator[str]:
    for page in boto3.client("elbv2", region_name=region).get_paginator("describe_load_balancers").paginate():
        for balancer in page["LoadBalancers"]:
            if balancer["VpcId"] == vpc and balancer["LoadBalancerArn"] not in known:
                yield f"load balancer {balancer['LoadBalancerName']}"


def _subnets(vpc: str, region: str, known: set[str]) -> Iterator[str]:
    pages = boto3.client("ec2", region_name=region).get_paginator("describe_subnets")
    for page in pages.paginate(Filters=_inside(vpc)):
        for subnet in page["Subnets"]:
            if subnet["SubnetId"] not in known:
                yield f"subnet {subnet['SubnetId']} ({subnet['CidrBlock']})"


def _security_groups(vpc: str, region: str, known: set[str]) -> Iterator[str]:
    pages = boto3.client("ec2", region_name=region).get_paginator("describe_security_groups")
    for page in pages.paginate(Filters=_inside(vpc)):
        for group in page["SecurityGroups"]:
            if group["GroupName"] != "default" and group["GroupId"] not in known:
                yield f"security group {group['GroupId']} ({group['GroupName']})"


def _route_tables(vpc: str, region: str, known: set[str]) -> Iterator[str]:
    pages = boto3.client("ec2", region_name=region).get_paginator("describe_route_tables")
    for page in pages.paginate(Filters=_inside(vpc)):
        for table in page["RouteTables"]:
            main = any(association.get("Main") for association in table["Associations"])
            if not main and table["RouteTableId"] not in known:
                yield f"route table {table['RouteTableId']}"


def _endpoints(vpc: str, region: str, known: set[str]) -> Iterator[str]:
    pages = boto3.client("ec2", region_name=region).get_paginator("describe_vpc_endpoints")
    for page in pages.paginate(Filters=_inside(vpc)):
        for endpoint in page["VpcEndpoints"]:
            if endpoint["State"] not in ("deleting", "deleted") and endpoint["VpcEndpointId"] not in known:
                yield f"endpoint {endpoint['VpcEndpointId']} ({endpoint['ServiceName']})"


def _interfaces(vpc: str, region: str) -> Iterator[str]:
    """All of them, with what they say of themselves: one holds its subnet and its security group."""
    pages = boto3.client("ec2", region_name=region).get_paginator("describe_network_interfaces")
    for page in pages.paginate(Filters=_inside(vpc)):
        for interface in page["NetworkInterfaces"]:
            about = interface.get("Description") or interface["Status"]
            yield f"network interface {interface['NetworkInterfaceId']} ({about})"


def _inside(vpc: str) -> list[Any]:
    return [{"Name": "vpc-id", "Values": [vpc]}]


def _known(plan: Plan) -> set[str]:
    """Ids of all that the state has."""
    return {
        change["change"]["before"].get("id", "")
        for change in plan.get("resource_changes", [])
        if change["mode"] == "managed" and change["change"]["before"]
    }


def _tags(thing: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in thing.get("Tags", [])}
