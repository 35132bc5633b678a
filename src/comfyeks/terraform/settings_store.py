"""Stores the operator's settings with the deployment: in the artifacts bucket, beside Terraform's state.

A checkout without a settings file gets the one of the last apply. A checkout with a different file, which has not seen
the stored one, is rejected. Otherwise an apply from a colleague's checkout would reset the platform to the defaults.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import ClientError

from comfyeks.console import note
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError, UserError
from comfyeks.files import write_atomically
from comfyeks.terraform import state_bucket
from comfyeks.terraform.variables import AccessFlags

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FILE, FLAGS = "settings/settings.yaml", "settings/flags.json"


@dataclass(frozen=True)
class SettingsStore:
    """The stored settings of one deployment. Every method raises OperationError when S3 fails."""

    deployment: Deployment

    def fetch(self, *, overwrite: bool) -> AccessFlags:
        """Write the stored settings file if this checkout has none; return the access flags of the last apply.

        Raises UserError, with nothing written, when the file here differs from a stored one that this checkout has not
        seen, unless `overwrite` is given.
        """
        if not state_bucket.exists(self.deployment):
            return AccessFlags()
        stored, path = self._read(FILE), self.deployment.settings_file
        if not overwrite:
            self._check_seen(stored, path)
        if stored is not None and not path.exists():
            write_atomically(path, stored.decode())
            self._mark_seen(stored)
            note(f"fetched {path}, with which {self.deployment.name} was last applied")
        return AccessFlags.from_json(json.loads(self._read(FLAGS) or b"{}"))

    def store(self, flags: AccessFlags) -> None:
        """Store this checkout's settings file, if there is one, and the flags in force."""
        path = self.deployment.settings_file
        if path.exists():
            content = path.read_bytes()
            self._write(FILE, content)
            self._mark_seen(content)
        self._write(FLAGS, (json.dumps(flags.decided(), indent=2) + "\n").encode())

    def _check_seen(self, stored: bytes | None, path: Path) -> None:
        if stored is None or not path.exists() or path.read_bytes() == stored or self._seen() == _digest(stored):
            return
        raise UserError(
            f"{path} differs from the settings that {self.deployment.name} was last applied with, "
            f"s3://{self._bucket}/{FILE}: remove yours to use those, or pass --overwrite-settings to apply yours"
        )

    @property
    def _bucket(self) -> str:
        return self.deployment.bucket("artifacts")

    @property
    def _s3(self) -> S3Client:
        return boto3.client("s3", region_name=self.deployment.region)

    def _read(self, key: str) -> bytes | None:
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=key, ExpectedBucketOwner=self.deployment.account)
            return answer["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise OperationError(f"s3://{self._bucket}/{key} could not be read: {error}") from error

    def _write(self, key: str, content: bytes) -> None:
        if self._read(key) == content:  # every write would add an old version
            return
        try:
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=content, ExpectedBucketOwner=self.deployment.account)
        except ClientError as error:
            raise OperationError(f"s3://{self._bucket}/{key} could not be written: {error}") from error

    # By bucket, because deployments of the same name in two accounts or regions share this folder.

    def _seen(self) -> str | None:
        return self._marks().get(self._bucket)

    def _mark_seen(self, content: bytes) -> None:
        marks = self._marks() | {self._bucket: _digest(content)}
        write_atomically(self._marks_file, json.dumps(marks, indent=2) + "\n")

    @property
    def _marks_file(self) -> Path:
        return self.deployment.dir / "terraform" / "settings-seen.json"

    def _marks(self) -> dict[str, Any]:
        try:
            marks: dict[str, Any] = json.loads(self._marks_file.read_text())
        except (FileNotFoundError, ValueError):
            return {}  # nothing seen: a difference is rejected, which is the safe side
        return marks


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
