"""Foreign resources in the deployment's VPC stop a destroy before it begins; the deployment's own do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boto3
import pytest

from comfyeks.errors import UserError
from comfyeks.terraform import foreign_resources
from tests.support.deployment import REGION
from tests.support.mocked_aws import make_image


@pytest.fixture
def ec2(aws: None) -> Any:
    return boto3.client("ec2", region_name=REGION)


@pytest.fixture
def vpc(ec2: Any) -> str:
    created: str = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    return created


def make_subnet(ec2: Any, vpc: str, number: int = 0) -> str:
    zone = f"{REGION}{'ab'[number]}"
    created: str = ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=zone)["Subnet"][
        "SubnetId"
    ]
    return created


def make_instance(ec2: Any, vpc: str, **tags: str) -> str:
    spec = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]
    [instance] = ec2.run_instances(
        ImageId=make_image(REGION),
        MinCount=1,
        MaxCount=1,
        SubnetId=make_subnet(ec2, vpc),
        **({"TagSpecifications": spec} if tags else {}),
    )["Instances"]
    created: str = instance["InstanceId"]
    return created


def make_load_balancer(ec2: Any, vpc: str) -> str:
    subnets = [make_subnet(ec2, vpc, number) for number in (0, 1)]
    elb = boto3.client("elbv2", region_name=REGION)
    elb.create_load_balancer(Name="k8s-comfyui", Subnets=subnets, Scheme="internal")
    return "k8s-comfyui"


def make_security_group(ec2: Any, vpc: str) -> str:
    created: str = ec2.create_security_group(GroupName="theirs", Description="d", VpcId=vpc)["GroupId"]
    return created


def make_route_table(ec2: Any, vpc: str) -> str:
    created: str = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    return created


def make_endpoint(ec2: Any, vpc: str) -> str:
    created: str = ec2.create_vpc_endpoint(VpcId=vpc, ServiceName=f"com.amazonaws.{REGION}.s3")["VpcEndpoint"][
        "VpcEndpointId"
    ]
    return created


def plan(vpc: str, *known: str, actions: tuple[str, ...] = ("delete",)) -> dict[str, Any]:
    """A plan that does this to the network and to everything `known`."""
    changes = [("aws_vpc", vpc), *(("aws_thing", each) for each in known)]
    return {
        "resource_changes": [
            {"type": kind, "mode": "managed", "change": {"actions": list(actions), "before": {"id": id_}}}
            for kind, id_ in changes
        ]
    }


@pytest.mark.parametrize("make", [make_instance, make_load_balancer, make_subnet])
def test_resources_of_others_in_the_network_are_named(ec2: Any, vpc: str, make: Callable[[Any, str], str]) -> None:
    theirs = make(ec2, vpc)
    with pytest.raises(
        UserError, match=f"{vpc} cannot be deleted while it holds resources that this deployment did not create"
    ) as raised:
        foreign_resources.refuse(REGION, plan(vpc))
    assert theirs in str(raised.value)


def test_resources_that_aws_services_create_stop_no_destroy_and_are_named_when_they_stay(ec2: Any, vpc: str) -> None:
    """CloudFront deletes its group after the last VPC origin; GuardDuty recreates its endpoint while instances run."""
    theirs = [make(ec2, vpc) for make in (make_security_group, make_route_table, make_endpoint)]
    foreign_resources.refuse(REGION, plan(vpc))
    assert [
        text.split()[-2] for text in foreign_resources.dependents(vpc, REGION, plan(vpc)) if "route table" not in text
    ] == [
        theirs[0],
        theirs[2],
    ]
    assert f"route table {theirs[1]}" in foreign_resources.dependents(vpc, REGION, plan(vpc))


def test_resources_in_the_state_are_not_foreign(ec2: Any, vpc: str) -> None:
    known = plan(vpc, *(make(ec2, vpc) for make in (make_security_group, make_subnet, make_route_table, make_endpoint)))
    foreign_resources.refuse(REGION, known)
    assert foreign_resources.dependents(vpc, REGION, known) == []


def test_nodes_of_a_managed_group_stop_no_destroy(ec2: Any, vpc: str) -> None:
    make_instance(ec2, vpc, **{foreign_resources.NODE_GROUP_TAG: "system"})
    [subnet] = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    foreign_resources.refuse(REGION, plan(vpc, subnet["SubnetId"]))


def test_terminated_instance_stops_no_destroy(ec2: Any, vpc: str) -> None:
    instance = make_instance(ec2, vpc)
    ec2.terminate_instances(InstanceIds=[instance])
    [subnet] = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    foreign_resources.refuse(REGION, plan(vpc, subnet["SubnetId"]))


def test_network_that_stays_may_hold_foreign_resources(ec2: Any, vpc: str) -> None:
    make_subnet(ec2, vpc)
    foreign_resources.refuse(REGION, plan(vpc, actions=("no-op",)))


def test_remaining_interfaces_are_named_with_their_description(ec2: Any, vpc: str) -> None:
    subnet = make_subnet(ec2, vpc)
    interface = ec2.create_network_interface(SubnetId=subnet, Description="aws-K8S-i-0123")["NetworkInterface"]
    found = foreign_resources.dependents(vpc, REGION, plan(vpc, subnet))
    assert found == [f"network interface {interface['NetworkInterfaceId']} (aws-K8S-i-0123)"]
