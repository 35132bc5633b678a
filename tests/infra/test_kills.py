"""Applies and destroys that are killed repeatedly: the next one resumes, creates nothing twice and leaves nothing.

Minutes a seed: only with COMFYEKS_TEST_KILLS=<number of seeds>.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from comfyeks.terraform.runner import ROOTS
from comfyeks_local.emulators.local_aws import LocalAws
from tests.support.platform import Platform

SEEDS = int(os.environ.get("COMFYEKS_TEST_KILLS", "0"))

pytestmark = [
    pytest.mark.local,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(not SEEDS, reason="minutes; COMFYEKS_TEST_KILLS=<number of seeds> runs it"),
]

PLAIN: dict[str, Any] = {"platform": {"load_balancer": False}}
WIDE: dict[str, Any] = {"platform": {"nat": "per_az", "efs": True, "queue_kms_key": True}}

# EC2 resources without a unique name, which could be created twice: operation, key of its list, key of the id.
UNNAMED = [
    ("describe_addresses", "Addresses", "AllocationId"),
    ("describe_internet_gateways", "InternetGateways", "InternetGatewayId"),
    ("describe_nat_gateways", "NatGateways", "NatGatewayId"),
    ("describe_network_acls", "NetworkAcls", "NetworkAclId"),
    ("describe_route_tables", "RouteTables", "RouteTableId"),
    ("describe_security_groups", "SecurityGroups", "GroupId"),
    ("describe_subnets", "Subnets", "SubnetId"),
    ("describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId"),
    ("describe_vpcs", "Vpcs", "VpcId"),
]


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[LocalAws]:
    with LocalAws(tmp_path / "aws") as local:
        yield local


def state_ids(platform: Platform) -> set[str]:
    """The ids of everything in both states."""
    found = set()
    for root in ROOTS:
        answer = platform.aws.client("s3").get_object(
            Bucket=platform.names.bucket("artifacts"), Key=f"terraform/{root}.tfstate"
        )
        resources = json.load(answer["Body"])["resources"]
        managed = [resource for resource in resources if resource["mode"] == "managed"]
        found |= {each["attributes"].get("id") or "" for resource in managed for each in resource["instances"]}
    return found


def ours_in_no_state(platform: Platform) -> list[str]:
    """Resources that carry the deployment's tag or name and are in no state."""
    known = state_ids(platform)
    found = []
    for operation, things, id_name in UNNAMED:
        for thing in getattr(platform.aws.client("ec2"), operation)()[things]:
            tags = {tag["Key"]: tag["Value"] for tag in thing.get("Tags", [])}
            gone = thing.get("State") in ("deleted", "deleting")
            if tags.get("Deployment") == platform.names.name and not gone and thing[id_name] not in known:
                found.append(f"{thing[id_name]} ({tags.get('Name')})")
    kms = platform.aws.client("kms")
    keys = [kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"] for key in kms.list_keys()["Keys"]]
    of_us = [key for key in keys if platform.names.name in key.get("Description", "") and key["KeyState"] == "Enabled"]
    return found + [f"{key['KeyId']} ({key['Description']})" for key in of_us if key["KeyId"] not in known]


def events(platform: Platform, since: set[Path], markers: tuple[str, ...]) -> int:
    """How many lines with one of the markers Terraform's logs have, without the logs in `since`."""
    logs = set((platform.dir / "logs").glob("*.log")) - since
    return sum(log.read_text(errors="replace").count(marker) for log in logs for marker in markers)


def terraforms(process: subprocess.Popen[bytes], kind: str) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if child.name().startswith(kind)]


def kill(process: subprocess.Popen[bytes], way: str) -> None:
    """Kill everything (a power failure), Terraform alone (out of memory), or everything but the providers."""
    if way == "all":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        doomed = [child for child in terraforms(process, "terraform") if child.name() == "terraform"]
        if way == "all but the providers":
            process.kill()
        for child in doomed:
            child.kill()
    process.wait()


def run_and_kill(platform: Platform, verb: tuple[str, ...], chance: random.Random, markers: tuple[str, ...]) -> str:
    """Start a command and kill it once it has started some changes; return a description of what was done."""
    earlier = set((platform.dir / "logs").glob("*.log"))
    count, way = (
        chance.choice([1, 2, 3, 5, 8, 13, 21, 34]),
        chance.choice(["all", "Terraform", "all but the providers"]),
    )
    process = platform.start(*verb)
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        if events(platform, earlier, markers) >= count:
            kill(process, way)
            return f"{verb[0]} killed ({way}) after it had started {count}"
        time.sleep(0.05)
    return f"{verb[0]} ended before it had started {count}: {process.wait()}"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_applies_and_destroys_are_finished_by_the_next(
    aws: LocalAws, tmp_path: Path, seed: int, measured: Callable[[str], None]
) -> None:
    chance = random.Random(seed)
    settings = WIDE if seed % 2 else PLAIN
    platform = Platform(aws, tmp_path / "clone", project="kills")
    platform.decide(settings)

    def say(text: str) -> None:
        print(f"seed {seed}: {text}", flush=True)

    for _ in range(chance.choice([1, 2, 4, 6])):
        say(run_and_kill(platform, ("apply",), chance, (": Creating...", ": Importing...")))
    begun = time.monotonic()
    answer = platform.run("apply")
    say(f"the last apply: {answer.returncode}, {time.monotonic() - begun:.0f} s")
    assert answer.returncode == 0, answer.stderr
    assert ours_in_no_state(platform) == []
    assert platform.run("apply").stderr.count("No changes") == len(ROOTS)
    destroy = ("destroy", "--confirm", platform.names.name)
    for _ in range(chance.choice([0, 1, 2])):
        say(run_and_kill(platform, destroy, chance, (": Destroying...",)))
    answer = platform.run("destroy", "--delete-data", "--confirm", platform.names.name)
    say(f"the last destroy: {answer.returncode}")
    assert answer.returncode == 0, answer.stderr
    assert platform.left() == {}
    assert platform.buckets() == set()
    measured(f"seed {seed}: killed, finished and gone")


def test_destroy_deletes_what_a_killed_first_apply_created(aws: LocalAws, tmp_path: Path) -> None:
    """Its state is still empty: Terraform saves it after twenty seconds."""
    platform = Platform(aws, tmp_path / "clone", project="kills")
    platform.decide(PLAIN)
    process = platform.start("apply")
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        if any(
            "aws_subnet.private" in log.read_text() and "aws_vpc.this[0]: Creation" in log.read_text()
            for log in (platform.dir / "logs").glob("*-platform-apply.log")
        ):
            break
        time.sleep(0.05)
    kill(process, "all")
    assert platform.inventory()["vpcs"] == 1
    answer = platform.run("destroy", "--delete-data", "--confirm", platform.names.name)
    assert answer.returncode == 0, answer.stderr
    assert platform.left() == {}
    assert platform.buckets() == set()
