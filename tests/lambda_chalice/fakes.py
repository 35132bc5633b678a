"""Stand-ins for AWS: S3's event documents, recording clients, and an SSM endpoint that can fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote_plus

SETTINGS = {
    "MODEL_EVENTS_QUEUE_ARN": "arn:aws:sqs:us-west-2:123456789012:comfyui-model-events",
    "MODEL_EVENTS_DLQ_URL": "https://sqs.us-west-2.amazonaws.com/123456789012/comfyui-model-events-dlq",
    "SYNC_DOCUMENT": "comfyui-sync-models",
    "SYNC_TAG_KEY": "ComfyUIModelSync",
    "SYNC_TAG_VALUE": "comfyui",
}


def s3_record(key: str, name: str = "ObjectCreated:Put", **object_fields: Any) -> dict[str, Any]:
    """One record of an S3 notification for a (decoded) key. As on AWS, only created objects have a size and an ETag."""
    created = {"size": 6938040682, "eTag": "d41d8cd98f00b204e9800998ecf8427e"} if "Created" in name else {}
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "us-west-2",
        "eventTime": "2026-11-20T08:30:12.345Z",
        "eventName": name,
        "userIdentity": {"principalId": "AWS:AROAEXAMPLE:operator"},
        "requestParameters": {"sourceIPAddress": "192.0.2.7"},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8/IgAtTv8xRjskZQpcIZ9KG"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "model-events",
            "bucket": {"name": "models", "ownerIdentity": {"principalId": "A3NL1"}, "arn": "arn:aws:s3:::models"},
            "object": {
                "key": quote_plus(key, safe="/"),
                **created,
                "versionId": "096fKKXTRTtl3on89fVO",
                "sequencer": "0055AED6DCD90281E5",
                **object_fields,
            },
        },
    }


def s3_document(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": list(records)})


TEST_EVENT = json.dumps(
    {
        "Service": "Amazon S3",
        "Event": "s3:TestEvent",
        "Time": "2026-11-20T08:30:00.000Z",
        "Bucket": "models",
        "RequestId": "5582815E1AEA5ADF",
        "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR",
    }
)


def sqs_records(*bodies: str) -> list[dict[str, Any]]:
    """A batch as Lambda delivers it."""
    return [
        {
            "messageId": f"00000000-0000-4000-8000-{number:012}",
            "receiptHandle": f"handle-{number}",
            "body": body,
            "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1795163412000"},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": SETTINGS["MODEL_EVENTS_QUEUE_ARN"],
            "awsRegion": "us-west-2",
        }
        for number, body in enumerate(bodies)
    ]


@dataclass
class RecordingSSM:
    commands: list[dict[str, Any]] = field(default_factory=list)

    def send_command(self, **arguments: Any) -> dict[str, Any]:
        self.commands.append(arguments)
        return {"Command": {"CommandId": f"command-{len(self.commands)}"}}


@dataclass
class RecordingSQS:
    """Takes batches of messages; those whose body is in `refuse` fail as in SQS: with status 200."""

    calls: list[list[dict[str, Any]]] = field(default_factory=list)
    refuse: set[str] = field(default_factory=set)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [entry for call in self.calls for entry in call if entry["MessageBody"] not in self.refuse]

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        assert QueueUrl == SETTINGS["MODEL_EVENTS_DLQ_URL"]
        self.calls.append(Entries)
        failed = [entry for entry in Entries if entry["MessageBody"] in self.refuse]
        return {
            "Successful": [{"Id": entry["Id"]} for entry in Entries if entry not in failed],
            "Failed": [{"Id": entry["Id"], "SenderFault": False, "Code": "InternalError"} for entry in failed],
        }


@dataclass
class SSMEndpoint:
    """An SSM service on loopback: answers the queued errors first, then accepts every command."""

    url: str = ""
    errors: list[str] = field(default_factory=list)
    commands: list[dict[str, Any]] = field(default_factory=list)
    requests: int = 0


@contextmanager
def ssm_endpoint() -> Iterator[SSMEndpoint]:
    state = SSMEndpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.headers["X-Amz-Target"] == "AmazonSSM.SendCommand"
            state.requests += 1
            if state.errors:
                return self._answer(400, {"__type": state.errors.pop(0), "message": "Rate exceeded"})
            state.commands.append(request)
            return self._answer(200, {"Command": {"CommandId": f"command-{len(state.commands)}"}})

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
