"""Every setting of both roots, changed and changed back on a running deployment; a second apply has nothing to do.

Minutes: only with COMFYEKS_TEST_FLIPS=1. Settings that do not touch each other share a step.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comfyeks.dev import terraform_reference
from comfyeks.terraform.runner import ROOTS
from comfyeks_local.emulators.local_aws import ACCOUNT, REGION, LocalAws
from tests.support import exposure as edge
from tests.support.platform import Platform, everything

on_local_aws = [
    pytest.mark.local,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(os.environ.get("COMFYEKS_TEST_FLIPS") != "1", reason="minutes; COMFYEKS_TEST_FLIPS=1 runs it"),
]


def minutes(test: Callable[..., None]) -> Callable[..., None]:
    for mark in on_local_aws:
        test = mark(test)
    return test


Settings = dict[str, Any]
Step = tuple[Settings, Settings]  # of the platform root and of the data root; the next step takes it back

NETWORK: list[Step] = [
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
]

NODES: list[Step] = [
    ({"system_node_count": 3, "alarm_email": "ops@example.com"}, {"images_kept": 5}),
    ({"system_node_disk_gib": 80, "monthly_budget_usd": 500}, {"tags": {"CostCentre": "studio"}}),
    ({"log_retention_days": 90, "comfyui_namespace": "studio"}, {}),
]

NAMES: list[Step] = [
    ({"tags": {"CostCentre": "studio"}}, {}),
    ({"comfyui_release": "studio", "system_node_types": ["t3.xlarge"]}, {}),
    ({"zones": [f"{REGION}a", f"{REGION}b"]}, {}),
]


def exposure(every: Settings, oidc: Settings) -> list[Step]:
    """The load balancer and sign-in. `every`: edge.everything, `oidc`: edge.oidc."""
    https = {name: every[name] for name in ("domain_name", "certificate_arn")}
    steps: list[Settings] = [
        {"load_balancer": False},
        {"load_balancer_allowed_cidrs": every["load_balancer_allowed_cidrs"]},
        {"load_balancer_log_bucket": every["load_balancer_log_bucket"]},
        https,
        {**https, "sign_in": "cognito"},
        {**https, "sign_in": "cognito", "cognito_domain_prefix": "studio", "cognito_mfa": False},
        {**https, **oidc},
    ]
    return [(step, {}) for step in steps]


def public(every: Settings) -> list[Step]:
    """An address on the internet, and one in other networks. `every`: edge.everything."""
    https = {name: every[name] for name in ("domain_name", "certificate_arn")}
    listed = {name: every[name] for name in ("cloudfront", "cloudfront_allowed_cidrs")}
    steps: list[Settings] = [
        listed,
        {**listed, "cloudfront_rate_limit": None},
        {**listed, "cloudfront_managed_rules": False},
        {"cloudfront": True, "allow_unauthenticated_public_access": True},
        {**listed, **https, "cloudfront_certificate_arn": every["cloudfront_certificate_arn"]},
        {"privatelink_allowed_principals": every["privatelink_allowed_principals"]},
    ]
    return [(step, {}) for step in steps]


def steps_of(track: str, aws: LocalAws) -> list[Step]:
    """What a track's deployment is brought to, one after the other; makes the certificates that the steps name."""
    if track == "together":
        every = everything(aws)
        return [(every["platform"], every["data"]), ({}, {}), (every["platform"], every["data"])]
    steps = {
        "network": NETWORK,
        "nodes": NODES,
        "names": NAMES,
        "exposure": exposure(edge.everything(aws), edge.oidc(aws)),
        "public": public(edge.everything(aws)),
    }
    return [({}, {}), *steps[track], ({}, {})]


# Variables that no step changes.
LEFT_OUT = {
    "platform": {
        "node_files": "follows from the files of node/",
        "private_subnet_ids": "an existing network: test_two_projects_at_once has it",
        "project": "names the deployment: another one is another deployment",
        "region": "the same",
        "vpc_cidr": "another network: all that is in it is made again, as in an apply from nothing",
    },
    "data": {"project": "names the deployment", "region": "the same"},
}


@pytest.mark.parametrize("root", ROOTS)
def test_every_variable_is_in_a_step_or_is_left_out_for_a_reason(root: str) -> None:
    known = terraform_reference.blocks(ROOTS[root], "variable").keys()
    any_value: dict[str, Any] = defaultdict(str)
    steps = [*NETWORK, *NODES, *NAMES, *exposure(any_value, {"sign_in": "oidc", "oidc": {}}), *public(any_value)]
    changed = {name for step in steps for name in step[list(LEFT_OUT).index(root)]}
    assert changed | LEFT_OUT[root].keys() == known
    assert not changed & LEFT_OUT[root].keys()


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[LocalAws]:
    with LocalAws(tmp_path / "aws") as local:
        yield local


def changes(stderr: str, root: str) -> str:
    """The counts that an apply prints for a root, or `none`."""
    found = re.findall(rf"^ *[\d.]+s  {root} +(\d+ to add, \d+ to change, \d+ to destroy)", stderr, re.MULTILINE)
    return found[0] if found else "none"


@minutes
@pytest.mark.parametrize("track", ["network", "nodes", "names", "exposure", "public", "together"])
def test_each_setting_goes_on_and_off(aws: LocalAws, tmp_path: Path, track: str) -> None:
    platform = Platform(aws, tmp_path / "clone", project=track.replace(" ", "-"))
    wrong = []
    for number, (terraform, data) in enumerate(steps_of(track, aws)):
        platform.decide({"platform": terraform, "data": data})
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


@minutes
def test_two_projects_at_once_one_of_them_in_an_existing_network(
    aws: LocalAws, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    one, two = (Platform(aws, tmp_path / name, project=name) for name in ("one", "two"))
    two.decide({"platform": {"private_subnet_ids": network(aws), "nat": "none", "image_mirror": "mirror.example.com"}})
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
    assert two.run("destroy", "--delete-data", "--confirm", two.names.name).returncode == 0
    assert managed(one) == of_one
    assert one.run("apply").stderr.count("No changes") == len(ROOTS)
