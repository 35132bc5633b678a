"""The artifacts bucket: Terraform's state and the node program. Made before Terraform, because it holds its state."""

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
ACCESS_LOG_PREFIX = "access-logs/"  # of the data root's buckets, when its variable access_logs says so
ACCESS_LOG_DAYS = 90


def exists(deployment: Deployment) -> bool:
    """Whether the bucket is there.

    Raises OperationError when the name is taken by another account, or S3 does not answer.
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
                f"s3://{name} exists, but not for account {deployment.account}: either the credentials may not read it "
                "(s3:ListBucket), or somebody else took the name; then use another project name"
            ) from error
        raise OperationError(f"S3 did not tell whether s3://{name} exists: {error}") from error
    return True


def ensure(deployment: Deployment) -> None:
    """Make the bucket, or bring an existing one back to the safe settings. Raises OperationError."""
    s3 = boto3.client("s3", region_name=deployment.region)
    name = deployment.bucket("artifacts")
    try:
        if not exists(deployment):
            _create(s3, deployment, name)
            note(f"made s3://{name} for Terraform's state and the node program")
        _secure(s3, deployment, name)
    except ClientError as error:
        raise OperationError(f"s3://{name} could not be set up: {error}") from error


def _create(s3: S3Client, deployment: Deployment, name: str) -> None:
    request: dict[str, Any] = {"Bucket": name, "ObjectOwnership": "BucketOwnerEnforced"}
    if deployment.region != "us-east-1":  # the one region that must not be named
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
                        # S3 accepts a bucket's logging without this, and then writes nothing.
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
