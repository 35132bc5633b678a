"""What a killed Terraform made and never wrote down, brought back into its state.

Terraform saves its state every twenty seconds. Killed in between (SIGKILL, power, an ended CI job), it leaves things
that the next apply would make again: AWS refuses some as existing already, and the rest are paid for twice. The log
of the dead run names all of them. What it saw completed has its id there; what was under way is looked for in the
account by the name that a fresh plan gives it. Both are imported, before anything else is planned.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from comfyeks.paths import REPO_ROOT

Values = Mapping[str, Any]  # a resource's arguments, as planned
ImportId = str

_BEGUN = re.compile(r"^(\S.*): Creating\.\.\.$", re.MULTILINE)
_MADE = re.compile(r"^(\S.*): Creation complete after \S+ \[id=(.*)\]$", re.MULTILINE)
_NOT_THERE = re.compile(r'import\s+an\s+existing\s+object\s+to\s+"(.+?)",\s+the\s+provider', re.DOTALL)
_ABOUT = re.compile(r"^\s*with (\S.*),$", re.MULTILINE)


@dataclass(frozen=True)
class Leftovers:
    """Addresses of what a dead run made: with the id it had, or without one where it was still being made."""

    made: dict[str, str]
    begun: frozenset[str]

    def without(self, known: Iterable[str]) -> Leftovers:
        gone = set(known)
        return Leftovers({a: found for a, found in self.made.items() if a not in gone}, self.begun - gone)

    def __bool__(self) -> bool:
        return bool(self.made or self.begun)


def read(logs: Iterable[Path]) -> Leftovers:
    """What the logs of dead runs tell."""
    text = "\n".join(path.read_text(errors="replace") for path in logs if path.exists())
    ids = {match[1]: match[2] for match in _MADE.finditer(text)}
    made = {a: found for a, found in ids.items() if kind(a) not in REPEATABLE | IMPORTED_BY_OTHER_ID}
    begun = {match[1] for match in _BEGUN.finditer(text)} - made.keys()
    return Leftovers(made, frozenset(address for address in begun if kind(address) not in REPEATABLE))


def kind(address: str) -> str:
    """Resource type of an address: aws_vpc of aws_vpc.this[0]."""
    return address.partition(".")[0]


def import_ids(planned: Iterable[Mapping[str, Any]], begun: frozenset[str], region: str) -> dict[str, ImportId]:
    """Import ids of those resources of a plan that were `begun` and may exist. `planned`: its `resource_changes`."""
    found = {}
    for change in planned:
        address, values = change["address"], change["change"]["after"]
        if address not in begun or change["change"]["actions"] != ["create"]:
            continue
        finder = FINDERS.get(change["type"])
        try:
            import_id = finder(values, region) if finder else None
        except (KeyError, IndexError):  # an argument that is not known yet: what it names was not made either
            continue
        if import_id:
            found[address] = import_id
    return found


def folder(root: Path, shadow: Path) -> Path:
    """Where the copy of a root lies in a shadow: as deep as the root, which reads files by relative paths."""
    return shadow / root.relative_to(REPO_ROOT)


def write_shadow(root: Path, shadow: Path, imports: Mapping[str, ImportId]) -> Path:
    """A root in links, with import blocks, so that tracked folders stay as they are; the folder to run Terraform in."""
    shutil.rmtree(shadow, ignore_errors=True)
    copy = folder(root, shadow)
    copy.mkdir(parents=True)
    (shadow / "versions.yaml").symlink_to(REPO_ROOT / "versions.yaml")  # read by the roots
    for path in root.iterdir():
        if path.is_file():
            (copy / path.name).symlink_to(path)
    blocks = [f"import {{\n  to = {address}\n  id = {_quoted(name)}\n}}\n" for address, name in imports.items()]
    (copy / "adopted.tf").write_text("\n".join(blocks))
    return copy


def wait(imports: Mapping[str, ImportId], region: str) -> None:
    """Return once what others are put into works: Terraform waits for what it makes, and not for what it imports.

    Raises WaiterError when something does not come up.
    """
    for address, import_id in imports.items():
        match kind(address):
            case "aws_eks_cluster":
                boto3.client("eks", region_name=region).get_waiter("cluster_active").wait(name=import_id)
            case "aws_eks_node_group":
                cluster, _, group = import_id.partition(":")
                active = boto3.client("eks", region_name=region).get_waiter("nodegroup_active")
                active.wait(clusterName=cluster, nodegroupName=group)
            case "aws_nat_gateway":
                available = boto3.client("ec2", region_name=region).get_waiter("nat_gateway_available")
                available.wait(NatGatewayIds=[import_id])


def refused(text: str) -> set[str]:
    """Addresses that Terraform's errors are about: not there after all, or not to be imported."""
    plain = re.sub(r"^[│╷╵] ?", "", text, flags=re.MULTILINE)
    found = [match[1] for pattern in (_NOT_THERE, _ABOUT) for match in pattern.finditer(plain)]
    return {" ".join(address.split()).replace('\\"', '"') for address in found}


def _quoted(text: str) -> str:
    return json.dumps(text).replace("${", "$${").replace("%{", "%%{")


# How what was under way is found: the import id of a resource as it is planned.

Finder = Callable[[Values, str], ImportId | None]


def _by(*names: str, between: str = ":") -> Finder:
    """The import id consists of arguments."""
    return lambda values, _: between.join(str(values[name]) for name in names)


def _tagged(operation: str, things: str, id_field: str) -> Finder:
    """EC2 gives tags with the creation: the Name and the deployment tell one of ours.

    The things are asked for and not their tags (DescribeTags), which outlive what was deleted.
    """

    def find(values: Values, region: str) -> ImportId | None:
        tags = values["tags_all"]
        answer = getattr(boto3.client("ec2", region_name=region), operation)(
            Filters=[{"Name": f"tag:{key}", "Values": [tags[key]]} for key in ("Name", "Deployment")]
        )
        gone = ("deleting", "deleted")
        there = (
            each for each in answer[things] if str(each.get("State", each.get("ServiceState"))).lower() not in gone
        )
        return next((str(thing[id_field]) for thing in there), None)

    return find


def _nat_gateway(values: Values, region: str) -> ImportId | None:
    """Deleted ones keep their tags for an hour."""
    gateways = boto3.client("ec2", region_name=region).describe_nat_gateways(
        Filters=[
            {"Name": "subnet-id", "Values": [values["subnet_id"]]},
            {"Name": "tag:Name", "Values": [values["tags_all"]["Name"]]},
            {"Name": "state", "Values": ["pending", "available"]},
        ]
    )["NatGateways"]
    return gateways[0]["NatGatewayId"] if gateways else None


def _launch_template(values: Values, region: str) -> ImportId | None:
    templates = boto3.client("ec2", region_name=region).describe_launch_templates(
        Filters=[{"Name": "launch-template-name", "Values": [values["name"]]}]
    )["LaunchTemplates"]
    return templates[0]["LaunchTemplateId"] if templates else None


def _security_group_rule(values: Values, region: str) -> ImportId | None:
    """The rule of a group that says the same."""
    rules = boto3.client("ec2", region_name=region).describe_security_group_rules(
        Filters=[{"Name": "group-id", "Values": [values["security_group_id"]]}]
    )["SecurityGroupRules"]
    wanted = tuple(values.get(name) for name in ("cidr_ipv4", "prefix_list_id", "referenced_security_group_id"))
    for rule in rules:
        peer = (
            rule.get("CidrIpv4"),
            rule.get("PrefixListId"),
            rule.get("ReferencedGroupInfo", {}).get("GroupId"),
        )
        if peer == wanted and rule.get("FromPort") == values.get("from_port"):
            return rule["SecurityGroupRuleId"]
    return None


def _kms_key(values: Values, region: str) -> ImportId | None:
    """The enabled key with that description; the description holds the deployment's name."""
    kms = boto3.client("kms", region_name=region)
    for page in kms.get_paginator("list_keys").paginate():
        for key in page["Keys"]:
            about = kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"]
            if about.get("Description") == values["description"] and about["KeyState"] == "Enabled":
                return str(key["KeyId"])
    return None


def _pod_identity_association(values: Values, region: str) -> ImportId | None:
    eks = boto3.client("eks", region_name=region)
    found = eks.list_pod_identity_associations(
        clusterName=values["cluster_name"], namespace=values["namespace"], serviceAccount=values["service_account"]
    )["associations"]
    return f"{values['cluster_name']},{found[0]['associationId']}" if found else None


def _file_system(values: Values, region: str) -> ImportId | None:
    found = boto3.client("efs", region_name=region).describe_file_systems(CreationToken=values["creation_token"])
    return found["FileSystems"][0]["FileSystemId"] if found["FileSystems"] else None


def _mount_target(values: Values, region: str) -> ImportId | None:
    targets = boto3.client("efs", region_name=region).describe_mount_targets(FileSystemId=values["file_system_id"])
    return next(
        (t["MountTargetId"] for t in targets["MountTargets"] if t["SubnetId"] == values["subnet_id"]),
        None,
    )


def _budget(values: Values, region: str) -> ImportId:
    account = boto3.client("sts", region_name=region).get_caller_identity()["Account"]
    return f"{account}:{values['name']}"


def _load_balancer(values: Values, region: str) -> ImportId | None:
    elb = boto3.client("elbv2", region_name=region)
    try:
        found = elb.describe_load_balancers(Names=[values["name"]])["LoadBalancers"]
        return found[0]["LoadBalancerArn"] if found else None
    except elb.exceptions.LoadBalancerNotFoundException:
        return None


def _target_group(values: Values, region: str) -> ImportId | None:
    elb = boto3.client("elbv2", region_name=region)
    try:
        found = elb.describe_target_groups(Names=[values["name"]])["TargetGroups"]
        return found[0]["TargetGroupArn"] if found else None
    except elb.exceptions.TargetGroupNotFoundException:
        return None


def _listener(values: Values, region: str) -> ImportId | None:
    listeners = boto3.client("elbv2", region_name=region).describe_listeners(
        LoadBalancerArn=values["load_balancer_arn"]
    )["Listeners"]
    return next((each["ListenerArn"] for each in listeners if each["Port"] == values["port"]), None)


def _user_pool(values: Values, region: str) -> ImportId | None:
    cognito = boto3.client("cognito-idp", region_name=region)
    pools = (
        pool for page in cognito.get_paginator("list_user_pools").paginate(MaxResults=60) for pool in page["UserPools"]
    )
    return next((pool["Id"] for pool in pools if pool["Name"] == values["name"]), None)


def _user_pool_client(values: Values, region: str) -> ImportId | None:
    pool = values["user_pool_id"]
    clients = boto3.client("cognito-idp", region_name=region).list_user_pool_clients(UserPoolId=pool, MaxResults=60)
    return next(
        (f"{pool}/{each['ClientId']}" for each in clients["UserPoolClients"] if each["ClientName"] == values["name"]),
        None,
    )


def _distribution(values: Values, _: str) -> ImportId | None:
    """The comment holds the deployment's name and region."""
    pages = boto3.client("cloudfront").get_paginator("list_distributions").paginate()
    found = (each for page in pages for each in page["DistributionList"].get("Items", []))
    return next((each["Id"] for each in found if each["Comment"] == values["comment"]), None)


def _vpc_origin(values: Values, _: str) -> ImportId | None:
    origins = boto3.client("cloudfront").list_vpc_origins()["VpcOriginList"].get("Items", [])
    name = values["vpc_origin_endpoint_config"][0]["name"]
    return next((origin["Id"] for origin in origins if origin["Name"] == name), None)


def _web_acl(values: Values, _: str) -> ImportId | None:
    return _waf(boto3.client("wafv2", region_name="us-east-1").list_web_acls(Scope="CLOUDFRONT")["WebACLs"], values)


def _ip_set(values: Values, _: str) -> ImportId | None:
    return _waf(boto3.client("wafv2", region_name="us-east-1").list_ip_sets(Scope="CLOUDFRONT")["IPSets"], values)


def _waf(listed: Iterable[Mapping[str, Any]], values: Values) -> ImportId | None:
    """CloudFront's lists and sets live in us-east-1."""
    return next((f"{each['Id']}/{each['Name']}/CLOUDFRONT" for each in listed if each["Name"] == values["name"]), None)


FINDERS: dict[str, Finder] = {
    "aws_budgets_budget": _budget,
    "aws_cloudfront_distribution": _distribution,
    "aws_cloudfront_vpc_origin": _vpc_origin,
    "aws_cloudwatch_log_group": _by("name"),
    "aws_codebuild_project": _by("name"),
    "aws_cognito_user_pool": _user_pool,
    "aws_cognito_user_pool_client": _user_pool_client,
    "aws_cognito_user_pool_domain": _by("domain"),
    "aws_ecr_repository": _by("name"),
    "aws_efs_file_system": _file_system,
    "aws_efs_mount_target": _mount_target,
    "aws_eip": _tagged("describe_addresses", "Addresses", "AllocationId"),
    "aws_eks_access_entry": _by("cluster_name", "principal_arn"),
    "aws_eks_access_policy_association": _by("cluster_name", "principal_arn", "policy_arn", between="#"),
    "aws_eks_addon": _by("cluster_name", "addon_name"),
    "aws_eks_cluster": _by("name"),
    "aws_eks_node_group": _by("cluster_name", "node_group_name"),
    "aws_eks_pod_identity_association": _pod_identity_association,
    "aws_iam_instance_profile": _by("name"),
    "aws_iam_role": _by("name"),
    "aws_iam_role_policy": _by("role", "name"),
    "aws_iam_role_policy_attachment": _by("role", "policy_arn", between="/"),
    "aws_internet_gateway": _tagged("describe_internet_gateways", "InternetGateways", "InternetGatewayId"),
    "aws_kms_alias": _by("name"),
    "aws_kms_key": _kms_key,
    "aws_launch_template": _launch_template,
    "aws_lb": _load_balancer,
    "aws_lb_listener": _listener,
    "aws_lb_target_group": _target_group,
    "aws_nat_gateway": _nat_gateway,
    "aws_route": _by("route_table_id", "destination_cidr_block", between="_"),
    "aws_route_table": _tagged("describe_route_tables", "RouteTables", "RouteTableId"),
    "aws_route_table_association": _by("subnet_id", "route_table_id", between="/"),
    "aws_s3_bucket": _by("bucket"),
    "aws_security_group": _tagged("describe_security_groups", "SecurityGroups", "GroupId"),
    "aws_ssm_document": _by("name"),
    "aws_subnet": _tagged("describe_subnets", "Subnets", "SubnetId"),
    "aws_vpc": _tagged("describe_vpcs", "Vpcs", "VpcId"),
    "aws_vpc_endpoint": _tagged("describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId"),
    "aws_vpc_endpoint_service": _tagged(
        "describe_vpc_endpoint_service_configurations", "ServiceConfigurations", "ServiceId"
    ),
    "aws_vpc_security_group_egress_rule": _security_group_rule,
    "aws_vpc_security_group_ingress_rule": _security_group_rule,
    "aws_wafv2_ip_set": _ip_set,
    "aws_wafv2_web_acl": _web_acl,
}

# The id that a log shows is the provider's own: an import takes another one.
IMPORTED_BY_OTHER_ID = {
    "aws_cognito_user_pool_client",
    "aws_eks_pod_identity_association",
    "aws_iam_role_policy_attachment",
    "aws_route",
    "aws_route_table_association",
    "aws_wafv2_ip_set",
    "aws_wafv2_web_acl",
}

# Made again without harm: never adopted. tests/infra/test_adoption.py says when a type of the roots is in neither list.
REPEATABLE = {
    "aws_cloudwatch_event_rule",
    "aws_cloudwatch_event_target",
    "aws_cloudwatch_metric_alarm",
    "aws_default_security_group",
    "aws_ec2_tag",
    "aws_ecr_lifecycle_policy",
    "aws_efs_file_system_policy",
    "aws_lb_target_group_attachment",
    "aws_s3_bucket_lifecycle_configuration",
    "aws_s3_bucket_logging",
    "aws_s3_bucket_notification",
    "aws_s3_bucket_ownership_controls",
    "aws_s3_bucket_policy",
    "aws_s3_bucket_public_access_block",
    "aws_s3_bucket_server_side_encryption_configuration",
    "aws_s3_bucket_versioning",
    "aws_sns_topic",
    "aws_sns_topic_subscription",
    "aws_sqs_queue",
    "aws_wafv2_web_acl_logging_configuration",
}
