"""Emptying what only `destroy --data` may empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import ClientError

from comfyeks.deployment import Deployment
from comfyeks.errors import Failure

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

DATA_BUCKETS = ("models", "inputs", "outputs")


def empty_bucket(deployment: Deployment, kind: str) -> int:
    """Delete every object, old version and delete marker; how many there were. A missing bucket is empty.

    Raises Failure naming the first object that S3 would not delete.
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
                raise Failure(f"s3://{bucket}/{problem.get('Key')} was not deleted: {problem.get('Message')}")
            count += len(doomed)
    except s3.exceptions.NoSuchBucket:
        return count
    except ClientError as error:
        raise Failure(f"s3://{bucket} could not be emptied: {error}") from error
    return count


def empty_registry(deployment: Deployment) -> int:
    """Delete every ComfyUI image; how many there were. A missing repository is empty."""
    ecr = boto3.client("ecr", region_name=deployment.region)
    repository = f"{deployment.name}-images"
    count = 0
    try:
        for page in ecr.get_paginator("list_images").paginate(repositoryName=repository):
            if page["imageIds"]:
                ecr.batch_delete_image(repositoryName=repository, imageIds=page["imageIds"])
                count += len(page["imageIds"])
    except ecr.exceptions.RepositoryNotFoundException:
        return count
    except ClientError as error:
        raise Failure(f"the images in {repository} could not be deleted: {error}") from error
    return count


def delete_state_bucket(deployment: Deployment) -> None:
    """Delete the artifacts bucket with all that is in it. Raises Failure."""
    empty_bucket(deployment, "artifacts")
    s3 = boto3.client("s3", region_name=deployment.region)
    try:
        s3.delete_bucket(Bucket=deployment.bucket("artifacts"), ExpectedBucketOwner=deployment.account)
    except s3.exceptions.NoSuchBucket:
        return
    except ClientError as error:
        raise Failure(f"s3://{deployment.bucket('artifacts')} could not be deleted: {error}") from error
