"""AWS inside the test process: moto behind boto3, with an empty account for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from moto import mock_aws


@contextmanager
def mocked_aws(account: str, region: str | None = None) -> Iterator[None]:
    """Credentials of `account`, and `region` as the default; the caller's environment is not used."""
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith(("AWS_", "COMFYEKS_"))]:
            environment.delenv(name)
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        if region is not None:
            environment.setenv("AWS_REGION", region)
        environment.setenv("MOTO_ACCOUNT_ID", account)
        environment.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # 1,300 images for each region that a test uses
        with mock_aws():
            yield


def make_image(region: str) -> str:
    """The ID of a machine image."""
    made: str = boto3.client("ec2", region_name=region).register_image(Name="image")["ImageId"]
    return made
