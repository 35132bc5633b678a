"""Uploads and deletes reach every node: through S3's notification, the queue, the Lambda, SSM and the node program."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator

import pytest

from comfyeks_local.node.local_node import LocalNode
from comfyeks_local.processes import wait_until
from tests.e2e.conftest import Platform, names_on

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("platform")]

ODD_KEYS = [
    "checkpoints/with space.safetensors",
    "loras/plus+plus.safetensors",
    "loras/[brackets](round){curly}.safetensors",
    "checkpoints/模型/中文.safetensors",
    "checkpoints/model..v2",
]


@pytest.fixture
def no_faults(platform: Platform) -> Iterator[None]:
    """Remove injected faults after each test."""
    yield
    platform.aws.clear_faults()


@pytest.fixture
def quick_redelivery(platform: Platform) -> Iterator[None]:
    """A failed batch comes back after five seconds; as deployed it is minutes, longer than a test should take."""
    sqs = platform.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{platform.deployment.name}-model-events")["QueueUrl"]
    before = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "5"})
    yield
    sqs.set_queue_attributes(QueueUrl=url, Attributes=before)


def test_odd_keys_arrive_byte_for_byte_and_one_outside_the_folder_is_reported(
    platform: Platform, three_nodes: list[LocalNode]
) -> None:
    wanted = {key: os.urandom(1000 + number) for number, key in enumerate(ODD_KEYS)}
    platform.put({**wanted, "checkpoints/../../outside.safetensors": b"must not leave the models folder"})
    platform.converge(wanted)
    for node in three_nodes:
        wait_until("the report", lambda node=node: bool(node.status()["skipped_count"]), 20)
        [skipped] = node.status()["skipped"]
        assert skipped["key"] == "checkpoints/../../outside.safetensors"
        assert skipped["reason"]
        assert not list(node.models.resolve().parent.parent.rglob("outside.safetensors"))


def test_an_overwrite_of_the_same_size_arrives(platform: Platform, three_nodes: list[LocalNode]) -> None:
    platform.put({"vae/same.safetensors": b"a" * 4096})
    platform.converge({"vae/same.safetensors": b"a" * 4096})
    platform.put({"vae/same.safetensors": b"b" * 4096})
    platform.converge({"vae/same.safetensors": b"b" * 4096})


def test_a_burst_of_1000_uploads_and_200_deletes_converges_on_three_nodes(
    platform: Platform, three_nodes: list[LocalNode], measured: Callable[[str], None]
) -> None:
    uploads = {f"loras/burst/{number:04}.safetensors": os.urandom(2048) for number in range(1000)}
    doomed = sorted(uploads)[::5]
    before = platform.aws.calls()
    began = time.monotonic()
    platform.put(uploads)
    platform.delete(doomed)
    last = time.monotonic()
    wanted = {key: body for key, body in uploads.items() if key not in set(doomed)}
    platform.converge(wanted, seconds=180)
    converged = time.monotonic()
    commands = platform.aws.calls()["ssm.SendCommand"] - before.get("ssm.SendCommand", 0)
    measured(
        f"1,200 events in {last - began:.1f} s; all three nodes equal the bucket {converged - last:.1f} s after the "
        f"last; {commands} SSM commands"
    )
    # Windows of five seconds, two batches at a time: one command for each event would be 1,200.
    assert commands <= 10
    assert len(wanted) == 800
    assert platform.bucket_content() == wanted


def test_throttled_ssm_delays_and_loses_nothing(
    platform: Platform, three_nodes: list[LocalNode], no_faults: None, quick_redelivery: None
) -> None:
    platform.aws.inject(
        {"service": "ssm", "operation": "SendCommand", "error": "ThrottlingException", "status": 400, "times": 4}
    )
    platform.put({"checkpoints/throttled.safetensors": b"t" * 100})
    platform.converge({"checkpoints/throttled.safetensors": b"t" * 100}, seconds=90)


def test_a_lambda_that_raises_gets_its_batch_again(
    platform: Platform, three_nodes: list[LocalNode], no_faults: None, quick_redelivery: None
) -> None:
    platform.aws.inject(
        {"service": "ssm", "operation": "SendCommand", "error": "AccessDeniedException", "status": 400, "times": 2}
    )
    platform.put({"checkpoints/denied.safetensors": b"d" * 100})
    platform.converge({"checkpoints/denied.safetensors": b"d" * 100}, seconds=90)


def test_a_node_that_was_down_converges_when_it_is_back(platform: Platform, three_nodes: list[LocalNode]) -> None:
    platform.put({"checkpoints/before.safetensors": b"old"})
    platform.converge({"checkpoints/before.safetensors": b"old"})
    [down, *others] = three_nodes
    down.kill()
    platform.put({"checkpoints/during.safetensors": b"new"})
    platform.delete(["checkpoints/before.safetensors"])
    platform.converge({"checkpoints/during.safetensors": b"new"}, others)
    assert names_on(down) == {"checkpoints/before.safetensors"}
    down.start()
    platform.converge({"checkpoints/during.safetensors": b"new"})


def test_an_unreadable_message_is_in_the_dead_letter_queue_with_its_reason_and_in_the_log(
    platform: Platform, three_nodes: list[LocalNode]
) -> None:
    sqs = platform.client("sqs")
    name = f"{platform.deployment.name}-model-events"
    poison = "{this is not JSON"
    sent = sqs.send_message(QueueUrl=sqs.get_queue_url(QueueName=name)["QueueUrl"], MessageBody=poison)
    platform.put({"checkpoints/beside.safetensors": b"x"})
    platform.converge({"checkpoints/beside.safetensors": b"x"})
    letters = sqs.get_queue_url(QueueName=f"{name}-dlq")["QueueUrl"]
    found: list[dict[str, object]] = []

    def arrived() -> bool:
        answer = sqs.receive_message(QueueUrl=letters, MessageAttributeNames=["All"], WaitTimeSeconds=1)
        found.extend(answer.get("Messages", []))
        return bool(found)

    wait_until("the dead letter", arrived, 30)
    [letter] = found
    assert letter["Body"] == poison
    attributes = letter["MessageAttributes"]
    assert isinstance(attributes, dict)
    assert any("JSON" in attribute["StringValue"] for attribute in attributes.values()), attributes

    logs = platform.client("logs")
    group = f"/aws/lambda/comfyui-models-{platform.deployment.stage}-sync"

    def named() -> bool:
        # The emulator writes a line that came late with those of the next invocation.
        platform.put({"checkpoints/beside.safetensors": b"x"})
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group)
        return any(sent["MessageId"] in event["message"] for page in pages for event in page["events"])

    wait_until("a log line that names the message", named, 60, every=2)


def test_status_shows_every_node(platform: Platform, three_nodes: list[LocalNode]) -> None:
    platform.put({"checkpoints/seen.safetensors": b"1234"})
    platform.converge({"checkpoints/seen.safetensors": b"1234"})
    answer = json.loads(platform.clone.comfyeks("models", "status", "--json").stdout)
    assert {node["node"] for node in answer} == {node.instance_id for node in three_nodes}
    assert all(node["converged"] and node["files"] == 1 for node in answer)
