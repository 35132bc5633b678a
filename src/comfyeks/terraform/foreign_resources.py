"""Resources in the deployment's own VPC that Terraform did not create. AWS deletes no VPC that is in use.

Found before a destroy begins, they stop it; found after one failed, they explain it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import boto3

from comfyeks.aws_account import ec2_resources, instances
from comfyeks.errors import UserError
from comfyeks.terraform.protected_resources import Plan

NODE_GROUP_TAG = "eks:nodegroup-name"  # EKS ends these with their group


def refuse(region: str, plan: Plan) -> None:
    """Raise UserError naming the foreign resources in a VPC that a plan would delete.

    Without this, Terraform would try for twenty minutes, after it has deleted the cluster.
    """
    known = _known(plan)
    for vpc in networks(plan):
        if found := _created_by_others(vpc, region, known):
            raise UserError(
                f"the VPC {vpc} cannot be deleted while it holds resources that this deployment did not create: "
                f"{'; '.join(found)}. "
                "Delete them, then run the same command again; Terraform has deleted nothing yet"
            )


def networks(plan: Plan) -> list[str]:
    """Ids of the VPCs that a plan would delete."""
    return [
        change["change"]["before"]["id"]
        for change in plan.get("resource_changes", [])
        if change["type"] == "aws_vpc" and change["change"]["actions"] == ["delete"]
    ]


def dependents(vpc: str, region: str, plan: Plan) -> list[str]:
    """Everything that keeps AWS from deleting a VPC, after a destroy failed.

    More than what `refuse` looks for: AWS services create security groups, endpoints and interfaces in a VPC, and
    mostly delete them again.
    """
    known = _known(plan)
    return [
        *_created_by_others(vpc, region, known),
        *_security_groups(vpc, region, known),
        *_route_tables(vpc, region, known),
        *_endpoints(vpc, region, known),
        *_interfaces(vpc, region),
    ]


def _created_by_others(vpc: str, region: str, known: set[str]) -> list[str]:
    """Resources that only a person or a controller can have created."""
    return [*_instances(vpc, region), *_load_balancers(vpc, region, known), *_subnets(vpc, region, known)]


def _instances(vpc: str, region: str) -> Iterator[str]:
    for instance in instances(region, _inside(vpc)):
        if NODE_GROUP_TAG not in _tags(instance):
            yield f"instance {instance['InstanceId']}"


def _load_balancers(vpc: str, region: str, known: set[str]) -> Iterator[str]:
    for page in boto3.client("elbv2", region_name=region).get_paginator("describe_load_balancers").paginate():
        for balancer in page["LoadBalancers"]:
            if balancer["VpcId"] == vpc and balancer["LoadBalancerArn"] not in known:
                yield f"load balancer {balancer['LoadBalancerName']}"


def _subnets(vpc: str, region: str, known: set[str]) -> Iterator[str]:
    for subnet in ec2_resources(region, "describe_subnets", "Subnets", _inside(vpc)):
        if subnet["SubnetId"] not in known:
            yield f"subnet {subnet['SubnetId']} ({subnet['CidrBlock']})"


def _security_groups(vpc: str, region: str, known: set[str]) -> Iterator[str]:
    for group in ec2_resources(region, "describe_security_groups", "SecurityGroups", _inside(vpc)):
        if group["GroupName"] != "default" and group["GroupId"] not in known:
            yield f"security group {group['GroupId']} ({group['GroupName']})"


def _route_tables(vpc: str, region: str, known: set[str]) -> Iterator[str]:
    for table in ec2_resources(region, "describe_route_tables", "RouteTables", _inside(vpc)):
        main = any(association.get("Main") for association in table["Associations"])
        if not main and table["RouteTableId"] not in known:
            yield f"route table {table['RouteTableId']}"


def _endpoints(vpc: str, region: str, known: set[str]) -> Iterator[str]:
    for endpoint in ec2_resources(region, "describe_vpc_endpoints", "VpcEndpoints", _inside(vpc)):
        if endpoint["State"] not in ("deleting", "deleted") and endpoint["VpcEndpointId"] not in known:
            yield f"endpoint {endpoint['VpcEndpointId']} ({endpoint['ServiceName']})"


def _interfaces(vpc: str, region: str) -> Iterator[str]:
    """All network interfaces with their descriptions: each blocks its subnet and its security groups."""
    for interface in ec2_resources(region, "describe_network_interfaces", "NetworkInterfaces", _inside(vpc)):
        about = interface.get("Description") or interface["Status"]
        yield f"network interface {interface['NetworkInterfaceId']} ({about})"


def _inside(vpc: str) -> list[Any]:
    return [{"Name": "vpc-id", "Values": [vpc]}]


def _known(plan: Plan) -> set[str]:
    """Ids of all resources in the state."""
    return {
        change["change"]["before"].get("id", "")
        for change in plan.get("resource_changes", [])
        if change["mode"] == "managed" and change["change"]["before"]
    }


def _tags(resource: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in resource.get("Tags", [])}
