"""Bucket → queue → function inside MiniStack: the behaviour that model events need."""

from __future__ import annotations

import io
import json
import time
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

import pytest

from comfyeks_local.emulators.local_aws import LocalAws

pytestmark = pytest.mark.local

KEYS = [
    "loras/a b.safetensors",
    "loras/a+b.safetensors",
    "loras/[x] (1).safetensors",
    "checkpoints/中文 模型.safetensors",
    "checkpoints/model..v2.safetensors",
    "checkpoints/../../evil",
]
FUNCTION = """
import boto3

def handler(event, context):
    if any(record["body"] == "poison" for record in event["Records"]):
        raise RuntimeError("cannot read this")
    boto3.client("ssm").put_parameter(
        Name=f"/seen/{context.aws_request_id}", Value=str(len(event["Records"])), Type="String"
    )
"""


@dataclass
class Events:
    """A bucket that notifies a queue, which has a dead-letter queue."""

    aws: LocalAws
    name: str
    queue: str
    queue_arn: str
    dead_letters: str

    def messages(self, url: str) -> list[dict[str, Any]]:
        sqs, found = self.aws.client("sqs"), []
        while batch := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages"):
            for message in batch:
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            found += batch
        return found

    def records(self) -> list[dict[str, Any]]:
        bodies = [json.loads(message["Body"]) for message in self.messages(self.queue)]
        return [record for body in bodies for record in body.get("Records", [])]

    def waiting(self) -> int:
        attributes = self.aws.client("sqs").get_queue_attributes(QueueUrl=self.queue, AttributeNames=["All"])
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        return sum(int(attributes["Attributes"][name]) for name in names)

    def connect(self, **mapping: Any) -> None:
        """Create a function that reads the queue and calls Systems Manager in the other emulator."""
        functions, code = self.aws.client("lambda"), io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.writestr("app.py", FUNCTION)
        functions.create_function(
            FunctionName=self.name,
            Runtime="python3.11",
            Role="arn:aws:iam::123456789012:role/any",
            Handler="app.handler",
            Code={"ZipFile": code.getvalue()},
            Timeout=1,
        )
        functions.create_event_source_mapping(EventSourceArn=self.queue_arn, FunctionName=self.name, **mapping)


@pytest.fixture
def events(local_aws: LocalAws) -> Events:
    name = f"events-{uuid.uuid4().hex[:8]}"
    s3, sqs = local_aws.client("s3"), local_aws.client("sqs")

    def arn(url: str) -> str:
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
        return str(attributes["QueueArn"])

    dead_letters = sqs.create_queue(QueueName=f"{name}-dlq")["QueueUrl"]
    redrive = json.dumps({"deadLetterTargetArn": arn(dead_letters), "maxReceiveCount": 2})
    queue = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "1", "RedrivePolicy": redrive})
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    rule = {"QueueArn": arn(queue["QueueUrl"]), "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
    s3.put_bucket_notification_configuration(Bucket=name, NotificationConfiguration={"QueueConfigurations": [rule]})
    return Events(local_aws, name, queue["QueueUrl"], rule["QueueArn"], dead_letters)


def test_odd_keys_arrive_unchanged_in_the_listing_and_form_encoded_in_the_event(events: Events) -> None:
    s3 = events.aws.client("s3")
    for key in KEYS:
        s3.put_object(Bucket=events.name, Key=key, Body=b"x")
    assert sorted(each["Key"] for each in s3.list_objects_v2(Bucket=events.name)["Contents"]) == sorted(KEYS)
    encoded = [record["s3"]["object"]["key"] for record in events.records()]
    assert sorted(unquote_plus(key) for key in encoded) == sorted(KEYS)
    assert "loras/a+b.safetensors" in encoded  # the one with a space
    assert "loras/a%2Bb.safetensors" in encoded  # the one with a plus


def test_a_delete_sends_an_event_after_the_test_event(events: Events) -> None:
    s3 = events.aws.client("s3")
    first = [json.loads(message["Body"]) for message in events.messages(events.queue)]
    assert [body.get("Event") for body in first] == ["s3:TestEvent"]
    s3.put_object(Bucket=events.name, Key=KEYS[0], Body=b"x")
    s3.delete_object(Bucket=events.name, Key=KEYS[0])
    assert [record["eventName"] for record in events.records()] == ["ObjectCreated:Put", "ObjectRemoved:Delete"]


def test_in_a_versioned_bucket_a_delete_sends_an_event_for_the_delete_marker(events: Events) -> None:
    s3 = events.aws.client("s3")
    s3.put_bucket_versioning(Bucket=events.name, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket=events.name, Key=KEYS[0], Body=b"x")
    s3.delete_object(Bucket=events.name, Key=KEYS[0])
    names = [record["eventName"] for record in events.records()]
    assert names == ["ObjectCreated:Put", "ObjectRemoved:DeleteMarkerCreated"]


def test_a_burst_of_1200_events_becomes_few_batches_quickly(events: Events) -> None:
    s3 = events.aws.client("s3")
    before = events.aws.calls().get("ssm.PutParameter", 0)
    events.connect(BatchSize=1000, MaximumBatchingWindowInSeconds=2, ScalingConfig={"MaximumConcurrency": 2})
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        put = [pool.submit(s3.put_object, Bucket=events.name, Key=f"loras/{n}.bin", Body=b"x") for n in range(1000)]
        delete = [pool.submit(s3.delete_object, Bucket=events.name, Key=f"loras/{n}.bin") for n in range(200)]
    assert all(future.result() for future in put + delete)
    written = time.monotonic() - begun
    while events.waiting() and time.monotonic() - begun < 60:
        time.sleep(0.1)
    batches = events.aws.calls()["ssm.PutParameter"] - before
    print(f"\n1,200 writes {written:.1f} s, queue empty after {time.monotonic() - begun:.1f} s, {batches} batches")
    assert events.waiting() == 0
    assert batches <= 2 + written / 2  # full batches, and one for each window that ends in that time


def test_a_batch_whose_function_raises_returns_and_ends_in_the_dead_letter_queue(events: Events) -> None:
    events.messages(events.queue)  # the test event
    events.connect(BatchSize=10)
    sqs = events.aws.client("sqs")
    sqs.send_message(QueueUrl=events.queue, MessageBody="poison")
    deadline = time.monotonic() + 30
    dead: list[dict[str, Any]] = []
    while not dead and time.monotonic() < deadline:
        dead = events.messages(events.dead_letters)
    assert [message["Body"] for message in dead] == ["poison"]
    assert events.waiting() == 0
