"""A multipart upload that another process can go on with: all that it needs to know is in S3.

Parts of an earlier attempt are used when they have the MD5 that S3 tells of them, so whatever a source sends now
decides what is stored.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from comfyeks.errors import OperationError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIN_PART = 8 << 20  # S3 takes no less than 5 MiB
_MAX_PARTS = 10_000


def part_size(size: int) -> int:
    """Bytes of a part for a file of `size` bytes: the same one each time, or an upload could not be gone on with."""
    return max(MIN_PART, -(-size // _MAX_PARTS))


class MultipartUpload:
    """The one upload of `key`: that of an earlier attempt when there is one, else a new one.

    botocore's ClientError goes through, except from `complete`.
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
        """[start, stop) of each part."""
        starts = range(0, self.size, self.part_bytes)
        return [(start, min(start + self.part_bytes, self.size)) for start in starts]

    def put(self, number: int, data: memoryview) -> None:
        """Part `number` (from 1); sent unless S3 has it already. For several threads."""
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest() if number in self._before else ""
        if digest and digest == self._before[number]:
            self._etags[number] = f'"{digest}"'
            return
        answer = self._s3.upload_part(
            Bucket=self.bucket,
            Key=self.key,
            UploadId=self._id,
            PartNumber=number,
            # A whole buffer goes as it is; botocore takes no part of one.
            Body=data.obj if len(data) == self.part_bytes else bytes(data),  # type: ignore[arg-type]
        )
        self._etags[number] = answer["ETag"]

    def complete(self, *, force: bool) -> None:
        """Make the object appear, whole.

        Without `force`, not over one that is there by now: OperationError, parts dropped.
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
        """The newest unfinished upload of this key whose parts are cut like ours."""
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
