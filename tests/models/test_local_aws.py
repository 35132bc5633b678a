"""The models commands on the local AWS, where S3 keeps its promises and SSM has a channel to nodes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from comfyeks.errors import OperationError
from comfyeks.models import status
from comfyeks.models.store import ModelStore
from comfyeks_local.emulators.local_aws import LocalAws
from tests.models.conftest import BUCKET, DEPLOYMENT

pytestmark = pytest.mark.local


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    with LocalAws(tmp_path_factory.mktemp("aws")) as running:
        yield running


@pytest.fixture
def session(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> boto3.Session:
    for key, value in aws.env().items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return boto3.Session(region_name="us-west-2")


def test_of_two_uploads_at_once_one_wins_and_the_other_leaves_nothing(session: boto3.Session, tmp_path: Path) -> None:
    session.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    size = 70 * 2**20
    store = ModelStore(session, BUCKET)
    both_started = threading.Barrier(2, timeout=60)
    outcomes: list[str] = []

    def upload(name: str) -> None:
        path = tmp_path / name
        path.write_bytes(name.encode() * (size // len(name)))
        both_started.wait()
        try:
            store.upload(path, "checkpoints/big", force=False, on_bytes=lambda _: None)
            outcomes.append(name)
        except OperationError as error:
            outcomes.append("refused" if "exists in" in str(error) else str(error))

    threads = [threading.Thread(target=upload, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    [winner] = [name for name in outcomes if name != "refused"]
    assert sorted(outcomes) == sorted([winner, "refused"])
    s3 = session.client("s3")
    assert s3.get_object(Bucket=BUCKET, Key="checkpoints/big")["Body"].read(1) == winner.encode()
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)


def test_status_reaches_nodes_through_ssm(session: boto3.Session, aws: LocalAws) -> None:
    ec2, ssm = session.client("ec2"), session.client("ssm")
    document = (Path(__file__).parents[2] / "infra/terraform/platform/sync-models.ssm.yaml").read_text()
    ssm.create_document(Name=DEPLOYMENT.sync_document, DocumentType="Command", DocumentFormat="YAML", Content=document)
    tags: Any = [{"ResourceType": "instance", "Tags": [{"Key": "ComfyUIModelSync", "Value": DEPLOYMENT.name}]}]
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    instances = ec2.run_instances(ImageId=image, MinCount=2, MaxCount=2, TagSpecifications=tags)["Instances"]
    answering, silent = (instance["InstanceId"] for instance in instances)

    def agent() -> None:
        channel = f"{aws.endpoint('ssm')}/_local/ssm"
        command = requests.get(f"{channel}/next", params={"instance": answering, "wait": "10"}, timeout=20).json()
        report = {"state": "idle", "ready": True, "files": 0, "bytes": 0, "missing_files": 0}
        requests.post(f"{channel}/result", timeout=10, json={
            "command_id": command["command_id"], "instance_id": answering, "status": "Success", "response_code": 0,
            "stdout": json.dumps(report), "stderr": "",
        })  # fmt: skip

    thread = threading.Thread(target=agent)
    thread.start()
    rows = {row.node: row for row in status.collect(session, DEPLOYMENT, [], wait=5)}
    thread.join(20)
    assert rows[answering].converged
    assert rows[silent].state == "no answer"
