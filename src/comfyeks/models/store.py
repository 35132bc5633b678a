"""The models in S3: list, upload without accidental overwriting, delete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from comfyeks import deployment
from comfyeks.errors import OperationError, UserError
from comfyeks.models import layout
from comfyeks.models.multipart import MultipartUpload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PART_BYTES = 32 * 2**20
TRANSFER = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=8)
_DELETE_BATCH = 1000
ARCHIVED = ("GLACIER", "DEEP_ARCHIVE")  # storage classes that cannot be read, so the nodes skip them


@dataclass(frozen=True)
class Model:
    key: str
    size: int
    modified: datetime
    # Why the nodes skip it, as a clause, or None.
    ignored: str | None = None


class ModelStore:
    """One models bucket.

    `upload` creates its own S3 client, because "do not overwrite" can only be set on a client.
    """

    def __init__(self, session: boto3.Session, bucket: str) -> None:
        self._session = session
        self.bucket = bucket
        self._s3: S3Client = session.client("s3")

    def models(self) -> list[Model]:
        """Every object, sorted by key, with the reason if the nodes skip it.

        Raises OperationError when the bucket cannot be listed.
        """
        with self.errors("list"):
            found = [
                Model(item["Key"], item["Size"], item["LastModified"], _ignored(item["Key"], item.get("StorageClass")))
                for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
                for item in page.get("Contents", [])
            ]
        conflicting = layout.conflicts(model.key for model in found if model.ignored is None)
        return [
            Model(model.key, model.size, model.modified, "needs a folder where another model is a file")
            if model.key in conflicting
            else model
            for model in found
        ]

    def size(self, key: str) -> int | None:
        """Bytes of an object, or None when there is none."""
        with self.errors("read"):
            try:
                return self._s3.head_object(Bucket=self.bucket, Key=key)["ContentLength"]
            except ClientError as error:
                if _status(error) == 404 and error.response["Error"]["Code"] != "NoSuchBucket":
                    return None
                raise

    def multipart(self, key: str, size: int, metadata: dict[str, str]) -> MultipartUpload:
        """Resume an interrupted multipart upload of `size` bytes to `key`, or begin one."""
        return MultipartUpload(self._s3, self.bucket, key, size, metadata)

    def upload(self, path: Path, key: str, *, force: bool, on_bytes: Callable[[int], object]) -> None:
        """Copy a file into the bucket, in parallel parts when it is large.

        Without `force`, S3 itself rejects the upload when the key exists by the time it completes, and the parts are
        discarded. `on_bytes` is called with numbers of sent bytes, from several threads.

        Raises OperationError, also for a key that exists.
        """
        client: S3Client = self._session.client("s3")
        if not force:
            for operation in ("PutObject", "CompleteMultipartUpload"):
                client.meta.events.register(f"provide-client-params.s3.{operation}", _if_none_match)
        with self.errors(f"write {key} to"):
            try:
                client.upload_file(str(path), self.bucket, key, Callback=on_bytes, Config=TRANSFER)
            except S3UploadFailedError as error:
                cause = error.__cause__ or error.__context__
                if isinstance(cause, ClientError) and _status(cause) in (409, 412):
                    raise OperationError(f"{key} exists in {self.bucket} already; --force replaces it") from error
                raise OperationError(str(error)) from error

    def delete(self, keys: list[str]) -> None:
        """Delete objects. Raises OperationError naming those that S3 did not delete."""
        kept = []
        with self.errors("delete from"):
            for start in range(0, len(keys), _DELETE_BATCH):
                batch = keys[start : start + _DELETE_BATCH]
                answer = self._s3.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
                )
                kept += [f"{item.get('Key')} ({item.get('Message')})" for item in answer.get("Errors", [])]
        if kept:
            raise OperationError(f"not deleted: {', '.join(kept)}")

    @contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn AWS errors into OperationError (`cannot <doing> <bucket>`), or UserError for a missing bucket."""
        try:
            yield
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "NoSuchBucket":
                raise UserError(
                    f"there is no bucket {self.bucket}: check --project and --region, or run `comfyeks infra apply`"
                ) from error
            raise OperationError(
                f"cannot {doing} {self.bucket}: {code}: {error.response['Error'].get('Message', '')}"
            ) from error
        except BotoCoreError as error:
            raise OperationError(f"cannot {doing} {self.bucket}: {error}") from error


def open_store(bucket: str | None, project: str | None, region: str | None) -> ModelStore:
    """The store in the given bucket, else in the deployment's models bucket."""
    if bucket is not None:
        return ModelStore(boto3.Session(region_name=region), bucket)
    target = deployment.current(project, region)
    return ModelStore(boto3.Session(region_name=target.region), target.bucket("models"))


def target_key(path: Path, folder: str, name: str | None) -> str:
    """The key for a local file. Raises UserError when the nodes would skip it."""
    key = f"{folder.strip('/')}/{name or path.name}"
    if (problem := layout.problem(key)) is not None:
        raise UserError(f"{path}: {key!r} {problem}")
    return key


def _ignored(key: str, storage_class: str | None) -> str | None:
    """Why the nodes skip an object, whatever other objects there are, or None."""
    if storage_class in ARCHIVED:
        return layout.problem(key) or f"is archived ({storage_class}); copy it to another storage class"
    return layout.problem(key)


def _if_none_match(params: dict[str, Any], **_: Any) -> None:
    params["IfNoneMatch"] = "*"


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
