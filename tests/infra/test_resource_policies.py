"""Queues, buckets, keys and topics of the plan: who may use them, whatever the caller's own policies allow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import boto3
import pytest

from comfyeks.deployment import Deployment
from comfyeks.terraform import state_bucket
from tests.support.deployment import ACCOUNT, REGION
from tests.support.iam import Context, Iam

from .conftest import Plan

NAMES = Deployment(project=None, region=REGION, account=ACCOUNT)
OTHER_ACCOUNT = "444455556666"
EVERYTHING_REGION = "ap-southeast-1"  # of everything.tftest.hcl
ADMIN = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
TLS = {"aws:SecureTransport": "true"}
PLAIN = {"aws:SecureTransport": "false"}


@dataclass(frozen=True)
class Resource:
    iam: Iam
    arn: str
    policy: dict[str, Any]

    def lets_service(self, service: str, action: str, context: Context) -> bool:
        """Whether an AWS service may do it on somebody's behalf."""
        return self.iam.allows(service, action, self.arn, context, account=ACCOUNT, resource_policy=self.policy)

    def lets_anybody(self, action: str, context: Context) -> bool:
        """Whether a role without its own policy may do it: only the resource decides."""
        role = f"arn:aws:iam::{ACCOUNT}:role/nobody"
        return self.iam.allows(role, action, self.arn, context, account=ACCOUNT, resource_policy=self.policy)

    def lets_administrator(
        self, action: str, context: Context, account: str = ACCOUNT, resource: str | None = None
    ) -> bool:
        """Whether a role that may do everything, in this or another account, may do it here."""
        return self.iam.allows(
            f"arn:aws:iam::{account}:role/admin",
            action,
            resource or self.arn,
            context,
            account=ACCOUNT,
            identity=[ADMIN],
            resource_policy=self.policy,
        )


def queues(plan: Plan, iam: Iam) -> dict[str, Resource]:
    return {
        address.removeprefix("aws_sqs_queue."): Resource(
            iam, f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue['name']}", json.loads(queue["policy"])
        )
        for address, queue in plan.of_type("aws_sqs_queue").items()
    }


def test_the_models_bucket_of_this_account_alone_may_send_model_events(platform_plan: Plan, iam: Iam) -> None:
    queue = queues(platform_plan, iam)["model_events"]
    bucket = {"aws:SourceArn": f"arn:aws:s3:::{NAMES.bucket('models')}", "aws:SourceAccount": ACCOUNT, **TLS}
    assert queue.lets_service("s3.amazonaws.com", "sqs:SendMessage", bucket)
    # A bucket name is free again once its bucket is gone: without the account, its next owner could send.
    for wrong in (
        {"aws:SourceAccount": OTHER_ACCOUNT},
        {"aws:SourceArn": f"arn:aws:s3:::{NAMES.bucket('outputs')}"},
    ):
        assert not queue.lets_service("s3.amazonaws.com", "sqs:SendMessage", bucket | wrong)
    assert not queue.lets_service("s3.amazonaws.com", "sqs:ReceiveMessage", bucket)
    assert not queue.lets_service("sns.amazonaws.com", "sqs:SendMessage", bucket)


def test_the_deployments_own_rules_alone_may_send_interruptions(platform_plan: Plan, iam: Iam) -> None:
    queue = queues(platform_plan, iam)["interruption"]
    rules = f"arn:aws:events:{REGION}:{ACCOUNT}:rule"
    for rule in platform_plan.of_type("aws_cloudwatch_event_rule").values():
        source = {"aws:SourceArn": f"{rules}/{rule['name']}", **TLS}
        assert queue.lets_service("events.amazonaws.com", "sqs:SendMessage", source)
    for wrong in (
        f"{rules}/somebody-elses",
        f"{rules}/comfyui-film-health",
        f"arn:aws:events:{REGION}:{OTHER_ACCOUNT}:rule/comfyui-spot-interruption",
    ):
        assert not queue.lets_service("events.amazonaws.com", "sqs:SendMessage", {"aws:SourceArn": wrong, **TLS})
    assert not queue.lets_service("events.amazonaws.com", "sqs:SendMessage", TLS)


# The alarms' topic and the key of topic and queues: neither works without the other.


@pytest.mark.parametrize("service", ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"])
def test_alarms_and_budgets_of_this_account_reach_the_topic(everything_plan: Plan, iam: Iam, service: str) -> None:
    topic = everything_plan.resources["aws_sns_topic.alarms"]
    arn = f"arn:aws:sns:{EVERYTHING_REGION}:{ACCOUNT}:{topic['name']}"
    alarms = Resource(iam, arn, json.loads(topic["policy"]))
    assert alarms.lets_service(service, "sns:Publish", {"aws:SourceAccount": ACCOUNT, **TLS})
    assert not alarms.lets_service(service, "sns:Publish", {"aws:SourceAccount": OTHER_ACCOUNT, **TLS})
    assert not alarms.lets_service(service, "sns:Publish", {"aws:SourceAccount": ACCOUNT, **PLAIN})
    assert not alarms.lets_service(service, "sns:Subscribe", {"aws:SourceAccount": ACCOUNT, **TLS})
    assert not alarms.lets_service("s3.amazonaws.com", "sns:Publish", {"aws:SourceAccount": ACCOUNT, **TLS})


def messages_key(plan: Plan, iam: Iam) -> Resource:
    arn = f"arn:aws:kms:{EVERYTHING_REGION}:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000"
    return Resource(iam, arn, json.loads(plan.resources["aws_kms_key.messages"]["policy"]))


@pytest.mark.parametrize(
    "writer", ["budgets.amazonaws.com", "cloudwatch.amazonaws.com", "events.amazonaws.com", "s3.amazonaws.com"]
)
def test_who_writes_into_topic_or_queues_may_encrypt_with_their_key(
    everything_plan: Plan, iam: Iam, writer: str
) -> None:
    key = messages_key(everything_plan, iam)
    for action in ("kms:GenerateDataKey", "kms:Decrypt"):
        assert key.lets_service(writer, action, {})
    for action in ("kms:CreateGrant", "kms:PutKeyPolicy", "kms:ScheduleKeyDeletion"):
        assert not key.lets_service(writer, action, {})
    assert not key.lets_service("ec2.amazonaws.com", "kms:Decrypt", {})


def test_the_key_is_the_accounts_own_and_no_other_accounts(everything_plan: Plan, iam: Iam) -> None:
    key = messages_key(everything_plan, iam)
    for action in ("kms:Decrypt", "kms:PutKeyPolicy"):
        assert key.lets_administrator(action, {})
        assert not key.lets_administrator(action, {}, account=OTHER_ACCOUNT)


def test_models_on_efs_are_mounted_with_tls_inside_the_vpc_only(everything_plan: Plan, iam: Iam) -> None:
    arn = f"arn:aws:elasticfilesystem:{EVERYTHING_REGION}:{ACCOUNT}:file-system/fs-00000000"
    policy = json.loads(everything_plan.resources["aws_efs_file_system_policy.models[0]"]["policy"])
    files = Resource(iam, arn, policy)
    inside = {"elasticfilesystem:AccessedViaMountTarget": "true"}
    for action in ("ClientMount", "ClientWrite"):
        assert files.lets_anybody(f"elasticfilesystem:{action}", {**inside, **TLS})
        assert not files.lets_anybody(f"elasticfilesystem:{action}", {**inside, **PLAIN})
        assert not files.lets_anybody(f"elasticfilesystem:{action}", TLS)
    assert not files.lets_anybody("elasticfilesystem:DeleteFileSystem", TLS)


@pytest.mark.parametrize("action", ["SendMessage", "ReceiveMessage", "DeleteMessage", "PurgeQueue"])
def test_no_queue_answers_plain_http_or_another_account(platform_plan: Plan, iam: Iam, action: str) -> None:
    found = queues(platform_plan, iam)
    assert found.keys() == {"model_events", "model_events_dlq", "interruption"}
    for queue in found.values():
        assert queue.lets_administrator(f"sqs:{action}", TLS)
        assert not queue.lets_administrator(f"sqs:{action}", PLAIN)
        assert not queue.lets_administrator(f"sqs:{action}", TLS, account=OTHER_ACCOUNT)


def refuses_plain_http_and_other_accounts(bucket: Resource) -> None:
    for action, resource in (
        ("ListBucket", bucket.arn),
        ("GetObject", f"{bucket.arn}/key"),
        ("PutObject", f"{bucket.arn}/key"),
    ):
        assert bucket.lets_administrator(f"s3:{action}", TLS, resource=resource)
        assert not bucket.lets_administrator(f"s3:{action}", PLAIN, resource=resource)
        assert not bucket.lets_administrator(f"s3:{action}", TLS, account=OTHER_ACCOUNT, resource=resource)


def test_no_bucket_of_either_root_answers_plain_http_or_another_account(
    data_everything_plan: Plan, everything_plan: Plan, iam: Iam
) -> None:
    buckets = {
        bucket["bucket"]: plan.resources[address.replace("aws_s3_bucket.", "aws_s3_bucket_policy.")]["policy"]
        for plan in (data_everything_plan, everything_plan)
        for address, bucket in plan.of_type("aws_s3_bucket").items()
    }
    assert len(buckets) >= 3
    for name, policy in buckets.items():
        refuses_plain_http_and_other_accounts(Resource(iam, f"arn:aws:s3:::{name}", json.loads(policy)))


@pytest.mark.usefixtures("aws")
def test_the_state_bucket_answers_neither_plain_http_nor_another_account(deployment: Deployment, iam: Iam) -> None:
    refuses_plain_http_and_other_accounts(artifacts_bucket(deployment, iam))


@pytest.mark.usefixtures("aws")
def test_access_logs_of_this_accounts_buckets_land_beside_the_state_and_not_on_it(
    deployment: Deployment, data_everything_plan: Plan, iam: Iam
) -> None:
    bucket = artifacts_bucket(deployment, iam)

    def delivered(prefix: str, account: str) -> bool:
        context = {"aws:SourceAccount": account, **TLS}
        log = Resource(iam, f"{bucket.arn}/{prefix}2026-11-21", bucket.policy)
        return log.lets_service("logging.s3.amazonaws.com", "s3:PutObject", context)

    targets = [logging["target_prefix"] for logging in data_everything_plan.of_type("aws_s3_bucket_logging").values()]
    assert len(targets) == 3
    for prefix in targets:
        assert delivered(prefix, ACCOUNT)
        assert not delivered(prefix, OTHER_ACCOUNT)
    for prefix in ("terraform/", "node/", "settings/"):
        assert not delivered(prefix, ACCOUNT)


def artifacts_bucket(deployment: Deployment, iam: Iam) -> Resource:
    """The bucket as `comfyeks` creates it, in moto."""
    state_bucket.ensure(deployment)
    name = deployment.bucket("artifacts")
    policy = boto3.client("s3", region_name=REGION).get_bucket_policy(Bucket=name)["Policy"]
    return Resource(iam, f"arn:aws:s3:::{name}", json.loads(policy))
