from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest

from comfyeks.deployment import Deployment
from tests.support.mocked_aws import mocked_aws

DEPLOYMENT = Deployment(project=None, region="us-west-2", account="123456789012")
BUCKET = DEPLOYMENT.bucket("models")


@pytest.fixture
def session() -> Iterator[boto3.Session]:
    """AWS in this process, with an empty models bucket."""
    with mocked_aws(DEPLOYMENT.account, DEPLOYMENT.region):
        boto_session = boto3.Session(region_name=DEPLOYMENT.region)
        boto_session.client("s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": DEPLOYMENT.region}
        )
        yield boto_session
