"""The files that nodes install at boot, in the artifacts bucket."""

from __future__ import annotations

import hashlib
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError
from comfyeks.terraform import node_files
from tests.support.deployment import REGION


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node program of a checkout, to change."""
    path = tmp_path / node_files.PROGRAM.name
    path.write_bytes(node_files.PROGRAM.read_bytes())
    monkeypatch.setitem(node_files.FILES, "program", path)
    return path


def keys(deployment: Deployment) -> set[str]:
    answer = boto3.client("s3", region_name=REGION).list_objects_v2(Bucket=deployment.bucket("artifacts"))
    return {item["Key"] for item in answer.get("Contents", [])}


def test_every_file_lies_under_its_own_hash(state_bucket_there: Deployment) -> None:
    files = node_files.publish(state_bucket_there)
    assert files.keys() == {"program", "service", "timer", "path"}
    s3 = boto3.client("s3", region_name=REGION)
    for file in files.values():
        content = s3.get_object(Bucket=state_bucket_there.bucket("artifacts"), Key=file["key"])["Body"].read()
        assert hashlib.sha256(content).hexdigest() == file["sha256"] == file["key"].split("/")[1]


def test_a_new_program_keeps_the_old_one_for_nodes_that_still_request_it(
    state_bucket_there: Deployment, program: Path
) -> None:
    before = node_files.publish(state_bucket_there)
    program.write_text("#!/usr/bin/env python3\n")
    after = node_files.publish(state_bucket_there)
    assert after["program"] != before["program"]
    assert {before["program"]["key"], after["program"]["key"]} < keys(state_bucket_there)


def test_existing_files_are_not_uploaded_again(state_bucket_there: Deployment) -> None:
    node_files.publish(state_bucket_there)
    s3 = boto3.client("s3", region_name=REGION)
    s3.put_bucket_versioning(
        Bucket=state_bucket_there.bucket("artifacts"), VersioningConfiguration={"Status": "Enabled"}
    )
    node_files.publish(state_bucket_there)
    versions = s3.list_object_versions(Bucket=state_bucket_there.bucket("artifacts"))["Versions"]
    assert len(versions) == 4


def test_a_missing_bucket_is_a_failure_that_names_the_object(aws: None, deployment: Deployment) -> None:
    with pytest.raises(OperationError, match=r"s3://.*/node/\w{64}/comfyui-model-sync could not be written") as failure:
        node_files.publish(deployment)
    assert isinstance(failure.value.__cause__, ClientError)
