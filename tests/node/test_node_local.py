"""Whole local nodes on the local AWS: the chart's own user data, the document's own script, the real node program."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from comfyeks.charts.render import render
from comfyeks.errors import OperationError, UserError
from comfyeks.paths import REPO_ROOT
from comfyeks_local.emulators.local_aws import LocalAws
from comfyeks_local.node.local_node import LocalNode
from tests.node.conftest import PROGRAM
from tests.node.support import eventually, model_files, processes_of
from tests.node.test_node_sync import python39

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("local-node")]

BUCKETS = ("node-models", "node-artifacts")
DOCUMENT = "node-sync-models"
TAG = ("ComfyUIModelSync", "comfyui")
SECONDS_TO_START = 60.0  # from SendCommand to a begun run; 0.5 on an idle machine, minutes by the timer


@dataclass
class Platform:
    """What Terraform makes around the nodes, and the nodes of one test."""

    aws: LocalAws
    home: Path
    files: dict[str, dict[str, str]]
    nodes: list[LocalNode] = field(default_factory=list)

    def node(self, **options: Any) -> LocalNode:
        """A node as Karpenter would launch it; not started yet."""
        values = {
            "cluster": {"name": TAG[1]},
            "nodeRole": "role",
            "modelSync": {
                "bucket": BUCKETS[0],
                "region": "us-west-2",
                "artifactsBucket": BUCKETS[1],
                "files": options.pop("files", self.files),
            },
        }
        spec = render("karpenter-gpu", values=values).of_kind("EC2NodeClass")[0]["spec"]
        home = self.home / f"node-{len(self.nodes)}"
        self.nodes.append(LocalNode(home, self.aws.env(), spec["userData"], spec["tags"], **options))
        return self.nodes[-1]

    def put(self, key: str, body: bytes) -> None:
        self.aws.client("s3").put_object(Bucket=BUCKETS[0], Key=key, Body=body)

    def delete(self, key: str) -> None:
        self.aws.client("s3").delete_object(Bucket=BUCKETS[0], Key=key)

    def bucket(self) -> dict[str, bytes]:
        s3 = self.aws.client("s3")
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKETS[0])
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: s3.get_object(Bucket=BUCKETS[0], Key=key)["Body"].read() for key in keys}

    def command(self, action: str) -> str:
        return str(
            self.aws.client("ssm").send_command(
                DocumentName=DOCUMENT,
                Targets=[{"Key": f"tag:{TAG[0]}", "Values": [TAG[1]]}],
                Parameters={"action": [action]},
                MaxConcurrency="100%",
                MaxErrors="100%",
                TimeoutSeconds=600,
            )["Command"]["CommandId"]
        )

    def invocation(self, command_id: str, node: LocalNode) -> dict[str, Any]:
        """The finished invocation."""
        ssm = self.aws.client("ssm")

        def get() -> dict[str, Any]:
            return dict(ssm.get_command_invocation(CommandId=command_id, InstanceId=node.instance_id))

        eventually(lambda: get()["Status"] not in ("Pending", "InProgress"))
        return get()


@pytest.fixture
def platform(aws: LocalAws, tmp_path: Path) -> Iterator[Platform]:
    s3, ssm = aws.client("s3"), aws.client("ssm")
    for bucket in BUCKETS:
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    files = {}
    sources = {kind: PROGRAM.with_name(f"{PROGRAM.name}.{kind}") for kind in ("service", "timer", "path")}
    for name, source in {"program": PROGRAM, **sources}.items():
        body = source.read_bytes()
        sha256 = hashlib.sha256(body).hexdigest()
        files[name] = {"key": f"node/{sha256}/{source.name}", "sha256": sha256}
        s3.put_object(Bucket=BUCKETS[1], Key=files[name]["key"], Body=body)
    content = (REPO_ROOT / "infra/terraform/platform/sync-models.ssm.yaml").read_text()
    ssm.create_document(Name=DOCUMENT, DocumentType="Command", DocumentFormat="YAML", Content=content)
    platform = Platform(aws, tmp_path, files)
    yield platform
    for node in platform.nodes:
        node.remove()
    ssm.delete_document(Name=DOCUMENT)
    for bucket in BUCKETS:
        for key in [item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]:
            s3.delete_object(Bucket=bucket, Key=key)
        s3.delete_bucket(Bucket=bucket)


def idle(node: LocalNode) -> Callable[[], bool]:
    return lambda: node.status().get("state") == "idle"


def test_the_rendered_user_data_makes_a_node_that_syncs_at_boot_and_on_command(platform: Platform) -> None:
    platform.put("checkpoints/a b+c[1] 模型.safetensors", b"model")
    node = platform.node()
    node.start()
    eventually(idle(node))
    assert model_files(node.models) == platform.bucket()
    assert node.status()["node"] == node.instance_id

    platform.put("vae/new", b"new")
    platform.delete("checkpoints/a b+c[1] 模型.safetensors")
    begun = time.monotonic()
    command = platform.command("sync")
    answer = platform.invocation(command, node)
    assert (answer["Status"], answer["ResponseCode"]) == ("Success", 0)
    run_id = json.loads(answer["StandardOutputContent"])["run_id"]
    eventually(lambda: node.status()["run_id"] == run_id)
    assert time.monotonic() - begun < SECONDS_TO_START
    eventually(idle(node))
    assert model_files(node.models) == platform.bucket() == {"vae/new": b"new"}

    answer = platform.invocation(platform.command("status"), node)
    assert json.loads(answer["StandardOutputContent"]) == node.status()
    assert len(answer["StandardOutputContent"]) < 2500


def test_two_nodes_converge_under_a_storm_of_requests_with_few_runs(platform: Platform) -> None:
    nodes = [platform.node(), platform.node()]
    for node in nodes:
        node.start()
    requests = 15
    for number in range(requests):
        platform.put(f"loras/{number:03}", os.urandom(100))
        platform.command("sync")
    for number in range(0, requests, 3):
        platform.delete(f"loras/{number:03}")
    last = platform.command("sync")
    for node in nodes:
        run_id = json.loads(platform.invocation(last, node)["StandardOutputContent"])["run_id"]
        eventually(lambda node=node, run_id=run_id: node.status()["run_id"] >= run_id and idle(node)())
        assert model_files(node.models) == platform.bucket()
        runs = (node.home / "log/comfyui-model-sync.service.log").read_text().count("\nrun ") + 1
        # At most one a request, the last and the one at boot included; a slow machine takes each request by itself.
        assert 1 < runs <= requests + 2, f"{runs} runs for {requests} requests"


def test_a_node_that_was_down_during_an_upload_converges_by_itself(platform: Platform) -> None:
    platform.put("vae/old", b"old")
    node = platform.node()
    node.start()
    eventually(idle(node))
    node.kill()
    assert processes_of(node.root) == []
    platform.put("vae/while-down", b"new")
    platform.delete("vae/old")
    waiting = platform.command("sync")
    node.start()
    begun = time.monotonic()
    eventually(lambda: model_files(node.models) == {"vae/while-down": b"new"})
    assert time.monotonic() - begun < 60, "at boot, not when the timer comes around"
    assert platform.invocation(waiting, node)["Status"] == "Success", "the command waited for the node"


def test_a_stopped_node_is_no_target_and_keeps_its_disk(platform: Platform) -> None:
    platform.put("vae/a", b"a")
    node = platform.node()
    node.start()
    eventually(idle(node))
    node.stop()
    assert processes_of(node.root) == []
    command = platform.command("sync")
    assert platform.aws.client("ssm").list_command_invocations(CommandId=command)["CommandInvocations"] == []
    inode = (node.models / "vae/a").stat().st_ino
    instance_id = node.instance_id
    node.start()
    eventually(idle(node))
    assert (node.instance_id, (node.models / "vae/a").stat().st_ino) == (instance_id, inode)


def test_a_removed_node_leaves_nothing(platform: Platform) -> None:
    node = platform.node()
    node.start()
    instance_id = node.instance_id
    node.remove()
    assert processes_of(node.root) == []
    assert not node.home.exists()
    [reservation] = platform.aws.client("ec2").describe_instances(InstanceIds=[instance_id])["Reservations"]
    assert reservation["Instances"][0]["State"]["Name"] in ("shutting-down", "terminated")


def test_a_program_with_another_hash_is_not_installed(platform: Platform) -> None:
    files = {**platform.files, "program": {**platform.files["program"], "sha256": "0" * 64}}
    node = platform.node(files=files)
    with pytest.raises(OperationError, match="user data ended with exit code 1"):
        node.start()
    assert not (node.root / "usr/local/bin/comfyui-model-sync").exists()


def test_models_wait_for_a_late_array_and_do_without_local_disks(platform: Platform) -> None:
    platform.put("vae/a", b"a")
    late, diskless = platform.node(array_delay=3.0), platform.node(local_disks=0)
    late.start()
    eventually(lambda: late.status().get("state") == "waiting_for_storage")
    assert not late.models.is_symlink()
    diskless.start()
    for node, place in ((late, "mnt/k8s-disks/0/comfyui-models"), (diskless, "var/lib/comfyui-models")):
        eventually(idle(node))
        assert node.models.resolve() == node.root / place
        assert model_files(node.models) == {"vae/a": b"a"}


def test_a_whole_node_works_with_the_images_python(platform: Platform) -> None:
    platform.put("vae/a", b"a")
    node = platform.node(python=Path(python39()))
    node.start()
    eventually(idle(node))
    assert model_files(node.models) == {"vae/a": b"a"}


def test_user_data_beyond_the_limit_of_ec2_is_refused(platform: Platform) -> None:
    with pytest.raises(UserError, match="EC2 takes at most 16384"):
        LocalNode(platform.home / "big", platform.aws.env(), "x" * 16_385).start()


def test_a_folder_that_is_no_node_is_said_so(platform: Platform) -> None:
    with pytest.raises(OperationError, match="is not a local node"):
        _ = LocalNode(platform.home / "none", platform.aws.env()).instance_id
