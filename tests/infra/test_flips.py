"""Every setting of both roots, changed and brought back on a deployment that is up; a second apply finds nothing to do.

Minutes: only with COMFYEKS_TEST_FLIPS=1. Settings that do not touch each other share a step.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comfyeks.infra.terraform import ROOTS
from comfyeks.local.emulators import ACCOUNT, REGION, LocalAws
from tests.support import edge
from tests.support.platform import Platform

pytestmark = [
    pytest.mark.local,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.environ.get("COMFYEKS_TEST_FLIPS") != "1", reason="minutes; COMFYEKS_TEST_FLIPS=1 runs it"),
]

Settings = dict[str, Any]
Step = tuple[Settings, Settings]  # of the platform root and of the data root; the next step takes it back

INNER: list[Step] = [
    ({"nat": "per_az", "cluster_admin_arns": [f"arn:aws:iam::{ACCOUNT}:role/admin"]}, {"models_old_version_days": 14}),
    ({"interface_endpoints": True, "mount_outputs": True}, {"inputs_expiry_days": 30}),
    (
        {
            "nat": "none",
            "interface_endpoints": True,
            "image_mirror": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/mirror",
        },
        {"outputs_expiry_days": 90},
    ),
    ({"api_public_access": False, "queue_kms_key": True}, {"access_logs": True}),
    ({"api_allowed_cidrs": ["203.0.113.0/24"], "efs": True}, {"stale_upload_days": 5}),
    ({"system_node_count": 3, "alarm_email": "ops@example.com"}, {"images_kept": 5}),
    ({"system_node_disk_gib": 80, "monthly_budget_usd": 500}, {"tags": {"CostCentre": "studio"}}),
    ({"log_retention_days": 90, "comfyui_namespace": "studio"}, {}),
    ({"tags": {"CostCentre": "studio"}}, {}),
    ({"comfyui_release": "studio", "system_node_types": ["t3.xlarge"]}, {}),
    ({"zones": [f"{REGION}a", f"{REGION}b"]}, {}),
]


def edge_steps(aws: LocalAws) -> list[Step]:
    """The way in; makes the certificates and the secret that the steps name."""
    every = edge.everything(aws)
    https = {name: every[name] for name in ("domain_name", "certificate_arn")}
    public = {name: every[name] for name in ("cloudfront", "cloudfront_allowed_cidrs")}
    steps: list[Settings] = [
        {"load_balancer": False},
        {"load_balancer_allowed_cidrs": every["load_balancer_allowed_cidrs"]},
        {"load_balancer_log_bucket": every["load_balancer_log_bucket"]},
        https,
        {**https, "sign_in": "cognito"},
        {**https, "sign_in": "cognito", "cognito_domain_prefix": "studio", "cognito_mfa": False},
        {**https, **edge.oidc(aws)},
        public,
        {**public, "cloudfront_rate_limit": None},
        {**public, "cloudfront_managed_rules": False},
        {"cloudfront": True, "allow_unauthenticated_public_access": True},
        {**public, **https, "cloudfront_certificate_arn": every["cloudfront_certificate_arn"]},
        {"privatelink_allowed_principals": every["privatelink_allowed_principals"]},
    ]
    return [(step, {}) for step in steps]


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[LocalAws]:
    with LocalAws(tmp_path / "aws") as local:
        yield local


def changes(stderr: str, root: str) -> str:
    """What an apply says of a root: its counts, or `none`."""
    found = re.findall(rf"^ *[\d.]+s  {root} +(\d+ to add, \d+ to change, \d+ to destroy)", stderr, re.MULTILINE)
    return found[0] if found else "none"


@pytest.mark.parametrize("track", ["inner", "edge"])
def test_each_setting_goes_on_and_off(aws: LocalAws, tmp_path: Path, track: str) -> None:
    platform = Platform(aws, tmp_path / "clone", project=track)
    wrong, known = [], [({}, {}), *(INNER if track == "inner" else edge_steps(aws)), ({}, {})]
    for number, (terraform, data) in enumerate(known):
        platform.decide({"terraform": terraform, "data": data})
        begun = time.monotonic()
        answer = platform.run("apply", "--allow-replacement")  # a user pool goes when sign-in does
        seconds = time.monotonic() - begun
        again = platform.run("apply")
        settled = again.stderr.count("No changes") == len(ROOTS)
        made = [f"{root}: {changes(answer.stderr, root)}" for root in ROOTS]
        good = answer.returncode == 0 and settled and (number == 0 or made != [f"{root}: none" for root in ROOTS])
        names = ", ".join([*terraform, *(f"data.{name}" for name in data)]) or "defaults"
        print(f"{'ok ' if good else 'BAD'} {seconds:4.0f} s  {names}: {'; '.join(made)}", flush=True)
        if not good:
            wrong.append(f"{names}: {answer.stderr[-3000:]}\n{again.stderr[-3000:]}")
    assert not wrong, "\n\n".join(wrong)


def managed(platform: Platform) -> set[tuple[str, str, str]]:
    """(type, provider, id) of all that both of its roots made."""
    found = set()
    for root in ROOTS:
        answer = platform.aws.client("s3").get_object(
            Bucket=platform.names.bucket("artifacts"), Key=f"terraform/{root}.tfstate"
        )
        for resource in json.load(answer["Body"])["resources"]:
            if resource["mode"] == "managed":
                for instance in resource["instances"]:
                    found.add((resource["type"], resource["provider"], instance["attributes"].get("id") or "none"))
    return found


def network(aws: LocalAws) -> list[str]:
    """Private subnets, in two zones, of a VPC that somebody else made."""
    ec2 = aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.50.0.0/16")["Vpc"]["VpcId"]
    for attribute in ("EnableDnsSupport", "EnableDnsHostnames"):
        ec2.modify_vpc_attribute(VpcId=vpc, **{attribute: {"Value": True}})
    return [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.50.{i}.0/24", AvailabilityZone=f"{REGION}{zone}")["Subnet"][
            "SubnetId"
        ]
        for i, zone in enumerate("ab")
    ]


def test_two_projects_at_once_one_of_them_in_an_existing_network(
    aws: LocalAws, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    one, two = (Platform(aws, tmp_path / name, project=name) for name in ("one", "two"))
    two.decide({"terraform": {"private_subnet_ids": network(aws), "nat": "none", "image_mirror": "mirror.example.com"}})
    running = one.start("apply")
    answer = two.run("apply")
    assert answer.returncode == 0, answer.stderr
    assert running.wait() == 0
    for each in (one, two):
        assert each.run("apply").stderr.count("No changes") == len(ROOTS)
    of_one, of_two = managed(one), managed(two)
    shared = of_one & of_two
    assert not shared
    measured(f"two projects: {len(of_one)} and {len(of_two)} resources, {len(shared)} in common")
    assert two.run("destroy", "--data", "--confirm", two.names.name).returncode == 0
    assert managed(one) == of_one
    assert one.run("apply").stderr.count("No changes") == len(ROOTS)
