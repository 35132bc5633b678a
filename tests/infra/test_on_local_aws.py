"""Both roots on the local AWS: created, updated, destroyed, created again with the kept data, deleted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from comfyeks.paths import STATE
from comfyeks.platform import values_files
from comfyeks_local.emulators.local_aws import LocalAws
from tests.support.clones import Clone, make_clone
from tests.support.platform import Platform, everything

pytestmark = pytest.mark.local

SECONDS = 900  # of the first apply on a very busy machine; provider and services wait about 60 of them


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with LocalAws(tmp_path_factory.mktemp("aws")) as aws:
        yield Platform(aws, tmp_path_factory.mktemp("clone"), project="t-infra")


PLAIN = {"platform": {"load_balancer": False}}


@pytest.fixture(scope="module")
def up(platform: Platform) -> float:
    """Seconds of a first apply with every option on."""
    platform.decide(everything(platform.aws))
    begun = time.monotonic()
    answer = platform.run("apply")
    assert answer.returncode == 0, answer.stderr
    return time.monotonic() - begun


def receive(platform: Platform, url: str) -> list[dict[str, Any]]:
    answer = platform.aws.client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=5, MaxNumberOfMessages=10)
    return [json.loads(message["Body"]) for message in answer.get("Messages", [])]


@pytest.mark.usefixtures("up")
class TestLifecycle:
    """The tests run in this order."""

    def test_everything_is_created_in_bounded_time(self, up: float, measured: Callable[[str], None]) -> None:
        measured(f"local apply of every switch, from nothing: {up:.0f} s")
        assert up < SECONDS

    def test_clone_without_settings_changes_nothing(
        self, platform: Platform, tmp_path: Path, measured: Callable[[str], None]
    ) -> None:
        env = {k: v for k, v in platform.clone.env.items() if k != "COMFYEKS_API_ALLOWED_CIDRS"}
        clone = make_clone(tmp_path, env)
        begun = time.monotonic()
        answer = clone.comfyeks("infra", "apply", check=False)
        measured(f"local apply without changes: {time.monotonic() - begun:.0f} s")
        assert answer.returncode == 0, answer.stderr
        assert answer.stderr.count("No changes") == 2, answer.stderr

    def test_apply_that_would_replace_the_network_is_refused(self, platform: Platform) -> None:
        decided = platform.settings.read_text()
        other = yaml.safe_load(decided)
        other["platform"]["vpc_cidr"] = "10.9.0.0/16"
        platform.decide(other)
        answer = platform.run("apply")
        platform.settings.write_text(decided)
        assert answer.returncode == 2, answer.stderr
        assert "aws_vpc.this[0] (new cidr_block)" in answer.stderr
        assert "--allow-replacement" in answer.stderr

    def test_outputs_are_the_generated_ones(self, platform: Platform) -> None:
        printed = json.loads(platform.run("outputs").stdout)
        assert printed == json.loads((platform.dir / values_files.OUTPUTS).read_text())
        values = yaml.safe_load((platform.dir / "karpenter-gpu.values.yaml").read_text())
        assert values == printed["helm_values"]["karpenter_gpu"]

    def test_node_files_are_in_the_artifacts_bucket(self, platform: Platform) -> None:
        values = yaml.safe_load((platform.dir / "karpenter-gpu.values.yaml").read_text())["modelSync"]
        s3 = platform.aws.client("s3")
        for file in values["files"].values():
            assert s3.head_object(Bucket=values["artifactsBucket"], Key=file["key"])["ContentLength"] > 0

    def test_upload_and_delete_reach_the_queue(self, platform: Platform) -> None:
        url = json.loads(platform.run("outputs").stdout)["queue_urls"]["model_events"]
        s3 = platform.aws.client("s3")
        s3.put_object(Bucket=platform.names.bucket("models"), Key="checkpoints/kept.safetensors", Body=b"weights")
        s3.put_object(Bucket=platform.names.bucket("models"), Key="checkpoints/gone.safetensors", Body=b"weights")
        s3.delete_object(Bucket=platform.names.bucket("models"), Key="checkpoints/gone.safetensors")
        events: list[str] = []
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and len(events) < 3:
            events += [r["eventName"] for body in receive(platform, url) for r in body.get("Records", [])]
        assert sorted(event.split(":")[0] for event in events) == ["ObjectCreated", "ObjectCreated", "ObjectRemoved"]

    def test_destroy_is_refused_while_a_gpu_node_runs(self, platform: Platform) -> None:
        ec2 = platform.aws.client("ec2")
        tags = {f"kubernetes.io/cluster/{platform.names.name}": "owned", "karpenter.sh/nodepool": "gpu"}
        [image] = ec2.describe_images()["Images"][:1]
        [node] = ec2.run_instances(
            ImageId=image["ImageId"],
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
            ],
        )["Instances"]
        answer = platform.run("destroy", "--confirm", platform.names.name)
        assert answer.returncode == 2
        assert node["InstanceId"] in answer.stderr
        assert platform.inventory()["clusters"] == 1
        ec2.terminate_instances(InstanceIds=[node["InstanceId"]])

    def test_destroy_leaves_only_the_data_root(self, platform: Platform, measured: Callable[[str], None]) -> None:
        begun = time.monotonic()
        answer = platform.run("destroy", "--confirm", platform.names.name)
        measured(f"local destroy: {time.monotonic() - begun:.0f} s")
        assert answer.returncode == 0, answer.stderr
        assert platform.left() == {}
        assert platform.buckets() == {
            platform.names.bucket(kind) for kind in ("models", "inputs", "outputs", "artifacts")
        }
        assert not list(platform.dir.glob("*.values.yaml"))

    def test_second_destroy_finds_nothing_to_do(self, platform: Platform) -> None:
        answer = platform.run("destroy", "--confirm", platform.names.name)
        assert answer.returncode == 0, answer.stderr

    def test_outputs_of_a_destroyed_platform_name_the_command_that_creates_one(self, platform: Platform) -> None:
        answer = platform.run("outputs")
        assert answer.returncode == 2
        assert "comfyeks infra apply" in answer.stderr

    def test_apply_after_a_destroy_finds_the_kept_models(self, platform: Platform) -> None:
        """Started by an apply that is killed with its Terraform while the cluster is created; the next one finishes.

        Without the optional settings: their resources were created and removed above.
        """
        platform.decide(PLAIN)
        logs = platform.dir / "logs"
        earlier = set(logs.glob("*-platform-apply.log"))
        doomed = platform.start("apply")
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and doomed.poll() is None:
            new = set(logs.glob("*-platform-apply.log")) - earlier
            if any("aws_eks_cluster.this: Creating..." in log.read_text() for log in new):
                break
            time.sleep(0.1)
        os.killpg(doomed.pid, signal.SIGKILL)
        doomed.wait()
        answer = platform.run("apply")
        assert answer.returncode == 0, answer.stderr
        assert "an interrupted run may have created" in answer.stderr
        inventory = platform.inventory()
        assert (inventory["clusters"], inventory["vpcs"], inventory["gateways"]) == (1, 1, 1), (
            "something was created twice"
        )
        kept = platform.aws.client("s3").list_objects_v2(Bucket=platform.names.bucket("models"))["Contents"]
        assert [o["Key"] for o in kept] == ["checkpoints/kept.safetensors"]

    def test_data_is_not_destroyed_without_the_name(self, platform: Platform) -> None:
        answer = platform.run("destroy", "--delete-data", "--confirm", "comfyui")
        assert answer.returncode == 2
        assert "nothing was deleted" in answer.stderr
        assert len(platform.buckets()) == 4

    def test_data_destroy_from_another_clone_leaves_nothing(self, platform: Platform, tmp_path: Path) -> None:
        clone = make_clone(tmp_path, platform.clone.env)
        again = clone.comfyeks("infra", "apply", check=False)
        assert again.stderr.count("No changes") == 2, again.stderr  # what the killed apply created was imported as is
        answer = clone.comfyeks("infra", "destroy", "--delete-data", "--confirm", platform.names.name, check=False)
        assert answer.returncode == 0, answer.stderr
        assert platform.left() == {}
        assert platform.buckets() == set()
        assert platform.aws.client("ecr").describe_repositories()["repositories"] == []
        assert not (clone.root / STATE.name / platform.names.name / "terraform").exists()

    def test_destroy_of_a_missing_deployment_succeeds(self, platform: Platform) -> None:
        answer = platform.run("destroy", "--delete-data", "--confirm", platform.names.name)
        assert answer.returncode == 0
        assert "nothing to destroy" in answer.stderr


def test_missing_ranges_are_refused_before_anything_is_created(platform: Platform) -> None:
    env = {**platform.clone.env, "COMFYEKS_PROJECT": "t-none"}
    del env["COMFYEKS_API_ALLOWED_CIDRS"]
    answer = Clone(platform.clone.root, env).comfyeks("infra", "apply", check=False)
    assert answer.returncode == 2
    assert "--api-allowed-cidrs" in answer.stderr
    assert not [name for name in platform.buckets() if "t-none" in name]
    assert not (platform.dir.parent / "comfyui-t-none").exists()


def test_help_names_every_option() -> None:
    env = {**os.environ, "COLUMNS": "200"}
    for verb, option in (("apply", "--api-allowed-cidrs"), ("destroy", "--confirm"), ("outputs", "--region")):
        answer = subprocess.run(
            [sys.executable, "-m", "comfyeks", "infra", verb, "-h"], env=env, capture_output=True, text=True
        )
        assert answer.returncode == 0
        assert option in answer.stdout
