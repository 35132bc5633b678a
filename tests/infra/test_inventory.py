"""Everything that both roots create with all options on: nothing public, unencrypted or untagged."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import hcl2
import pytest

from comfyeks.dev import terraform_reference
from comfyeks.terraform.runner import ROOTS

from .conftest import Plan

Resource = dict[str, Any]

# Variables that the everything-on runs leave out, and why.
LEFT_OUT = {"platform": {"oidc": "sign_in is cognito"}, "data": {}}


def closed(**wanted: Any) -> Callable[[Resource], bool]:
    """A rule: these arguments have these values."""
    return lambda resource: all(resource.get(name) == value for name, value in wanted.items())


def kept_with_a_key(resource: Resource) -> bool:
    return bool(resource.get("kms_master_key_id") or resource.get("sqs_managed_sse_enabled"))


def disks_are_encrypted_and_metadata_asks_for_a_token(template: Resource) -> bool:
    disks = [disk["ebs"][0]["encrypted"] for disk in template["block_device_mappings"]]
    [metadata] = template["metadata_options"]
    addresses = [card.get("associate_public_ip_address") for card in template.get("network_interfaces") or []]
    return disks == ["true"] * len(disks) != [] and metadata["http_tokens"] == "required" and "true" not in addresses


def api_is_closed_and_secrets_are_encrypted(cluster: Resource) -> bool:
    return not any(cidr.endswith("/0") for cidr in cluster["vpc_config"][0]["public_access_cidrs"]) and bool(
        cluster["encryption_config"]
    )


def from_somebody(rule: Resource) -> bool:
    return not any((rule.get(name) or "").endswith("/0") for name in ("cidr_ipv4", "cidr_ipv6"))


def policy_names_who(resource: Resource) -> bool:
    """Check that no statement allows everybody without a condition."""
    statements = json.loads(resource["policy"])["Statement"]
    everybody = ("*", {"AWS": "*"})
    return not [
        s for s in statements if s["Effect"] == "Allow" and s["Principal"] in everybody and not s.get("Condition")
    ]


def both(*rules: Callable[[Resource], bool]) -> Callable[[Resource], bool]:
    return lambda resource: all(rule(resource) for rule in rules)


# Types that can be public or hold unencrypted data, and what must be true of each resource of the type.
RULES: dict[str, Callable[[Resource], bool]] = {
    "aws_cloudfront_distribution": lambda d: d["default_cache_behavior"][0]["viewer_protocol_policy"] != "allow-all",
    "aws_cloudfront_vpc_origin": lambda o: o["vpc_origin_endpoint_config"][0]["origin_protocol_policy"] == "https-only",
    "aws_ecr_repository": lambda r: bool(r["encryption_configuration"]),
    "aws_efs_file_system": closed(encrypted=True),
    "aws_efs_file_system_policy": policy_names_who,
    "aws_eks_cluster": api_is_closed_and_secrets_are_encrypted,
    "aws_kms_key": closed(enable_key_rotation=True),
    "aws_launch_template": disks_are_encrypted_and_metadata_asks_for_a_token,
    "aws_lb": closed(internal=True),
    "aws_s3_bucket_policy": policy_names_who,
    "aws_s3_bucket_public_access_block": closed(
        block_public_acls=True, block_public_policy=True, ignore_public_acls=True, restrict_public_buckets=True
    ),
    "aws_sns_topic": both(kept_with_a_key, policy_names_who),
    "aws_sqs_queue": both(kept_with_a_key, policy_names_who),
    "aws_subnet": lambda s: not (s["map_public_ip_on_launch"] or s["assign_ipv6_address_on_creation"]),
    "aws_vpc_endpoint_service": lambda s: "*" not in s["allowed_principals"],
    "aws_vpc_security_group_ingress_rule": from_somebody,
}

# Types that hold nothing and open nothing; CloudWatch encrypts every log, S3 every object and CodeBuild every artifact
# by itself. A type in neither list fails the test: somebody has to decide.
HARMLESS = {
    "aws_budgets_budget",
    "aws_cloudwatch_event_rule",
    "aws_cloudwatch_event_target",
    "aws_cloudwatch_log_group",
    "aws_cloudwatch_metric_alarm",
    "aws_codebuild_project",
    "aws_cognito_user_pool",
    "aws_cognito_user_pool_client",
    "aws_cognito_user_pool_domain",
    "aws_default_security_group",
    "aws_ec2_tag",
    "aws_ecr_lifecycle_policy",
    "aws_efs_mount_target",
    "aws_eip",
    "aws_eks_access_entry",
    "aws_eks_access_policy_association",
    "aws_eks_addon",
    "aws_eks_node_group",
    "aws_eks_pod_identity_association",
    "aws_iam_instance_profile",
    "aws_iam_role",
    "aws_iam_role_policy",
    "aws_iam_role_policy_attachment",
    "aws_internet_gateway",
    "aws_kms_alias",
    "aws_lb_listener",
    "aws_lb_target_group",
    "aws_lb_target_group_attachment",
    "aws_nat_gateway",
    "aws_route",
    "aws_route_table",
    "aws_route_table_association",
    "aws_s3_bucket",
    "aws_s3_bucket_lifecycle_configuration",
    "aws_s3_bucket_logging",
    "aws_s3_bucket_notification",
    "aws_s3_bucket_ownership_controls",
    "aws_s3_bucket_server_side_encryption_configuration",
    "aws_s3_bucket_versioning",
    "aws_s3_object",
    "aws_security_group",
    "aws_sns_topic_subscription",
    "aws_ssm_document",
    "aws_vpc",
    "aws_vpc_endpoint",
    "aws_vpc_security_group_egress_rule",
    "aws_wafv2_ip_set",
    "aws_wafv2_web_acl",
    "aws_wafv2_web_acl_logging_configuration",
}


@pytest.fixture(scope="session")
def plans(everything_plan: Plan, data_everything_plan: Plan) -> list[Plan]:
    return [everything_plan, data_everything_plan]


def kind(address: str) -> str:
    return address.partition(".")[0]


def known_or_to_come(plan: Plan, address: str) -> Resource:
    """The resource, with True for what only AWS knows: an argument that is set, to what is not known yet."""
    return {**{name: True for name, value in plan.unknown[address].items() if value is True}, **plan.resources[address]}


def test_nothing_is_public_or_unencrypted(plans: list[Plan], measured: Callable[[str], None]) -> None:
    checked = 0
    for plan in plans:
        for address in plan.resources:
            if rule := RULES.get(kind(address)):
                assert rule(known_or_to_come(plan, address)), address
                checked += 1
    made = sum(len(plan.resources) for plan in plans)
    measured(f"with every switch on, {made} resources; {checked} of them could be public or in the clear, none is")
    assert checked > 15


def test_every_type_of_resource_is_in_one_of_the_lists(plans: list[Plan]) -> None:
    kinds = {kind(address) for plan in plans for address in plan.resources}
    assert not kinds - RULES.keys() - HARMLESS
    assert not RULES.keys() & HARMLESS


def test_every_bucket_is_encrypted_and_closed(plans: list[Plan]) -> None:
    parts = ("public_access_block", "server_side_encryption_configuration", "policy", "ownership_controls")
    buckets = [
        (plan, address.removeprefix("aws_s3_bucket.")) for plan in plans for address in plan.of_type("aws_s3_bucket")
    ]
    assert len(buckets) >= 3
    for plan, name in buckets:
        assert not [part for part in parts if f"aws_s3_bucket_{part}.{name}" not in plan.resources], name


def test_the_only_public_addresses_are_those_of_nat(everything_plan: Plan) -> None:
    assert len(everything_plan.of_type("aws_eip")) == len(everything_plan.of_type("aws_nat_gateway"))


# AWS's length limits of names that contain a deployment's name; it reports them only on creation.
LENGTHS = {
    "aws_cloudfront_vpc_origin": 64,
    "aws_cloudwatch_event_rule": 64,
    "aws_codebuild_project": 150,
    "aws_cognito_user_pool": 128,
    "aws_eks_cluster": 100,
    "aws_iam_role": 64,
    "aws_lb": 32,
    "aws_lb_target_group": 32,
    "aws_s3_bucket": 63,
    "aws_sqs_queue": 80,
    "aws_ssm_document": 128,
    "aws_wafv2_ip_set": 128,
    "aws_wafv2_web_acl": 128,
}


def test_names_of_the_longest_project_are_not_too_long(plans: list[Plan]) -> None:
    project = "sixteen-char-abc"
    assert len(project) == 16
    checked = set()
    for plan in plans:
        for address, resource in plan.resources.items():
            if limit := LENGTHS.get(kind(address)):
                origin = (resource.get("vpc_origin_endpoint_config") or [{}])[0]
                name = resource.get("bucket") or resource.get("name") or origin["name"]
                assert project in name
                assert len(name) <= limit, (address, name, len(name))
                checked.add(kind(address))
    assert checked == LENGTHS.keys()


@pytest.mark.parametrize("root", ROOTS)
def test_every_provider_tags_all_that_it_creates(root: str) -> None:
    """Taggable resources get them from here; what the provider does not reach is in the next test."""
    options = hcl2.SerializationOptions(with_comments=False, explicit_blocks=False, strip_string_quotes=True)
    providers = [
        provider["aws"]
        for path in ROOTS[root].glob("*.tf")
        for provider in hcl2.loads(path.read_text(), serialization_options=options).get("provider", [])
    ]
    assert providers
    for provider in providers:
        assert provider["default_tags"] == [{"tags": "${local.tags}"}]


def test_what_aws_creates_from_a_template_has_the_tags_too(everything_plan: Plan) -> None:
    wanted = {"Application": "comfyui-on-eks", "Deployment": "comfyui-sixteen-char-abc", "CostCentre": "studio"}
    for template in everything_plan.of_type("aws_launch_template").values():
        tagged = {part["resource_type"]: part["tags"] for part in template["tag_specifications"]}
        assert tagged.keys() >= {"instance", "volume"}
        assert all(tags.items() >= wanted.items() for tags in tagged.values())
    assert everything_plan.outputs["helm_values"]["karpenter_gpu"]["tags"] == wanted
    assert everything_plan.outputs["chalice"]["tags"] == wanted


@pytest.mark.parametrize("root", ROOTS)
def test_the_everything_on_run_sets_every_variable(root: str) -> None:
    options = hcl2.SerializationOptions(with_comments=False, explicit_blocks=False)
    text = (ROOTS[root] / "tests" / "everything.tftest.hcl").read_text()
    [variables] = hcl2.loads(text, serialization_options=options)["variables"]
    assert variables.keys() | LEFT_OUT[root].keys() == terraform_reference.blocks(ROOTS[root], "variable").keys()
    assert not variables.keys() & LEFT_OUT[root].keys()
