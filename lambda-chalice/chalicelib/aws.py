"""AWS clients: created on first use (importing needs no region or credentials), kept while the function is warm."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_ssm import SSMClient

# Throttling is normal for SendCommand, and a failed batch is delivered again only after the queue's visibility timeout:
# hence the retries here. Five pauses of at most 1, 2, 4, 8 and 16 s fit into the function's timeout of 60 s, because
# responses take a fraction of a second.
CONFIG = Config(retries={"mode": "adaptive", "total_max_attempts": 6}, connect_timeout=2, read_timeout=5)


@cache
def ssm() -> SSMClient:
    return boto3.client("ssm", config=CONFIG)


@cache
def sqs() -> SQSClient:
    return boto3.client("sqs", config=CONFIG)
