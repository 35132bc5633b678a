"""MiniStack's S3."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from comfyeks.local.bridges import bridge

Answer = tuple[int, dict[str, str], bytes]  # status, headers, XML body


@bridge(
    "s3-delete-event-fields",
    "ministack",
    aws="An ObjectRemoved:Delete event has neither size nor eTag.",
    gap="Sends size 0 and an empty eTag, which hides code that reads them.",
    needed_by="an honest test of the model-sync Lambda",
)
def s3_delete_event_fields() -> None:
    from ministack.services import s3

    deliver = s3._deliver_event_to_sqs

    def deliver_event_to_sqs(arn: str, payload: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        [record] = payload.get("Records", [{}])  # a test event has none
        if record.get("eventName") == "ObjectRemoved:Delete":
            item = {key: value for key, value in record["s3"]["object"].items() if key not in ("size", "eTag")}
            payload = {**payload, "Records": [{**record, "s3": {**record["s3"], "object": item}}]}
        deliver(arn, payload, *args, **kwargs)

    s3._deliver_event_to_sqs = deliver_event_to_sqs


@bridge(
    "s3-multipart-tags",
    "ministack",
    aws="An object uploaded in parts gets the tags that CreateMultipartUpload was given.",
    gap="Drops them, so Terraform plans to tag a large object again.",
    needed_by="a second `make infra` without changes (s5cmd is uploaded in parts)",
)
def s3_multipart_tags() -> None:
    from ministack.services import s3

    create, complete = s3._create_multipart_upload, s3._complete_multipart_upload

    def create_multipart_upload(bucket_name: str, key: str, headers: dict[str, str]) -> Answer:
        answer: Answer = create(bucket_name, key, headers)
        if answer[0] == 200 and (found := re.search(rb"<UploadId>([^<]+)</UploadId>", answer[2])):
            tags = dict(parse_qsl(headers.get("x-amz-tagging", ""), keep_blank_values=True))
            s3._multipart_uploads[found.group(1).decode()]["tags"] = tags
        return answer

    def complete_multipart_upload(
        bucket_name: str, key: str, body: bytes, query_params: dict[str, Any], headers: dict[str, str] | None = None
    ) -> Answer:
        upload = s3._multipart_uploads.get(s3._qp(query_params, "uploadId"), {})
        answer: Answer = complete(bucket_name, key, body, query_params, headers)
        if answer[0] == 200 and upload.get("tags"):
            made = s3._ensure_bucket(bucket_name)["objects"][key]
            s3._object_tags[(bucket_name, key, made.get("version_id"))] = upload["tags"]
        return answer

    s3._create_multipart_upload, s3._complete_multipart_upload = create_multipart_upload, complete_multipart_upload
