"""The files that GPU nodes install at boot: stored in the artifacts bucket, each under its own hash.

Uploaded before Terraform passes the keys to the chart, and never deleted: until the chart is upgraded, and while nodes
of the old release boot, user data names the files of an earlier apply. A release is less than 100 KB.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError
from comfyeks.paths import REPO_ROOT

PROGRAM = REPO_ROOT / "node" / "comfyui-model-sync"
FILES = {"program": PROGRAM, **{unit: PROGRAM.with_suffix(f".{unit}") for unit in ("service", "timer", "path")}}

NodeFiles = dict[str, dict[str, str]]  # part → {"key": object key in the artifacts bucket, "sha256": hexadecimal}


def describe() -> NodeFiles:
    """The key and hash of every part in this checkout."""
    hashes = {part: hashlib.sha256(path.read_bytes()).hexdigest() for part, path in FILES.items()}
    return {part: {"key": f"node/{hashes[part]}/{path.name}", "sha256": hashes[part]} for part, path in FILES.items()}


def publish(deployment: Deployment) -> NodeFiles:
    """Upload the parts that the bucket lacks; return what `describe` returns. Raises OperationError."""
    described = describe()
    for part, path in FILES.items():
        _put(deployment, described[part]["key"], path)
    return described


def _put(deployment: Deployment, key: str, path: Path) -> None:
    s3, bucket = boto3.client("s3", region_name=deployment.region), deployment.bucket("artifacts")
    try:
        # The key contains the hash of the content: an object that exists is the same one, and S3 keeps it.
        s3.put_object(
            Bucket=bucket,
            Key=key,
            Body=path.read_bytes(),
            IfNoneMatch="*",
            ExpectedBucketOwner=deployment.account,
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "PreconditionFailed":
            raise OperationError(f"s3://{bucket}/{key} could not be written: {error}") from error
    except BotoCoreError as error:
        raise OperationError(f"s3://{bucket}/{key} could not be written: {error}") from error
