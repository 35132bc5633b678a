"""The operator's settings stay with the deployment: in the artifacts bucket, beside Terraform's state.

A clone without a variables file of its own gets the one of the last apply; a clone with another one, that has not seen
the stored one, is refused. Without that, an apply from a colleague's checkout takes the platform back to the defaults.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import ClientError

from comfyeks.console import note
from comfyeks.deployment import Deployment
from comfyeks.errors import Failure, UserError
from comfyeks.infra import state_bucket
from comfyeks.infra.variables import Settings, user_file

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FLAGS = "settings/flags.json"


@dataclass(frozen=True)
class Remembered:
    """What is stored of one deployment. Every method raises Failure when S3 does not answer."""

    deployment: Deployment

    def fetch(self, *, overwrite: bool) -> Settings:
        """Bring this checkout's variables files up to date; the flags that were given last.

        Raises UserError, with nothing fetched, when a file here differs from a stored one that this checkout has not
        seen, unless `overwrite` is given.
        """
        if not state_bucket.exists(self.deployment):
            return Settings()
        stored = {root: self._read(self._key(root)) for root in ("data", "platform")}
        if not overwrite:
            for root, content in stored.items():
                self._refuse_unseen(root, content)
        for root, content in stored.items():
            path = user_file(self.deployment, root)
            if content is None or path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self._see(root, content)
            note(f"{path} is the one that {self.deployment.name} was last applied with")
        return Settings.from_json(json.loads(self._read(FLAGS) or b"{}"))

    def store(self, root: str, settings: Settings) -> None:
        """Keep the variables file of a root, and with the platform's the flags. `settings`: those in force."""
        path = user_file(self.deployment, root)
        if path.exists():
            content = path.read_bytes()
            self._write(self._key(root), content)
            self._see(root, content)
        if root == "platform":
            self._write(FLAGS, (json.dumps(settings.decided(), indent=2) + "\n").encode())

    def _refuse_unseen(self, root: str, stored: bytes | None) -> None:
        path = user_file(self.deployment, root)
        if stored is None or not path.exists() or path.read_bytes() == stored or self._seen(root) == _digest(stored):
            return
        raise UserError(
            f"{path} differs from the one that {self.deployment.name} was last applied with, "
            f"s3://{self._bucket}/{self._key(root)}: remove yours to take that one, "
            "or give --overwrite-settings to apply and keep yours"
        )

    @property
    def _bucket(self) -> str:
        return self.deployment.bucket("artifacts")

    def _key(self, root: str) -> str:
        return f"settings/{user_file(self.deployment, root).name}"

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
            raise Failure(f"s3://{self._bucket}/{key} could not be read: {error}") from error

    def _write(self, key: str, content: bytes) -> None:
        if self._read(key) == content:  # every write is one more old version
            return
        try:
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=content, ExpectedBucketOwner=self.deployment.account)
        except ClientError as error:
            raise Failure(f"s3://{self._bucket}/{key} could not be written: {error}") from error

    # Per bucket: the folder of a deployment does not tell two accounts or regions apart.

    def _seen(self, root: str) -> str | None:
        return self._marks().get(f"{self._bucket}/{self._key(root)}")

    def _see(self, root: str, content: bytes) -> None:
        marks = self._marks() | {f"{self._bucket}/{self._key(root)}": _digest(content)}
        path = self.deployment.dir / "terraform" / "settings-seen.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(marks, indent=2) + "\n")

    def _marks(self) -> dict[str, Any]:
        try:
            marks: dict[str, Any] = json.loads((self.deployment.dir / "terraform" / "settings-seen.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}  # nothing seen: a difference is then refused, which is the safe side
        return marks


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
