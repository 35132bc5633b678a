"""A multipart upload that another process can resume: everything it needs to know is in S3.

A part of an earlier attempt is reused when its MD5 in S3 is that of the data which the source sends now.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from comfyeks.errors import OperationError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIN_PART = 8 << 20  # S3 requires at least 5 MiB
_MAX_PARTS = 10_000


def part_size(size: int) -> int:
    """Bytes of a part for a file of `size` bytes. It depends on nothing else, so that an upload can be resumed."""
    return max(MIN_PART, -(-size // _MAX_PARTS))


class MultipartUpload:
    """An upload of `key`: that of an earlier attempt if there is one, else a new one.

    Its methods raise botocore's ClientError; see `complete` for the exception.
    """

    def __init__(self, s3: S3Client, bucket: str, key: str, size: int, metadata: dict[str, str]) -> None:
        self._s3 = s3
        self.bucket = bucket
        self.key = key
        self.size = size
        self.part_bytes = part_size(size)
        self._etags: dict[int, str] = {}
        self._before: dict[int, str] = {}
        self._id = self._earlier() or s3.create_multipart_upload(Bucket=bucket, Key=key, Metadata=metadata)["UploadId"]

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The byte range [start, stop) of each part."""
        starts = range(0, self.size, self.part_bytes)
        return [(start, min(start + self.part_bytes, self.size)) for start in starts]

    def put(self, number: int, data: memoryview) -> None:
        """Upload part `number` (from 1) unless S3 has it already. May be called from several threads."""
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest() if number in self._before else ""
        if digest and digest == self._before[number]:
            self._etags[number] = f'"{digest}"'
            return
        answer = self._s3.upload_part(
            Bucket=self.bucket,
            Key=self.key,
            UploadId=self._id,
            PartNumber=number,
            # botocore does not accept a memoryview: pass a full buffer as it is, copy a part of one.
            Body=data.obj if len(data) == self.part_bytes else bytes(data),  # type: ignore[arg-type]
        )
        self._etags[number] = answer["ETag"]

    def complete(self, *, force: bool) -> None:
        """Complete the upload, so that the object appears.

        Without `force`, an object that exists by now is kept: drops the parts and raises OperationError.
        """
        parts = [{"PartNumber": number, "ETag": self._etags[number]} for number in sorted(self._etags)]
        try:
            self._s3.complete_multipart_upload(
                Bucket=self.bucket,
                Key=self.key,
                UploadId=self._id,
                MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]
                **({} if force else {"IfNoneMatch": "*"}),  # type: ignore[arg-type]
            )
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
                self.abort()
                raise OperationError(f"{self.key} exists in {self.bucket} already; --force replaces it") from error
            raise

    def abort(self) -> None:
        self._s3.abort_multipart_upload(Bucket=self.bucket, Key=self.key, UploadId=self._id)

    def _earlier(self) -> str | None:
        """The id of the newest unfinished upload of this key with parts of our size, or None; remembers its parts."""
        pages = self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self.key)
        uploads = [upload for page in pages for upload in page.get("Uploads", []) if upload["Key"] == self.key]
        for upload in sorted(uploads, key=lambda upload: upload["Initiated"], reverse=True):
            found = self._s3.get_paginator("list_parts").paginate(
                Bucket=self.bucket, Key=self.key, UploadId=upload["UploadId"]
            )
            parts = {part["PartNumber"]: part for page in found for part in page.get("Parts", [])}
            sizes = {number: stop - start for number, (start, stop) in enumerate(self.ranges, 1)}
            if all(sizes.get(number) == part["Size"] for number, part in parts.items()):
                self._before = {number: part["ETag"].strip('"') for number, part in parts.items()}
                return upload["UploadId"]
        return None
