"""Empties buckets and registry, which only `comfyeks infra destroy --delete-data` may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import ClientError

from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError

if TYPE_CHECKING:
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
IMAGES_PER_CALL = 100  # the most that BatchDeleteImage takes
DATA_BUCKETS = ("models", "inputs", "outputs")


def empty_bucket(deployment: Deployment, kind: str) -> int:
    """Delete every object, old version and delete marker of a bucket; return how many. A missing bucket is empty.

    Raises OperationError naming the first object that S3 would not delete.
    """
    s3 = boto3.client("s3", region_name=deployment.region)
    bucket = deployment.bucket(kind)
    count = 0
    try:
        for page in s3.get_paginator("list_object_versions").paginate(
            Bucket=bucket, ExpectedBucketOwner=deployment.account
        ):
            found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            doomed: list[ObjectIdentifierTypeDef] = [{"Key": o["Key"], "VersionId": o["VersionId"]} for o in found]
            if not doomed:
                continue
            answer = s3.delete_objects(
                Bucket=bucket, Delete={"Objects": doomed, "Quiet": True}, ExpectedBucketOwner=deployment.account
            )
            for problem in answer.get("Errors", []):
                raise OperationError(f"s3://{bucket}/{problem.get('Key')} was not deleted: {problem.get('Message')}")
            count += len(doomed)
    except s3.exceptions.NoSuchBucket:
        return count
    except ClientError as error:
        raise OperationError(f"s3://{bucket} could not be emptied: {error}") from error
    return count


def empty_registry(deployment: Deployment) -> int:
    """Delete every ComfyUI image; return how many. A missing repository is empty.

    Raises OperationError naming the images that ECR would not delete.
    """
    ecr = boto3.client("ecr", region_name=deployment.region)
    repository = deployment.image_repository
    count = 0
    try:
        # ECR does not delete an image that an index refers to: it can be deleted in the round after its index.
        while digests := _image_digests(ecr, repository):
            refused: list[str] = []
            for start in range(0, len(digests), IMAGES_PER_CALL):
                batch = digests[start : start + IMAGES_PER_CALL]
                answer = ecr.batch_delete_image(
                    repositoryName=repository, imageIds=[{"imageDigest": digest} for digest in batch]
                )
                refused += [
                    f"{failure.get('imageId', {}).get('imageDigest')} ({failure.get('failureReason')})"
                    for failure in answer.get("failures", [])
                    if failure.get("failureCode") != "ImageNotFound"
                ]
            count += len(digests) - len(refused)
            if len(refused) == len(digests):
                raise OperationError(
                    f"{len(refused)} images stay in {repository}, ECR did not delete them: {', '.join(refused)}"
                )
    except ecr.exceptions.RepositoryNotFoundException:
        return count
    except ClientError as error:
        raise OperationError(f"the images in {repository} could not be deleted: {error}") from error
    return count


def _image_digests(ecr: ECRClient, repository: str) -> list[str]:
    """The digest of every image, indexes first. Deleting by digest removes all tags of an image."""
    pages = ecr.get_paginator("describe_images").paginate(repositoryName=repository)
    images = [image for page in pages for image in page["imageDetails"]]
    images.sort(key=lambda image: image.get("imageManifestMediaType") not in INDEX_TYPES)
    return [image["imageDigest"] for image in images]


def delete_state_bucket(deployment: Deployment) -> None:
    """Delete the artifacts bucket and its content. Raises OperationError."""
    empty_bucket(deployment, "artifacts")
    s3 = boto3.client("s3", region_name=deployment.region)
    try:
        s3.delete_bucket(Bucket=deployment.bucket("artifacts"), ExpectedBucketOwner=deployment.account)
    except s3.exceptions.NoSuchBucket:
        return
    except ClientError as error:
        raise OperationError(f"s3://{deployment.bucket('artifacts')} could not be deleted: {error}") from error
