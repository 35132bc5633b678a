"""Event rules: what reaches Karpenter's queue and what does not, decided by moto's own pattern matcher.

The samples have the shape that EC2 and AWS Health document for these events.
"""

from __future__ import annotations

from typing import Any

import pytest
from moto.events.models import EventPattern

from tests.support.deployment import ACCOUNT, REGION

from .conftest import Plan

INSTANCE = "i-0123456789abcdef0"


def event(source: str, kind: str, detail: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "7bf73129-1428-4cd3-a780-95db273d1602",
        "detail-type": kind,
        "source": source,
        "account": ACCOUNT,
        "time": "2026-11-21T10:00:00Z",
        "region": REGION,
        "resources": [f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{INSTANCE}"],
        "detail": detail,
    }


# Events that Karpenter 1.14 parses, by the rule that must deliver them.
WANTED = {
    "spot-interruption": event(
        "aws.ec2",
        "EC2 Spot Instance Interruption Warning",
        {"instance-id": INSTANCE, "instance-action": "terminate"},
    ),
    "rebalance": event("aws.ec2", "EC2 Instance Rebalance Recommendation", {"instance-id": INSTANCE}),
    "state-change": event(
        "aws.ec2", "EC2 Instance State-change Notification", {"instance-id": INSTANCE, "state": "stopping"}
    ),
    "capacity-reservation": event(
        "aws.ec2",
        "EC2 Capacity Reservation Instance Interruption Warning",
        {"instance-id": INSTANCE, "instance-action": "terminate", "capacity-reservation-id": "cr-1"},
    ),
    "health": event(
        "aws.health",
        "AWS Health Event",
        {
            "service": "EC2",
            "eventTypeCode": "AWS_EC2_PERSISTENT_INSTANCE_RETIREMENT_SCHEDULED",
            "eventTypeCategory": "scheduledChange",
            "affectedEntities": [{"entityValue": INSTANCE}],
        },
    ),
}

# Neighbours: the same source with another kind, the same kind from another source, and what the account is full of.
UNWANTED = {
    "another EC2 event": event("aws.ec2", "EBS Volume Notification", {"event": "createVolume"}),
    "a spot request fulfilled": event("aws.ec2", "EC2 Spot Instance Request Fulfillment", {"instance-id": INSTANCE}),
    "a forged notice": event("custom.app", "EC2 Spot Instance Interruption Warning", {"instance-id": INSTANCE}),
    "a forged health event": event("aws.ec2", "AWS Health Event", {"service": "EC2"}),
    "an API call": event("aws.ec2", "AWS API Call via CloudTrail", {"eventName": "RunInstances"}),
    "an object": event("aws.s3", "Object Created", {"bucket": {"name": "comfyui-models"}}),
}


def rules_that_match(plan: Plan, sample: dict[str, Any]) -> set[str]:
    return {
        rule["name"].removeprefix("comfyui-")
        for rule in plan.of_type("aws_cloudwatch_event_rule").values()
        if EventPattern.load(rule["event_pattern"]).matches_event(sample)
    }


@pytest.mark.parametrize("rule", WANTED)
def test_event_is_delivered_by_its_rule_and_once(platform_plan: Plan, rule: str) -> None:
    assert rules_that_match(platform_plan, WANTED[rule]) == {rule}


@pytest.mark.parametrize("name", UNWANTED)
def test_event_reaches_no_rule(platform_plan: Plan, name: str) -> None:
    assert rules_that_match(platform_plan, UNWANTED[name]) == set()


def test_every_rule_has_a_sample_and_one_target(platform_plan: Plan) -> None:
    rules = [rule["name"] for rule in platform_plan.of_type("aws_cloudwatch_event_rule").values()]
    assert sorted(rules) == sorted(f"comfyui-{rule}" for rule in WANTED)
    targets = platform_plan.of_type("aws_cloudwatch_event_target")
    assert sorted(target["rule"] for target in targets.values()) == sorted(rules)
