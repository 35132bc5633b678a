"""MiniStack's S3."""

from __future__ import annotations

from typing import Any

from comfyeks_local.emulators.bridges import bridge


@bridge(
    "s3-delete-event-fields",
    "ministack",
    aws="An ObjectRemoved:Delete event has neither size nor eTag.",
    gap="Sends size 0 and an empty eTag, which hides bugs in code that reads them.",
    needed_by="tests of the model-sync Lambda function",
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
