"""What others have in the deployment's network stops a destroy before it begins; what is the deployment's does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boto3
import pytest

from comfyeks.errors import UserError
from comfyeks.terraform import foreign_resources
from tests.support.mocked_aws import make_image

from .conftest import REGION


@pytest.fixture
def ec2(aws: None) -> Any:
    return boto3.client("ec2", region_name=REGION)


@pytest.fixture
def vpc(ec2: Any) -> str:
    made: str = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    return made


def make_subnet(ec2: Any, vpc: str, number: int = 0) -> str:
    zone = f"{REGION}{'ab'[number]}"
    made: str = ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=zone)["Subnet"][
        "SubnetId"
    ]
    return made


def make_instance(ec2: Any, vpc: str, **tags: str) -> str:
    spec = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]
    [instance] = ec2.run_instances(
        ImageId=make_image(REGION),
        MinCount=1,
        MaxCount=1,
        SubnetId=make_subnet(ec2, vpc),
        **({"TagSpecifications": spec} if tags else {}),
    )["Instances"]
    made: str = instance["InstanceId"]
    return made


def make_balancer(ec2: Any, vpc: str) -> str:
    subnets = [make_subnet(ec2, vpc, number) for number in (0, 1)]
    elb = boto3.client("elbv2", region_name=REGION)
    elb.create_load_balancer(Name="k8s-comfyui", Subnets=subnets, Scheme="internal")
    return "k8s-comfyui"


def make_group(ec2: Any, vpc: str) -> str:
    made: str = ec2.create_security_group(GroupName="theirs", Description="d", VpcId=vpc)["GroupId"]
    return made


def make_table(ec2: Any, vpc: str) -> str:
    made: str = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    return made


def make_endpoint(ec2: Any, vpc: str) -> str:
    made: str = ec2.create_vpc_endpoint(VpcId=vpc, ServiceName=f"com.amazonaws.{REGION}.s3")["VpcEndpoint"][
        "VpcEndpointId"
    ]
    return made


def plan(vpc: str, *known: str, actions: tuple[str, ...] = ("delete",)) -> dict[str, Any]:
    """A plan that does this to the network and to everything `known`."""
    changes = [("aws_vpc", vpc), *(("aws_thing", each) for each in known)]
    return {
        "resource_changes": [
            {"type": kind, "mode": "managed", "change": {"actions": list(actions), "before": {"id": id_}}}
            for kind, id_ in changes
        ]
    }


@pytest.mark.parametrize("make", [make_instance, make_balancer, make_subnet])
def test_what_others_run_in_the_network_is_named(ec2: Any, vpc: str, make: Callable[[Any, str], str]) -> None:
    theirs = make(ec2, vpc)
    with pytest.raises(UserError, match=f"somebody else uses the network {vpc}") as raised:
        foreign_resources.refuse(REGION, plan(vpc))
    assert theirs in str(raised.value)


def test_what_services_of_aws_put_there_stops_no_destroy_and_is_named_if_it_stays(ec2: Any, vpc: str) -> None:
    """CloudFront's group goes after the last VPC origin, GuardDuty's endpoint comes back while there are machines."""
    theirs = [make(ec2, vpc) for make in (make_group, make_table, make_endpoint)]
    foreign_resources.refuse(REGION, plan(vpc))
    assert [
        text.split()[-2] for text in foreign_resources.left(vpc, REGION, plan(vpc)) if "route table" not in text
    ] == [
        theirs[0],
        theirs[2],
    ]
    assert f"route table {theirs[1]}" in foreign_resources.left(vpc, REGION, plan(vpc))


def test_what_the_state_knows_is_ours(ec2: Any, vpc: str) -> None:
    known = plan(vpc, *(make(ec2, vpc) for make in (make_group, make_subnet, make_table, make_endpoint)))
    foreign_resources.refuse(REGION, known)
    assert foreign_resources.left(vpc, REGION, known) == []


def test_nodes_of_a_managed_group_go_with_it(ec2: Any, vpc: str) -> None:
    make_instance(ec2, vpc, **{foreign_resources.NODE_GROUP_TAG: "system"})
    [subnet] = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    foreign_resources.refuse(REGION, plan(vpc, subnet["SubnetId"]))


def test_machine_that_has_ended_holds_nothing(ec2: Any, vpc: str) -> None:
    machine = make_instance(ec2, vpc)
    ec2.terminate_instances(InstanceIds=[machine])
    [subnet] = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    foreign_resources.refuse(REGION, plan(vpc, subnet["SubnetId"]))


def test_network_that_stays_may_be_used_by_anybody(ec2: Any, vpc: str) -> None:
    make_subnet(ec2, vpc)
    foreign_resources.refuse(REGION, plan(vpc, actions=("no-op",)))


def test_interfaces_that_are_left_are_named_with_what_they_say_of_themselves(ec2: Any, vpc: str) -> None:
    subnet = make_subnet(ec2, vpc)
    made = ec2.create_network_interface(SubnetId=subnet, Description="aws-K8S-i-0123")["NetworkInterface"]
    left = foreign_resources.left(vpc, REGION, plan(vpc, subnet))
    assert left == [f"network interface {made['NetworkInterfaceId']} (aws-K8S-i-0123)"]
