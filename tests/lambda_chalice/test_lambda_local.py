"""`chalice deploy`, redeploy and delete from two clones, and events through the real chain, on the local AWS."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chalicelib.handler import KEYS_IN_LOG
from comfyeks import model_events
from comfyeks.deployment import Deployment
from comfyeks.paths import REPO_ROOT
from comfyeks_local.emulators.local_aws import ACCOUNT, REGION, UNSET, LocalAws
from tests.support.model_keys import MODEL_KEYS

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("lambda_local")]

NUMBERS = itertools.count(1)  # each test has its own deployment
VISIBILITY_SECONDS = 4  # the product's are minutes; a returned batch should come back while the test watches


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    with LocalAws(tmp_path_factory.mktemp("aws")) as local:
        yield local


@dataclass
class Platform:
    """What Terraform makes around the function, and the events' way to it."""

    aws: LocalAws
    deployment: Deployment
    chalice_output: dict[str, Any]

    @property
    def function(self) -> str:
        return self.deployment.sync_function

    @property
    def dead_letters(self) -> str:
        return str(self.chalice_output["environment_variables"]["MODEL_EVENTS_DLQ_URL"])

    def deployed(self) -> tuple[list[str], list[str]]:
        """(functions, queue mappings) of this deployment."""
        client = self.aws.client("lambda")
        functions = [item["FunctionName"] for item in client.list_functions()["Functions"]]
        mappings = client.list_event_source_mappings(EventSourceArn=self.chalice_output["queue_arn"])
        return (
            [name for name in functions if name == self.function],
            [mapping["UUID"] for mapping in mappings["EventSourceMappings"]],
        )

    def commands(self) -> int:
        listing = self.aws.client("ssm").list_commands()["Commands"]
        return sum(command["DocumentName"] == self.deployment.sync_document for command in listing)


@pytest.fixture
def platform(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Platform:
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    for name, value in aws.env().items():
        monkeypatch.setenv(name, value)
    deployment = Deployment(project=f"t{next(NUMBERS)}", region=REGION, account=ACCOUNT)
    name, (tag_key, tag_value) = deployment.name, deployment.sync_tag

    sqs = aws.client("sqs")
    dead_letters = sqs.create_queue(QueueName=f"{name}-model-events-dlq")["QueueUrl"]
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}-model-events"
    redrive = {"deadLetterTargetArn": f"{arn}-dlq", "maxReceiveCount": 5}
    sqs.create_queue(
        QueueName=f"{name}-model-events",
        Attributes={"VisibilityTimeout": str(VISIBILITY_SECONDS), "RedrivePolicy": json.dumps(redrive)},
    )
    s3 = aws.client("s3")
    bucket = deployment.bucket("models")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}]
        },
    )
    aws.client("ssm").create_document(
        Name=deployment.sync_document,
        DocumentType="Command",
        Content=json.dumps(
            {
                "schemaVersion": "2.2",
                "description": "stands in for Terraform's",
                "parameters": {"action": {"type": "String", "allowedValues": ["sync", "status"]}},
                "mainSteps": [
                    {"action": "aws:runShellScript", "name": "sync", "inputs": {"runCommand": ["exit 0"]}},
                ],
            }
        ),
    )
    aws.client("logs").create_log_group(logGroupName=f"/aws/lambda/{deployment.sync_function}")
    chalice_output = {
        "stage": deployment.stage,
        "iam_role_arn": f"arn:aws:iam::{ACCOUNT}:role/{name}-model-events",
        "queue_arn": arn,
        "environment_variables": {
            "MODEL_EVENTS_QUEUE_ARN": arn,
            "MODEL_EVENTS_DLQ_URL": dead_letters,
            "SYNC_DOCUMENT": deployment.sync_document,
            "SYNC_TAG_KEY": tag_key,
            "SYNC_TAG_VALUE": tag_value,
        },
        "tags": {"comfyeks": name},
    }
    monkeypatch.setattr(model_events.outputs, "platform", lambda _: {"chalice": chalice_output})
    return Platform(aws, deployment, chalice_output)


@pytest.fixture
def clone(tmp_path: Path) -> Callable[[str], Path]:
    """A clone's lambda-chalice folder: what git has, nothing generated."""

    def make(name: str) -> Path:
        return Path(
            shutil.copytree(
                REPO_ROOT / "lambda-chalice",
                tmp_path / name / "lambda-chalice",
                ignore=shutil.ignore_patterns(".chalice", "__pycache__"),
            )
        )

    return make


def deployed_file(clone: Path, platform: Platform) -> Path:
    return clone / ".chalice" / "deployed" / f"{platform.deployment.stage}.json"


def eventually(condition: Callable[[], Any], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)


def test_deploy_from_one_clone_redeploy_and_delete_from_another_leaves_nothing(
    platform: Platform, clone: Callable[[str], Path]
) -> None:
    a, b = clone("a"), clone("b")
    model_events.deploy(platform.deployment, project=a)
    first = platform.deployed()
    assert [len(part) for part in first] == [1, 1]
    configuration = platform.aws.client("lambda").get_function_configuration(FunctionName=platform.function)
    assert configuration["Runtime"] == model_events.packaging_runtime(REGION)
    assert configuration["Timeout"] == model_events.TIMEOUT_SECONDS
    [mapping] = platform.aws.client("lambda").list_event_source_mappings()["EventSourceMappings"]
    assert (mapping["BatchSize"], mapping["MaximumBatchingWindowInSeconds"]) == (1000, 5)

    model_events.deploy(platform.deployment, project=b)
    assert platform.deployed() == first

    model_events.delete(platform.deployment, project=b)
    assert platform.deployed() == ([], [])
    assert not deployed_file(b, platform).exists()

    # Clone A still believes that it is deployed.
    assert deployed_file(a, platform).exists()
    model_events.delete(platform.deployment, project=a)
    assert not deployed_file(a, platform).exists()


def test_the_rebuilt_record_of_a_deployment_equals_the_one_that_chalice_wrote(
    platform: Platform, clone: Callable[[str], Path]
) -> None:
    a, b = clone("a"), clone("b")
    model_events.deploy(platform.deployment, project=a)
    written_by_chalice = deployed_file(a, platform).read_bytes()
    kinds = [resource["resource_type"] for resource in json.loads(written_by_chalice)["resources"]]
    assert kinds == ["lambda_function", "sqs_event"], "neither a role nor a log group: Terraform owns them"
    model_events.configure(platform.deployment, platform.chalice_output, project=b)
    assert deployed_file(b, platform).read_bytes() == written_by_chalice
    model_events.delete(platform.deployment, project=b)


def test_chalice_itself_works_in_a_configured_clone_and_a_bare_one_can_delete(
    platform: Platform, clone: Callable[[str], Path]
) -> None:
    a, b = clone("a"), clone("b")
    model_events.configure(platform.deployment, platform.chalice_output, project=a)
    started = time.monotonic()
    for _ in range(2):
        subprocess.run(
            [Path(sys.executable).with_name("chalice"), "deploy", "--stage", platform.deployment.stage],
            cwd=a,
            env={**os.environ, "PIP_INDEX_URL": "http://127.0.0.1:9/"},  # packaging must not need it
            check=True,
        )
    print(f"two chalice deploys: {time.monotonic() - started:.1f} s")
    assert [len(part) for part in platform.deployed()] == [1, 1]
    model_events.delete(platform.deployment, project=b)
    assert platform.deployed() == ([], [])


def test_a_mapping_that_outlived_its_function_is_taken_over_or_deleted(
    platform: Platform, clone: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = clone("a")
    model_events.deploy(platform.deployment, project=a)
    # MiniStack deletes a function's mappings with it, AWS does not: the function is hidden instead.
    client = platform.aws.client("lambda")
    missing = client.exceptions.ResourceNotFoundException({"Error": {"Code": "404"}}, "GetFunctionConfiguration")

    def gone(**_: str) -> None:
        raise missing

    client.get_function_configuration = gone
    monkeypatch.setattr(model_events, "_lambda_client", lambda _: client)
    before = deployed_file(a, platform).read_text()
    model_events.configure(platform.deployment, platform.chalice_output, project=a)
    [resource] = json.loads(deployed_file(a, platform).read_text())["resources"]
    assert resource in json.loads(before)["resources"]
    model_events.delete(platform.deployment, project=a)
    assert platform.deployed()[1] == []


def test_a_failing_chalice_shows_its_message(platform: Platform, clone: Callable[[str], Path]) -> None:
    a = clone("a")
    app = a / "app.py"
    app.write_text(app.read_text().replace("batch_size=1000", 'batch_size="many"'))
    with pytest.raises(model_events.OperationError, match=r"chalice deploy --stage \w+: .*batch_size|BatchSize"):
        model_events.deploy(platform.deployment, project=a)
    shutil.rmtree(a / ".chalice", ignore_errors=True)
    model_events.delete(platform.deployment, project=a)


def test_uploads_and_deletes_reach_ssm_even_after_failures_and_poison_messages_become_dead_letters(
    platform: Platform, clone: Callable[[str], Path]
) -> None:
    aws, deployment = platform.aws, platform.deployment
    s3, bucket = aws.client("s3"), deployment.bucket("models")
    a = clone("a")
    model_events.deploy(deployment, project=a)

    s3.put_object(Bucket=bucket, Key="access.log", Body=b"no model")
    eventually(lambda: _quiet(aws, platform))
    assert platform.commands() == 0

    aws.inject(
        {"service": "ssm", "operation": "SendCommand", "error": "ThrottlingException", "status": 400, "times": 2}
    )
    started = time.monotonic()
    s3.put_object(Bucket=bucket, Key="loras/a + b [中文].safetensors", Body=b"model")
    eventually(lambda: platform.commands() > 0)
    print(f"throttled twice, command after {time.monotonic() - started:.1f} s")
    eventually(lambda: _quiet(aws, platform))

    aws.inject({"service": "ssm", "operation": "SendCommand", "error": "AccessDenied", "status": 400, "times": 1})
    before = platform.commands()
    s3.delete_object(Bucket=bucket, Key="loras/a + b [中文].safetensors")
    eventually(lambda: platform.commands() > before)

    queue = aws.client("sqs").get_queue_url(QueueName=f"{deployment.name}-model-events")["QueueUrl"]
    aws.client("sqs").send_message(QueueUrl=queue, MessageBody="<not json>")
    letters: list[dict[str, Any]] = []

    def arrived() -> bool:
        letters.extend(
            aws.client("sqs")
            .receive_message(QueueUrl=platform.dead_letters, MessageAttributeNames=["All"])
            .get("Messages", [])
        )
        return bool(letters)

    eventually(arrived)
    assert letters[0]["Body"] == "<not json>"
    assert letters[0]["MessageAttributes"]["Reason"]["StringValue"].startswith("not JSON")
    model_events.delete(deployment, project=a)


def test_every_key_of_the_table_that_s3_can_hold_triggers_exactly_when_it_is_a_model(
    platform: Platform, clone: Callable[[str], Path]
) -> None:
    """The emulator's own notification encodes each key; the function's log says what it made of it."""
    aws, deployment = platform.aws, platform.deployment
    a = clone("a")
    model_events.deploy(deployment, project=a)
    s3 = aws.client("s3")
    models = [case.key for case in MODEL_KEYS if case.is_model]

    def seen() -> set[str]:
        keys: set[str] = set()
        logs = aws.client("logs")
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=f"/aws/lambda/{platform.function}"):
            for event in page["events"]:
                for line in event["message"].splitlines():
                    if line.startswith("{"):
                        keys.update(json.loads(line).get("keys", []))
        return keys

    for start in range(0, len(models), KEYS_IN_LOG):  # no batch larger than what one line names
        some = models[start : start + KEYS_IN_LOG]
        for key in some:
            s3.put_object(Bucket=deployment.bucket("models"), Key=key, Body=b"x")
        eventually(lambda some=some: seen() >= set(some))  # type: ignore[misc]
    assert seen() == set(models)
    model_events.delete(deployment, project=a)


def _quiet(aws: LocalAws, platform: Platform) -> bool:
    sqs = aws.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{platform.deployment.name}-model-events")["QueueUrl"]
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return all(attributes[name] == "0" for name in names)
