import json
import math
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from chalicelib import aws
from chalicelib.dead_letters import BYTES_PER_CALL, LINES_PER_BATCH, DeadLettersError
from chalicelib.handler import handle
from chalicelib.settings import Settings
from tests.lambda_chalice.fakes import (
    SETTINGS,
    TEST_EVENT,
    RecordingSQS,
    RecordingSSM,
    s3_document,
    s3_record,
    sqs_records,
    ssm_endpoint,
)

BATCH = 1000


def run(*bodies: str, ssm: Any = None, sqs: Any = None) -> tuple[Any, Any]:
    ssm, sqs = ssm or RecordingSSM(), sqs or RecordingSQS()
    handle(sqs_records(*bodies), settings=Settings.from_environment(SETTINGS), ssm=ssm, sqs=sqs, request_id="request-1")
    return ssm, sqs


def upload(key: str) -> str:
    return s3_document(s3_record(key))


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_batch_becomes_one_command_with_a_tag_target_and_no_key_in_it() -> None:
    ssm, _ = run(upload("loras/$(reboot).safetensors"), s3_document(s3_record("vae/b", "ObjectRemoved:Delete")))
    assert ssm.commands == [
        {
            "DocumentName": "comfyui-sync-models",
            "Targets": [{"Key": "tag:ComfyUIModelSync", "Values": ["comfyui"]}],
            "Parameters": {"action": ["sync"]},
            "MaxConcurrency": "100%",
            "MaxErrors": "100%",
            "TimeoutSeconds": 600,
        }
    ]


@pytest.mark.parametrize("events", [10, 999, 1000, 1001, 2500, 10_000])
def test_commands_never_exceed_events_divided_by_the_batch_size(events: int) -> None:
    bodies = [upload(f"loras/{number}.safetensors") for number in range(events)]
    ssm, sqs = RecordingSSM(), RecordingSQS()
    for start in range(0, events, BATCH):
        run(*bodies[start : start + BATCH], ssm=ssm, sqs=sqs)
    assert 1 <= len(ssm.commands) <= math.ceil(events / BATCH)
    assert not sqs.calls


@given(st.lists(st.sampled_from(["model", "marker", "test", "poison", "root"]), min_size=1, max_size=30))
def test_a_command_is_sent_exactly_when_some_message_is_about_a_model(kinds: list[str]) -> None:
    bodies = {
        "model": upload("loras/a"),
        "marker": upload("loras/"),
        "test": TEST_EVENT,
        "poison": "?",
        "root": upload("access.log"),
    }
    ssm, sqs = run(*[bodies[kind] for kind in kinds])
    assert len(ssm.commands) == ("model" in kinds)
    assert len(sqs.messages) == kinds.count("poison")


def test_ssm_is_not_even_called_when_nothing_is_about_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    ssm, sqs = run(TEST_EVENT, upload("checkpoints/"), upload("log.txt"), upload("../etc/passwd"))
    assert not ssm.commands
    assert not sqs.calls
    [line] = lines(capsys)
    assert line["event"] == "nothing_to_sync"
    assert line["ignored"] == {
        "test event": 1,
        "folder marker": 1,
        "no folder": 1,
        "hidden or relative segment": 1,
    }


def test_a_failing_ssm_returns_the_whole_batch_and_moves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    sqs = RecordingSQS()
    with ssm_endpoint() as endpoint:
        endpoint.errors = ["AccessDeniedException"]
        with pytest.raises(ClientError, match="AccessDenied"):
            run(upload("loras/a"), "poison", ssm=_client(endpoint.url), sqs=sqs)
    assert not sqs.calls
    [line] = lines(capsys)
    assert (line["level"], line["event"]) == ("ERROR", "sync_failed")


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries as configured, without waiting between them."""
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    monkeypatch.setattr("botocore.retries.bucket.TokenBucket.acquire", lambda self, amount=1, block=True: True)


@pytest.mark.usefixtures("no_pauses")
def test_throttling_is_retried_until_ssm_accepts_the_command() -> None:
    with ssm_endpoint() as endpoint:
        endpoint.errors = ["ThrottlingException"] * 5
        run(upload("loras/a"), ssm=_client(endpoint.url))
        assert endpoint.requests == 6
        assert len(endpoint.commands) == 1


@pytest.mark.usefixtures("no_pauses")
def test_throttling_without_end_raises() -> None:
    with ssm_endpoint() as endpoint:
        endpoint.errors = ["ThrottlingException"] * 100
        with pytest.raises(ClientError, match="Throttling"):
            run(upload("loras/a"), ssm=_client(endpoint.url))
        assert endpoint.requests == 6


def test_retries_are_adaptive() -> None:
    assert aws.CONFIG.retries["mode"] == "adaptive"


def test_a_poison_message_moves_to_the_dead_letters_with_its_reason_and_the_batch_succeeds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ssm, sqs = run(upload("loras/a"), "<xml/>")
    assert len(ssm.commands) == 1
    [letter] = sqs.messages
    assert letter["MessageBody"] == "<xml/>"
    attributes = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
    assert attributes["Reason"].startswith("not JSON")
    assert attributes["SourceMessageId"].endswith("1")
    assert attributes["SourceQueueArn"] == SETTINGS["MODEL_EVENTS_QUEUE_ARN"]
    requested, moved = lines(capsys)
    assert (requested["event"], requested["unreadable"]) == ("sync_requested", 1)
    assert (moved["event"], moved["message_id"]) == ("moved_to_dead_letters", attributes["SourceMessageId"])
    assert moved["reason"] == attributes["Reason"]


def test_dead_letters_that_sqs_refuses_return_the_batch(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeadLettersError, match="InternalError"):
        run("one", "two", sqs=RecordingSQS(refuse={"two"}))
    assert [line["event"] for line in lines(capsys)] == [
        "nothing_to_sync",
        "moved_to_dead_letters",
        "dead_letters_failed",
    ]


def test_dead_letters_are_sent_ten_per_call_and_never_above_the_size_limit() -> None:
    _, sqs = run(*["?"] * 25)
    assert [len(call) for call in sqs.calls] == [10, 10, 5]
    _, sqs = run(*["x" * (BYTES_PER_CALL // 3)] * 7)
    assert [len(call) for call in sqs.calls] == [3, 3, 1]
    _, sqs = run("x" * (2 * BYTES_PER_CALL), "y")
    assert [len(call) for call in sqs.calls] == [1, 1]


@pytest.mark.parametrize("body", [upload("loras/a"), upload("access.log"), "poison"])
def test_a_full_batch_leaves_few_and_short_lines(body: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(*[body] * BATCH)
    logged = capsys.readouterr().out.splitlines()
    assert len(logged) <= 1 + LINES_PER_BATCH
    assert max(map(len, logged)) < 20_000


@pytest.mark.parametrize("text", ["\x1b[31m中", "🦊"], ids=["ignored", "models"])
def test_the_longest_keys_and_control_characters_stay_inside_a_log_line(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*[upload("loras/" + text * 250)] * BATCH)
    [line] = capsys.readouterr().out.splitlines()
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 256 * 1024  # CloudWatch's limit


def _client(url: str) -> Any:
    return boto3.client(
        "ssm",
        config=aws.CONFIG,
        endpoint_url=url,
        region_name="us-west-2",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
