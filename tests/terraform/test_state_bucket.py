"""The artifacts bucket, created before Terraform runs."""

from __future__ import annotations

import boto3
import pytest
from botocore.stub import Stubber

from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError
from comfyeks.terraform import delete_data, state_bucket
from tests.support.deployment import ACCOUNT, REGION


@pytest.mark.usefixtures("aws")
def test_bucket_is_created_private_encrypted_and_versioned(deployment: Deployment) -> None:
    assert not state_bucket.exists(deployment)
    state_bucket.ensure(deployment)
    assert state_bucket.exists(deployment)
    s3 = boto3.client("s3", region_name=REGION)
    name = deployment.bucket("artifacts")
    assert s3.get_bucket_location(Bucket=name)["LocationConstraint"] == REGION
    assert all(s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"].values())
    assert s3.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
    assert s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    rules = s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    # Terraform's state and the node program stay; only logs and replaced versions expire.
    assert [(rule["Filter"]["Prefix"], rule["Expiration"]["Days"]) for rule in rules if "Expiration" in rule] == [
        ("access-logs/", 90)
    ]


@pytest.mark.usefixtures("aws")
def test_second_time_keeps_the_content_and_restores_the_settings(deployment: Deployment) -> None:
    state_bucket.ensure(deployment)
    s3 = boto3.client("s3", region_name=REGION)
    name = deployment.bucket("artifacts")
    s3.delete_bucket_policy(Bucket=name)
    s3.delete_public_access_block(Bucket=name)
    s3.put_object(Bucket=name, Key="terraform/data.tfstate", Body=b"{}")
    state_bucket.ensure(deployment)
    assert [version["Key"] for version in s3.list_object_versions(Bucket=name)["Versions"]] == [
        "terraform/data.tfstate"
    ]
    assert s3.get_bucket_policy(Bucket=name)["Policy"]
    assert all(s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"].values())


@pytest.mark.usefixtures("aws")
def test_bucket_in_the_region_that_must_not_be_named() -> None:
    virginia = Deployment(project=None, region="us-east-1", account=ACCOUNT)
    state_bucket.ensure(virginia)
    assert state_bucket.exists(virginia)


def test_name_that_another_account_owns_is_refused(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    s3 = boto3.client("s3", region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test")
    monkeypatch.setattr(boto3, "client", lambda *_, **__: s3)
    with Stubber(s3) as stub:
        stub.add_client_error("head_bucket", service_error_code="403", http_status_code=403)
        with pytest.raises(OperationError, match="another account owns the name"):
            state_bucket.exists(deployment)


@pytest.mark.usefixtures("aws")
def test_emptying_deletes_old_versions_and_delete_markers_too(deployment: Deployment) -> None:
    s3 = boto3.client("s3", region_name=REGION)
    name = deployment.bucket("models")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"1", b"2"):
        s3.put_object(Bucket=name, Key="checkpoints/a b+中文.safetensors", Body=body)
    s3.delete_object(Bucket=name, Key="checkpoints/a b+中文.safetensors")
    assert delete_data.empty_bucket(deployment, "models") == 3
    s3.delete_bucket(Bucket=name)


@pytest.mark.usefixtures("aws")
def test_missing_bucket_and_registry_count_as_empty(deployment: Deployment) -> None:
    assert delete_data.empty_bucket(deployment, "models") == 0
    assert delete_data.empty_registry(deployment) == 0
    delete_data.delete_state_bucket(deployment)


@pytest.mark.usefixtures("aws")
def test_state_bucket_is_deleted_with_its_content(deployment: Deployment) -> None:
    state_bucket.ensure(deployment)
    s3 = boto3.client("s3", region_name=REGION)
    name = deployment.bucket("artifacts")
    s3.delete_bucket_policy(Bucket=name)  # moto ignores the policy's condition and denies everything
    s3.put_object(Bucket=name, Key="terraform/data.tfstate", Body=b"{}")
    delete_data.delete_state_bucket(deployment)
    assert not state_bucket.exists(deployment)
