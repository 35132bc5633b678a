"""The artifacts bucket with Terraform's state and the node program; created before Terraform runs, which needs it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import ClientError

from comfyeks.console import note
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

OLD_STATE_DAYS = 90
STALE_UPLOAD_DAYS = 3
ACCESS_LOG_PREFIX = "access-logs/"  # of the data root's buckets, if its variable access_logs is true
ACCESS_LOG_DAYS = 90


def exists(deployment: Deployment) -> bool:
    """Whether the bucket exists.

    Raises OperationError when another account owns the name, or S3 fails.
    """
    s3 = boto3.client("s3", region_name=deployment.region)
    name = deployment.bucket("artifacts")
    try:
        s3.head_bucket(Bucket=name, ExpectedBucketOwner=deployment.account)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status == 404:
            return False
        if status == 403:
            raise OperationError(
                f"s3://{name} exists, but account {deployment.account} cannot read it: either the credentials lack "
                "s3:ListBucket, or another account owns the name; then use another --project"
            ) from error
        raise OperationError(f"cannot check whether s3://{name} exists: {error}") from error
    return True


def ensure(deployment: Deployment) -> None:
    """Create the bucket, or restore the safe settings of an existing one. Raises OperationError."""
    s3 = boto3.client("s3", region_name=deployment.region)
    name = deployment.bucket("artifacts")
    try:
        if not exists(deployment):
            _create(s3, deployment, name)
            note(f"created s3://{name} for Terraform's state and the node program")
        _secure(s3, deployment, name)
    except ClientError as error:
        raise OperationError(f"s3://{name} could not be set up: {error}") from error


def _create(s3: S3Client, deployment: Deployment, name: str) -> None:
    request: dict[str, Any] = {"Bucket": name, "ObjectOwnership": "BucketOwnerEnforced"}
    if deployment.region != "us-east-1":  # S3 rejects this region as a location
        request["CreateBucketConfiguration"] = {"LocationConstraint": deployment.region}
    s3.create_bucket(**request)
    s3.get_waiter("bucket_exists").wait(Bucket=name, ExpectedBucketOwner=deployment.account)


def _secure(s3: S3Client, deployment: Deployment, name: str) -> None:
    partition = boto3.Session().get_partition_for_region(deployment.region)
    arn = f"arn:{partition}:s3:::{name}"
    owner = deployment.account
    s3.put_public_access_block(
        Bucket=name,
        ExpectedBucketOwner=owner,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
    )
    s3.put_bucket_encryption(
        Bucket=name,
        ExpectedBucketOwner=owner,
        ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}],
        },
    )
    s3.put_bucket_versioning(Bucket=name, ExpectedBucketOwner=owner, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_lifecycle_configuration(
        Bucket=name,
        ExpectedBucketOwner=owner,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "expire-old-versions",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "NoncurrentVersionExpiration": {"NoncurrentDays": OLD_STATE_DAYS},
                    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": STALE_UPLOAD_DAYS},
                },
                {
                    "ID": "expire-access-logs",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ACCESS_LOG_PREFIX},
                    "Expiration": {"Days": ACCESS_LOG_DAYS},
                },
            ]
        },
    )
    s3.put_bucket_policy(
        Bucket=name,
        ExpectedBucketOwner=owner,
        Policy=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Sid": "RefusePlainHttp",
                        "Effect": "Deny",
                        "Principal": "*",
                        "Action": "s3:*",
                        "Resource": [arn, f"{arn}/*"],
                        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                    },
                    {
                        # Without this, S3 accepts the logging configuration of a bucket and writes no logs.
                        "Sid": "AccessLogs",
                        "Effect": "Allow",
                        "Principal": {"Service": "logging.s3.amazonaws.com"},
                        "Action": "s3:PutObject",
                        "Resource": f"{arn}/{ACCESS_LOG_PREFIX}*",
                        "Condition": {"StringEquals": {"aws:SourceAccount": owner}},
                    },
                ],
            }
        ),
    )
