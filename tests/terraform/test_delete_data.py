"""Emptying the registry: ECR does not delete an image while an index refers to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError
from comfyeks.terraform import delete_data
from tests.support.deployment import REGION

REPOSITORY = {"repositoryName": "comfyui-images"}
INDEX, AMD64, ATTESTATION = (f"sha256:{letter * 64}" for letter in "fab")
IMAGE_TYPE = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def ecr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    client = boto3.client("ecr", region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test")
    monkeypatch.setattr(boto3, "client", lambda *_, **__: client)
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()


def holds(ecr: Stubber, *digests: str) -> None:
    details = [
        {"imageDigest": digest, "imageManifestMediaType": delete_data.INDEX_TYPES[0] if digest == INDEX else IMAGE_TYPE}
        for digest in digests
    ]
    ecr.add_response("describe_images", {"imageDetails": details}, REPOSITORY)


def deletes(ecr: Stubber, asked: list[str], refused: dict[str, str]) -> None:
    failures = [
        {"imageId": {"imageDigest": digest}, "failureCode": code, "failureReason": f"{code}!"}
        for digest, code in refused.items()
    ]
    request: dict[str, Any] = REPOSITORY | {"imageIds": [{"imageDigest": digest} for digest in asked]}
    ecr.add_response("batch_delete_image", {"failures": failures}, request)


def test_index_goes_first_and_its_children_in_the_next_round(ecr: Stubber, deployment: Deployment) -> None:
    children = dict.fromkeys([AMD64, ATTESTATION], "ImageReferencedByManifestList")
    holds(ecr, AMD64, ATTESTATION, INDEX)
    deletes(ecr, [INDEX, AMD64, ATTESTATION], refused=children)
    holds(ecr, AMD64, ATTESTATION)
    deletes(ecr, [AMD64, ATTESTATION], refused={})
    holds(ecr)
    assert delete_data.empty_registry(deployment) == 3


def test_image_that_stays_is_named_with_the_reason(ecr: Stubber, deployment: Deployment) -> None:
    holds(ecr, AMD64, ATTESTATION)
    deletes(ecr, [AMD64, ATTESTATION], refused={ATTESTATION: "KmsError"})
    holds(ecr, ATTESTATION)
    deletes(ecr, [ATTESTATION], refused={ATTESTATION: "KmsError"})
    with pytest.raises(OperationError, match=rf"1 images stay in comfyui-images.*{ATTESTATION} \(KmsError!\)"):
        delete_data.empty_registry(deployment)


def test_image_that_somebody_else_just_deleted_counts_as_deleted(ecr: Stubber, deployment: Deployment) -> None:
    holds(ecr, AMD64)
    deletes(ecr, [AMD64], refused={AMD64: "ImageNotFound"})
    holds(ecr)
    assert delete_data.empty_registry(deployment) == 1


def test_more_images_than_one_call_takes(ecr: Stubber, deployment: Deployment) -> None:
    digests = [f"sha256:{number:064x}" for number in range(delete_data.IMAGES_PER_CALL + 1)]
    holds(ecr, *digests)
    deletes(ecr, digests[:-1], refused={})
    deletes(ecr, digests[-1:], refused={})
    holds(ecr)
    assert delete_data.empty_registry(deployment) == len(digests)
