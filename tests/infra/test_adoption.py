"""What a killed Terraform left is found in its log and in the account."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import boto3
import pytest

from comfyeks.infra import adoption
from comfyeks.infra.terraform import ROOTS
from comfyeks.paths import REPO_ROOT

from .conftest import REGION

LOG = """\
aws_vpc.this[0]: Creating...
aws_iam_role.pod["comfyui"]: Creating...
aws_sqs_queue.interruption: Creating...
aws_vpc.this[0]: Still creating... [10s elapsed]
aws_vpc.this[0]: Creation complete after 11s [id=vpc-0aaa]
aws_subnet.private["us-west-2a"]: Creating...
aws_subnet.private["us-west-2a"]: Creation complete after 0s [id=subnet-0bbb]
aws_route.nat["us-west-2a"]: Creating...
aws_route.nat["us-west-2a"]: Creation complete after 1s [id=r-rtb-0ccc1080289494]
aws_kms_key.old: Destroying... [id=1234]
"""


@pytest.fixture
def leftovers(tmp_path: Path) -> adoption.Leftovers:
    log = tmp_path / "log"
    log.write_text(LOG)
    return adoption.read([tmp_path / "gone", log])


def test_log_tells_what_was_made_with_its_id_and_what_was_under_way(leftovers: adoption.Leftovers) -> None:
    assert leftovers.made == {"aws_vpc.this[0]": "vpc-0aaa", 'aws_subnet.private["us-west-2a"]': "subnet-0bbb"}
    assert 'aws_iam_role.pod["comfyui"]' in leftovers.begun


def test_id_that_no_import_takes_is_looked_for_like_what_was_under_way(leftovers: adoption.Leftovers) -> None:
    assert 'aws_route.nat["us-west-2a"]' in leftovers.begun


def test_what_can_be_made_again_is_not_adopted(leftovers: adoption.Leftovers) -> None:
    assert not any("sqs" in address for address in {*leftovers.made, *leftovers.begun})


def test_what_the_state_knows_is_not_adopted(leftovers: adoption.Leftovers) -> None:
    assert not leftovers.without([*leftovers.made, *leftovers.begun])


def types_of_both_roots() -> set[str]:
    files = [path for root in ROOTS.values() for path in root.glob("*.tf")]
    found = {match for path in files for match in re.findall(r'^resource "(\w+)"', path.read_text(), re.MULTILINE)}
    assert len(found) > 30
    return found


def test_every_type_of_both_roots_can_be_found_or_made_again() -> None:
    assert types_of_both_roots() <= adoption.FINDERS.keys() | adoption.REPEATABLE
    assert not adoption.FINDERS.keys() & adoption.REPEATABLE
    assert adoption.FINDERS.keys() >= adoption.IMPORTED_BY_OTHER_ID


def test_no_type_is_listed_that_no_root_has() -> None:
    assert adoption.FINDERS.keys() | adoption.REPEATABLE <= types_of_both_roots() | {
        "aws_vpc_security_group_egress_rule"
    }


def create(address: str, **values: Any) -> dict[str, Any]:
    kind = address.partition(".")[0]
    return {"address": address, "type": kind, "change": {"actions": ["create"], "after": values}}


def test_import_id_is_made_of_the_planned_names() -> None:
    planned = [
        create("aws_iam_role.pod", name="comfyui-pod"),
        create("aws_eks_addon.x", cluster_name="comfyui", addon_name="coredns"),
        create("aws_route.nat", route_table_id="rtb-1", destination_cidr_block="0.0.0.0/0"),
        create("aws_iam_role.other", name="was-not-begun"),
    ]
    begun = frozenset({"aws_iam_role.pod", "aws_eks_addon.x", "aws_route.nat"})
    assert adoption.import_ids(planned, begun, REGION) == {
        "aws_iam_role.pod": "comfyui-pod",
        "aws_eks_addon.x": "comfyui:coredns",
        "aws_route.nat": "rtb-1_0.0.0.0/0",
    }


def test_name_that_is_not_known_yet_is_passed_over() -> None:
    """It depends on something that was not made: neither was it."""
    planned = [create("aws_eks_addon.x", addon_name="coredns")]
    assert adoption.import_ids(planned, frozenset({"aws_eks_addon.x"}), REGION) == {}


def test_what_has_no_name_of_its_own_is_found_by_its_tags(aws: None) -> None:
    ec2 = boto3.client("ec2", region_name=REGION)
    tags = {"Name": "comfyui", "Deployment": "comfyui"}

    def vpc(**tags: str) -> str:
        spec = {"ResourceType": "vpc", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        vpc_id: str = ec2.create_vpc(CidrBlock="10.0.0.0/16", TagSpecifications=[spec])["Vpc"]["VpcId"]  # type: ignore[list-item]
        return vpc_id

    vpc(Name="comfyui", Deployment="another")
    ours = vpc(**tags)
    planned = [create("aws_vpc.this[0]", tags_all=tags)]
    assert adoption.import_ids(planned, frozenset({"aws_vpc.this[0]"}), REGION) == {"aws_vpc.this[0]": ours}


def test_what_was_deleted_is_not_found_though_its_tags_are_still_listed(aws: None) -> None:
    """The tags of what an earlier platform of the same name had: those hid the ones of the killed run."""
    ec2 = boto3.client("ec2", region_name=REGION)
    tags = {"Name": "comfyui-private", "Deployment": "comfyui"}
    spec: Any = {"ResourceType": "route-table", "Tags": [{"Key": key, "Value": tags[key]} for key in tags]}
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    address = "aws_route_table.private"
    planned = [create(address, tags_all=tags)]
    for _ in range(3):
        table = ec2.create_route_table(VpcId=vpc, TagSpecifications=[spec])["RouteTable"]["RouteTableId"]
        assert adoption.import_ids(planned, frozenset({address}), REGION) == {address: table}
        ec2.delete_route_table(RouteTableId=table)
        assert adoption.import_ids(planned, frozenset({address}), REGION) == {}


def test_rule_of_a_security_group_is_found_by_what_it_says(aws: None) -> None:
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
    planned = [create(address, security_group_id=group, cidr_ipv4="10.0.0.0/16", from_port=2049)]
    assert adoption.import_ids(planned, frozenset({address}), REGION) == {address: wanted}


def test_imports_are_written_beside_links_to_the_root_and_not_into_it(tmp_path: Path) -> None:
    root = ROOTS["platform"]
    before = sorted(root.iterdir())
    folder = adoption.write_shadow(root, tmp_path / "shadow", {'aws_subnet.private["a"]': 'odd "${name}"'})
    assert sorted(root.iterdir()) == before
    assert (folder / "../../versions.yaml").resolve() == REPO_ROOT / "versions.yaml"
    assert (folder / "cluster.tf").read_text() == (root / "cluster.tf").read_text()
    assert (folder / "adopted.tf").read_text() == (
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


def test_terraforms_refusals_name_what_is_not_there() -> None:
    assert adoption.refused(ERRORS) == {'aws_iam_role.pod["comfyui"]', "aws_kms_alias.secrets"}
