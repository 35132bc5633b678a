"""The operator's settings stay with the deployment: in the artifacts bucket, beside Terraform's state.

A clone without a settings file gets the one of the last apply; a clone with another one, that has not seen the stored
one, is refused. Without that, an apply from a colleague's checkout takes the platform back to the defaults.
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
from comfyeks.terraform.variables import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FILE, FLAGS = "settings/settings.yaml", "settings/flags.json"


@dataclass(frozen=True)
class SettingsStore:
    """What is stored of one deployment. Every method raises OperationError when S3 does not answer."""

    deployment: Deployment

    def fetch(self, *, overwrite: bool) -> Settings:
        """Bring this checkout's settings file up to date; the flags that were given last.

        Raises UserError, with nothing fetched, when the file here differs from a stored one that this checkout has not
        seen, unless `overwrite` is given.
        """
        if not state_bucket.exists(self.deployment):
            return Settings()
        stored, path = self._read(FILE), self.deployment.settings_file
        if not overwrite:
            self._refuse_unseen(stored, path)
        if stored is not None and not path.exists():
            write_atomically(path, stored.decode())
            self._see(stored)
            note(f"{path} is the one that {self.deployment.name} was last applied with")
        return Settings.from_json(json.loads(self._read(FLAGS) or b"{}"))

    def store(self, settings: Settings) -> None:
        """Keep the settings file and the flags. `settings`: those in force."""
        path = self.deployment.settings_file
        if path.exists():
            content = path.read_bytes()
            self._write(FILE, content)
            self._see(content)
        self._write(FLAGS, (json.dumps(settings.decided(), indent=2) + "\n").encode())

    def _refuse_unseen(self, stored: bytes | None, path: Path) -> None:
        if stored is None or not path.exists() or path.read_bytes() == stored or self._seen() == _digest(stored):
            return
        raise UserError(
            f"{path} differs from the one that {self.deployment.name} was last applied with, "
            f"s3://{self._bucket}/{FILE}: remove yours to take that one, "
            "or give --overwrite-settings to apply and keep yours"
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
        if self._read(key) == content:  # every write is one more old version
            return
        try:
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=content, ExpectedBucketOwner=self.deployment.account)
        except ClientError as error:
            raise OperationError(f"s3://{self._bucket}/{key} could not be written: {error}") from error

    # Per bucket: the folder of a deployment does not tell two accounts or regions apart.

    def _seen(self) -> str | None:
        return self._marks().get(self._bucket)

    def _see(self, content: bytes) -> None:
        marks = self._marks() | {self._bucket: _digest(content)}
        write_atomically(self._marks_file, json.dumps(marks, indent=2) + "\n")

    @property
    def _marks_file(self) -> Path:
        return self.deployment.dir / "terraform" / "settings-seen.json"

    def _marks(self) -> dict[str, Any]:
        try:
            marks: dict[str, Any] = json.loads(self._marks_file.read_text())
        except (FileNotFoundError, ValueError):
            return {}  # nothing seen: a difference is then refused, which is the safe side
        return marks


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
