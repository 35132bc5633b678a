"""What an interrupted Terraform created is found in its log and in the account, and imported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import boto3
import pytest

from comfyeks.errors import OperationError
from comfyeks.paths import REPO_ROOT
from comfyeks.terraform import import_ids, interrupted_apply
from comfyeks.terraform.runner import ROOTS
from tests.support.deployment import REGION

LOG = """\
aws_vpc.this[0]: Creating...
aws_iam_role.pod["comfyui"]: Creating...
aws_ec2_tag.node_discovery: Creating...
aws_vpc.this[0]: Still creating... [10s elapsed]
aws_vpc.this[0]: Creation complete after 11s [id=vpc-0aaa]
aws_subnet.private["us-west-2a"]: Creating...
aws_subnet.private["us-west-2a"]: Creation complete after 0s [id=subnet-0bbb]
aws_route.nat["us-west-2a"]: Creating...
aws_route.nat["us-west-2a"]: Creation complete after 1s [id=r-rtb-0ccc1080289494]
aws_kms_key.old: Destroying... [id=1234]
"""


def read(tmp_path: Path, *texts: str) -> dict[str, str | None]:
    logs = [tmp_path / "gone", *(tmp_path / f"log-{number}" for number in range(len(texts)))]
    for path, text in zip(logs[1:], texts, strict=True):
        path.write_text(text)
    return interrupted_apply.read(logs)


def test_log_holds_the_ids_of_completed_resources_and_names_unfinished_ones(tmp_path: Path) -> None:
    created = read(tmp_path, LOG)
    assert created["aws_vpc.this[0]"] == "vpc-0aaa"
    assert created['aws_subnet.private["us-west-2a"]'] == "subnet-0bbb"
    assert created['aws_iam_role.pod["comfyui"]'] is None


def test_resources_that_are_imported_by_another_id_than_the_log_shows_are_looked_up(tmp_path: Path) -> None:
    created = read(tmp_path, LOG)
    assert created['aws_route.nat["us-west-2a"]'] == "r-rtb-0ccc1080289494"
    assert interrupted_apply.by_id(created) == {
        "aws_vpc.this[0]": "vpc-0aaa",
        'aws_subnet.private["us-west-2a"]': "subnet-0bbb",
    }


def test_part_of_another_resource_is_not_imported(tmp_path: Path) -> None:
    assert not any("ec2_tag" in address for address in read(tmp_path, LOG))


def test_the_last_event_of_a_resource_counts(tmp_path: Path) -> None:
    """Created by one interrupted run, deleted by the next, and being created again by a third."""
    removed = "aws_vpc.this[0]: Destruction complete after 1s\n"
    assert "aws_vpc.this[0]" not in read(tmp_path, LOG, removed)
    assert read(tmp_path, LOG, removed, "aws_vpc.this[0]: Creating...\n")["aws_vpc.this[0]"] is None


def types_of_both_roots() -> set[str]:
    files = [path for root in ROOTS.values() for path in root.glob("*.tf")]
    found = {match for path in files for match in re.findall(r'^resource "(\w+)"', path.read_text(), re.MULTILINE)}
    assert len(found) > 30
    return found


def test_every_type_of_both_roots_can_be_looked_up_or_created_again() -> None:
    assert types_of_both_roots() <= import_ids.LOOKUPS.keys() | import_ids.PARTS
    assert not import_ids.LOOKUPS.keys() & import_ids.PARTS
    assert import_ids.LOOKUPS.keys() >= import_ids.IMPORTED_BY_OTHER_ID


def test_no_type_is_listed_that_no_root_has() -> None:
    assert import_ids.LOOKUPS.keys() | import_ids.PARTS <= types_of_both_roots() | {
        "aws_vpc_security_group_egress_rule"
    }


def create(address: str, **values: Any) -> dict[str, Any]:
    kind = address.partition(".")[0]
    return {"address": address, "type": kind, "change": {"actions": ["create"], "after": values}}


def test_import_id_is_built_from_the_planned_arguments() -> None:
    planned = [
        create("aws_iam_role.pod", name="comfyui-pod"),
        create("aws_eks_addon.x", cluster_name="comfyui", addon_name="coredns"),
        create("aws_route.nat", route_table_id="rtb-1", destination_cidr_block="0.0.0.0/0"),
        create("aws_iam_role.other", name="was-not-started"),
    ]
    addresses = {"aws_iam_role.pod", "aws_eks_addon.x", "aws_route.nat"}
    assert interrupted_apply.look_up(addresses, planned, REGION) == {
        "aws_iam_role.pod": "comfyui-pod",
        "aws_eks_addon.x": "comfyui:coredns",
        "aws_route.nat": "rtb-1_0.0.0.0/0",
    }


def test_argument_that_is_not_known_yet_is_skipped() -> None:
    """It depends on a resource that was not created: neither was it."""
    planned = [create("aws_eks_addon.x", addon_name="coredns")]
    assert interrupted_apply.look_up({"aws_eks_addon.x"}, planned, REGION) == {}


TAGS = {"Name": "comfyui", "Deployment": "comfyui"}


def tagged(kind: str, tags: dict[str, str]) -> list[Any]:
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]


def make_vpc(tags: dict[str, str]) -> str:
    ec2 = boto3.client("ec2", region_name=REGION)
    created: str = ec2.create_vpc(CidrBlock="10.0.0.0/16", TagSpecifications=tagged("vpc", tags))["Vpc"]["VpcId"]
    return created


def look_up(address: str, **values: Any) -> str | None:
    return interrupted_apply.look_up({address}, [create(address, **values)], REGION).get(address)


def test_resource_without_a_unique_name_is_found_by_its_tags(aws: None) -> None:
    make_vpc({**TAGS, "Deployment": "another"})
    ours = make_vpc(TAGS)
    assert look_up("aws_vpc.this[0]", tags_all=TAGS) == ours


def test_deleted_resource_is_not_found_by_tags_that_outlive_it(aws: None) -> None:
    """Route tables of a destroyed platform were taken for those of the next one, whose own then stayed for ever."""
    ec2 = boto3.client("ec2", region_name=REGION)
    vpc = make_vpc(TAGS)
    spec = tagged("route-table", TAGS)
    tables = [ec2.create_route_table(VpcId=vpc, TagSpecifications=spec)["RouteTable"]["RouteTableId"] for _ in range(6)]
    for gone in tables[:-1]:
        ec2.delete_route_table(RouteTableId=gone)
    assert len(ec2.describe_tags(Filters=[{"Name": "resource-type", "Values": ["route-table"]}])["Tags"]) > 2
    assert look_up("aws_route_table.public[0]", tags_all=TAGS, vpc_id=vpc) == tables[-1]


def test_resource_in_another_network_is_not_ours(aws: None) -> None:
    ec2 = boto3.client("ec2", region_name=REGION)
    old, new = make_vpc(TAGS), make_vpc(TAGS)
    for vpc in (old, new):
        ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/18", TagSpecifications=tagged("subnet", TAGS))
    [ours] = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [new]}])["Subnets"]
    assert look_up('aws_subnet.private["a"]', tags_all=TAGS, vpc_id=new) == ours["SubnetId"]


def test_two_resources_that_cannot_be_told_apart_are_named(aws: None) -> None:
    first, second = make_vpc(TAGS), make_vpc(TAGS)
    with pytest.raises(OperationError, match="Delete all but one") as raised:
        look_up("aws_vpc.this[0]", tags_all=TAGS)
    assert {first, second} <= set(str(raised.value).replace(",", "").replace(".", "").split())


EC2_TYPES = [
    "aws_eip",
    "aws_internet_gateway",
    "aws_nat_gateway",
    "aws_route_table",
    "aws_security_group",
    "aws_subnet",
    "aws_vpc",
    "aws_vpc_endpoint",
    "aws_vpc_endpoint_service",
]


@pytest.mark.parametrize("kind", EC2_TYPES)
def test_lookup_in_an_empty_account_finds_nothing(aws: None, kind: str) -> None:
    """For every type: EC2 accepts the request itself."""
    assert look_up(f"{kind}.this", tags_all=TAGS, vpc_id="vpc-0aaa") is None


def test_queues_and_topics_are_found_by_name(aws: None) -> None:
    """Not one of another deployment whose name ends the same."""
    sqs, sns = boto3.client("sqs", region_name=REGION), boto3.client("sns", region_name=REGION)
    assert look_up("aws_sqs_queue.q", name="comfyui-q") is None
    assert look_up("aws_sns_topic.t", name="comfyui-t") is None
    url = sqs.create_queue(QueueName="comfyui-q")["QueueUrl"]
    sns.create_topic(Name="a-comfyui-t")
    arn = sns.create_topic(Name="comfyui-t")["TopicArn"]
    assert look_up("aws_sqs_queue.q", name="comfyui-q") == url
    assert look_up("aws_sns_topic.t", name="comfyui-t") == arn


def test_security_group_rule_is_found_by_its_content(aws: None) -> None:
    ec2 = boto3.client("ec2", region_name=REGION)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(GroupName="g", Description="g", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": "10.0.0.0/16"}]}
            for port in (443, 2049)
        ],
    )
    rules = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])["SecurityGroupRules"]
    [wanted] = [rule["SecurityGroupRuleId"] for rule in rules if rule.get("FromPort") == 2049]
    address = "aws_vpc_security_group_ingress_rule.efs"
    rule = {"security_group_id": group, "ip_protocol": "tcp", "cidr_ipv4": "10.0.0.0/16"}
    assert look_up(address, **rule, from_port=2049, to_port=2049) == wanted
    assert look_up(address, **rule, from_port=2049, to_port=2050) is None
    assert look_up(address.replace("ingress", "egress"), **rule, from_port=2049, to_port=2049) is None


def test_imports_are_written_into_a_copy_and_not_into_the_root(tmp_path: Path) -> None:
    root = ROOTS["platform"]
    before = sorted(root.iterdir())
    folder = interrupted_apply.write_copy(root, tmp_path / "copy", {'aws_subnet.private["a"]': 'odd "${name}"'})
    assert sorted(root.iterdir()) == before
    assert (folder / "../../../versions.yaml").resolve() == REPO_ROOT / "versions.yaml"
    assert (folder / "cluster.tf").read_text() == (root / "cluster.tf").read_text()
    assert (folder / "imported.tf").read_text() == (
        'import {\n  to = aws_subnet.private["a"]\n  id = "odd \\"$${name}\\""\n}\n'
    )


ERRORS = """\
╷
│ Error: Cannot import non-existent remote object
│
│ While attempting to import an existing object to
│ "aws_iam_role.pod[\\"comfyui\\"]", the provider detected that no object
│ exists with the given id.
╵
╷
│ Error: reading KMS Alias: couldn't find resource
│
│   with aws_kms_alias.secrets,
│   on cluster.tf line 7, in resource "aws_kms_alias" "secrets":
╵
"""


def test_failed_imports_are_read_from_terraforms_errors() -> None:
    assert interrupted_apply.failed_imports(ERRORS) == {'aws_iam_role.pod["comfyui"]', "aws_kms_alias.secrets"}
