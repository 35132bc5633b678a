"""What both roots would create: names, protection, and the facts that other components rely on."""

from __future__ import annotations

import ipaddress
import itertools
import json

import pytest

from comfyeks import model_events
from comfyeks.charts.render import render
from comfyeks.deployment import BUCKET_KINDS, Deployment
from comfyeks.versions import VERSIONS
from tests.support.deployment import ACCOUNT, REGION

from .conftest import Plan

NAMES = Deployment(project=None, region=REGION, account=ACCOUNT)
DATA_KINDS = ("models", "inputs", "outputs")


def test_data_root_creates_the_agreed_buckets(data_plan: Plan) -> None:
    names = {bucket["bucket"] for bucket in data_plan.of_type("aws_s3_bucket").values()}
    assert names == {NAMES.bucket(kind) for kind in DATA_KINDS}


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_bucket_is_closed_to_the_public(data_plan: Plan, kind: str) -> None:
    block = data_plan.resources[f'aws_s3_bucket_public_access_block.this["{kind}"]']
    assert [block[name] for name in block if name.startswith(("block_", "ignore_", "restrict_"))] == [True] * 4
    [ownership] = data_plan.resources[f'aws_s3_bucket_ownership_controls.this["{kind}"]']["rule"]
    assert ownership["object_ownership"] == "BucketOwnerEnforced"


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_bucket_removes_the_parts_of_a_broken_upload(data_plan: Plan, kind: str) -> None:
    rules = data_plan.resources[f'aws_s3_bucket_lifecycle_configuration.this["{kind}"]']["rule"]
    assert any(rule["abort_incomplete_multipart_upload"] for rule in rules)


def test_only_models_keep_old_versions_and_only_for_a_time(data_plan: Plan) -> None:
    assert list(data_plan.of_type("aws_s3_bucket_versioning")) == ["aws_s3_bucket_versioning.models"]
    rules = data_plan.resources['aws_s3_bucket_lifecycle_configuration.this["models"]']["rule"]
    [expiry] = [rule["noncurrent_version_expiration"] for rule in rules if rule["noncurrent_version_expiration"]]
    assert expiry[0]["noncurrent_days"] == 7


def test_no_current_object_ever_expires(data_plan: Plan) -> None:
    for configuration in data_plan.of_type("aws_s3_bucket_lifecycle_configuration").values():
        for rule in configuration["rule"]:
            assert all(expiration.get("days") is None for expiration in rule["expiration"] or [])


def test_terraform_alone_cannot_delete_data(data_plan: Plan) -> None:
    assert not any(bucket["force_destroy"] for bucket in data_plan.of_type("aws_s3_bucket").values())
    assert not data_plan.resources["aws_ecr_repository.images"]["force_delete"]


def test_registry_keeps_tags_and_scans(data_plan: Plan) -> None:
    registry = data_plan.resources["aws_ecr_repository.images"]
    assert registry["name"] == f"{NAMES.name}-images"
    assert registry["image_tag_mutability"] == "IMMUTABLE"
    assert registry["image_scanning_configuration"] == [{"scan_on_push": True}]


def test_platform_creates_no_bucket_and_no_lambda_function(platform_plan: Plan) -> None:
    """Buckets outlive it; Chalice deploys the function."""
    assert not platform_plan.of_type("aws_s3_bucket")
    assert not platform_plan.of_type("aws_lambda_function")


def test_exactly_one_security_group_and_the_private_subnets_are_karpenters(platform_plan: Plan) -> None:
    tagged = {
        address
        for address, resource in platform_plan.resources.items()
        if "karpenter.sh/discovery" in (resource.get("tags") or {})
    }
    assert tagged == {f'aws_subnet.private["{REGION}{zone}"]' for zone in "abc"}
    [tag] = platform_plan.of_type("aws_ec2_tag").values()
    assert (tag["key"], tag["value"]) == ("karpenter.sh/discovery", NAMES.name)


def test_subnets_do_not_overlap_and_are_tagged_for_load_balancers(platform_plan: Plan) -> None:
    subnets = platform_plan.of_type("aws_subnet")
    cidrs = [subnet["cidr_block"] for subnet in subnets.values()]
    networks = [ipaddress.ip_network(cidr) for cidr in cidrs]
    assert len(networks) == 9
    assert not [pair for pair in itertools.combinations(networks, 2) if pair[0].overlaps(pair[1])]
    for address, subnet in subnets.items():
        roles = {"private": {"internal-elb"}, "public": {"elb"}, "load_balancer": set()}
        tags = {key.rpartition("/")[2] for key in subnet["tags"] if key.startswith("kubernetes.io/role/")}
        assert tags == roles[address.split(".")[1].partition("[")[0]]


def test_cluster_is_closed_encrypted_and_logged(platform_plan: Plan) -> None:
    [cluster] = platform_plan.of_type("aws_eks_cluster").values()
    assert cluster["name"] == NAMES.name
    assert cluster["version"] == VERSIONS["kubernetes"]
    assert cluster["vpc_config"][0]["public_access_cidrs"] == ["198.51.100.7/32"]
    assert cluster["access_config"][0]["authentication_mode"] == "API"
    assert cluster["access_config"][0]["bootstrap_cluster_creator_admin_permissions"]
    assert cluster["encryption_config"][0]["resources"] == ["secrets"]
    assert len(cluster["enabled_cluster_log_types"]) == 5
    assert platform_plan.resources["aws_cloudwatch_log_group.cluster"]["retention_in_days"] == 30


def test_add_ons_are_those_of_versions_yaml_and_no_other(platform_plan: Plan) -> None:
    addons = platform_plan.of_type("aws_eks_addon").values()
    optional = {"aws-efs-csi-driver"}
    assert {addon["addon_name"]: addon["addon_version"] for addon in addons} == {
        name: version for name, version in VERSIONS["eks_addons"].items() if name not in optional
    }


def test_network_policies_are_enforced(platform_plan: Plan) -> None:
    cni = platform_plan.resources['aws_eks_addon.before_nodes["vpc-cni"]']
    assert json.loads(cni["configuration_values"])["enableNetworkPolicy"] == "true"


def test_pods_on_system_nodes_cannot_reach_the_nodes_credentials(platform_plan: Plan) -> None:
    [options] = platform_plan.resources["aws_launch_template.system"]["metadata_options"]
    assert options["http_tokens"] == "required"
    assert options["http_put_response_hop_limit"] == 1


def test_system_nodes_can_hold_karpenters_two_replicas(platform_plan: Plan) -> None:
    [group] = platform_plan.of_type("aws_eks_node_group").values()
    assert group["scaling_config"][0]["min_size"] >= 2
    assert group["instance_types"] == ["t3a.xlarge"]
    assert group["ami_type"] == "AL2023_x86_64_STANDARD"


def test_system_nodes_run_the_pinned_release_which_is_the_gpu_nodes_too(platform_plan: Plan) -> None:
    [group] = platform_plan.of_type("aws_eks_node_group").values()
    assert group["release_version"] == VERSIONS["node_group_release"]
    patch, _, date = VERSIONS["node_group_release"].partition("-")
    assert patch.rpartition(".")[0] == VERSIONS["kubernetes"]
    assert VERSIONS["ami_alias"] == f"al2023@v{date}"


def test_every_output_is_read_by_a_command_or_documented_for_people(data_plan: Plan, platform_plan: Plan) -> None:
    assert data_plan.outputs.keys() == {"buckets"}
    assert platform_plan.outputs.keys() == {
        "account",
        "alarms_topic_arn",
        "buckets",
        "chalice",
        "cluster_name",
        "dns_record",
        "helm_values",
        "image_build",
        "load_balancer",
        "queue_urls",
        "region",
        "url",
        "user_pool_id",
    }


def test_models_bucket_notifies_the_queue_of_every_upload_and_delete(platform_plan: Plan) -> None:
    [notification] = platform_plan.of_type("aws_s3_bucket_notification").values()
    assert notification["bucket"] == NAMES.bucket("models")
    [queue] = notification["queue"]
    assert sorted(queue["events"]) == ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
    assert not queue["filter_prefix"]


def test_a_batch_is_not_delivered_twice_while_the_function_works_on_it(platform_plan: Plan) -> None:
    queue = platform_plan.resources["aws_sqs_queue.model_events"]
    assert queue["visibility_timeout_seconds"] >= 6 * model_events.TIMEOUT_SECONDS


def test_dead_letters_take_only_the_model_events_and_stay_longest(platform_plan: Plan) -> None:
    dead = platform_plan.resources["aws_sqs_queue.model_events_dlq"]
    allowed = json.loads(dead["redrive_allow_policy"])
    assert allowed["sourceQueueArns"] == [f"arn:aws:sqs:{REGION}:{ACCOUNT}:{NAMES.name}-model-events"]
    assert dead["message_retention_seconds"] == 14 * 24 * 3600


def test_queues_are_encrypted_with_a_key_that_s3_can_use(platform_plan: Plan) -> None:
    for queue in platform_plan.of_type("aws_sqs_queue").values():
        assert queue["sqs_managed_sse_enabled"]


ALARMS = {
    "comfyui-model-events-dead-letters": ("AWS/SQS", {"QueueName": "comfyui-model-events-dlq"}),
    "comfyui-model-events-age": ("AWS/SQS", {"QueueName": "comfyui-model-events"}),
    "comfyui-model-events-errors": ("AWS/Lambda", {"FunctionName": NAMES.sync_function}),
}


def test_alarms_watch_dead_letters_waiting_events_and_the_function(platform_plan: Plan) -> None:
    alarms = platform_plan.of_type("aws_cloudwatch_metric_alarm").values()
    assert {alarm["alarm_name"]: (alarm["namespace"], alarm["dimensions"]) for alarm in alarms} == ALARMS
    assert all(alarm["treat_missing_data"] == "notBreaching" for alarm in alarms)


def test_image_is_built_from_where_model_writers_cannot_reach(platform_plan: Plan) -> None:
    [project] = platform_plan.of_type("aws_codebuild_project").values()
    [source] = project["source"]
    build = platform_plan.outputs["image_build"]
    assert source["location"] == f"{NAMES.bucket('artifacts')}/image/source.zip"
    assert (build["source_bucket"], build["source_key"]) == (NAMES.bucket("artifacts"), "image/source.zip")
    assert build["project"] == project["name"] == f"{NAMES.name}-image"
    assert project["environment"][0]["privileged_mode"]


def test_function_logs_expire(platform_plan: Plan) -> None:
    group = platform_plan.resources["aws_cloudwatch_log_group.sync"]
    assert group["name"] == f"/aws/lambda/{NAMES.sync_function}"
    assert group["retention_in_days"] == 30


def test_names_are_those_that_the_command_line_derives(platform_plan: Plan) -> None:
    assert platform_plan.outputs["buckets"] == {kind: NAMES.bucket(kind) for kind in BUCKET_KINDS}
    assert platform_plan.resources["aws_ssm_document.sync_models"]["name"] == NAMES.sync_document
    variables = platform_plan.outputs["chalice"]["environment_variables"]
    assert (variables["SYNC_TAG_KEY"], variables["SYNC_TAG_VALUE"]) == NAMES.sync_tag
    assert platform_plan.outputs["chalice"]["stage"] == NAMES.stage


def test_values_for_the_charts_have_the_agreed_layout(platform_plan: Plan) -> None:
    values = platform_plan.outputs["helm_values"]
    assert values["comfyui"].keys() >= {"aws", "inputs", "outputs", "serviceAccount"}
    assert values["comfyui"]["outputs"] == {"bucket": NAMES.bucket("outputs")}
    gpu = values["karpenter_gpu"]
    assert gpu["cluster"] == {"name": NAMES.name}
    assert gpu["nodeRole"] == f"{NAMES.name}-{REGION}-gpu-node"
    assert gpu["modelSync"]["artifactsBucket"] == NAMES.bucket("artifacts")
    assert gpu["modelSync"]["files"].keys() == {"program", "service", "timer", "path"}
    assert set(values["addons"]) == {"karpenter", "aws-load-balancer-controller", "nvidia-device-plugin"}


@pytest.mark.parametrize(("chart", "kind"), [("karpenter-gpu", "EC2NodeClass"), ("comfyui", "Deployment")])
def test_generated_values_are_accepted_by_the_chart(platform_plan: Plan, chart: str, kind: str) -> None:
    values = platform_plan.outputs["helm_values"][chart.replace("-", "_")]
    assert render(chart, values=values).of_kind(kind)
