"""The deployment `comfyui` of an empty account inside the test's process, for folders of tests that need one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from comfyeks.deployment import Deployment
from tests.support.mocked_aws import mocked_aws

ACCOUNT = "111122223333"
REGION = "us-west-2"


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """The deployment `comfyui`, with its generated files below the test's own folder."""
    monkeypatch.setattr("comfyeks.deployment.STATE", tmp_path)
    return Deployment(project=None, region=REGION, account=ACCOUNT)


@pytest.fixture
def aws() -> Iterator[None]:
    """The empty account ACCOUNT inside this process."""
    with mocked_aws(ACCOUNT):
        yield
