"""A stand-in for the program terraform, and a state bucket."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from comfyeks.deployment import Deployment
from tests.support.deployment import REGION, aws, deployment


@pytest.fixture
def fake_terraform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a `terraform` on PATH that runs the given shell text; its calls are in the returned file, one per line.

    The text is what `apply` and all other verbs do. A plan succeeds, and is empty but for `changes`.
    """

    def install(script: str, changes: str = "[]") -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        calls = tmp_path / "calls"
        program = folder / "terraform"
        program.write_text(
            "#!/bin/bash\n"
            'if [ "$1" = version ]; then echo \'{"terraform_version": "1.11.4"}\'; exit; fi\n'
            f'shift; echo "$*" >> {calls}\n'
            'case "$1" in plan) exit;;\n'
            f"show) echo '{{\"resource_changes\": {changes}}}'; exit;; esac\n{script}\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return calls

    return install


@pytest.fixture
def state_bucket_there(aws: None, deployment: Deployment) -> Deployment:
    boto3.client("s3", region_name=REGION).create_bucket(
        Bucket=deployment.bucket("artifacts"), CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    return deployment
