"""The path of a command: boto3 → moto → an agent at the HTTP channel → back to boto3."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from typing import Any

import pytest
import requests

from comfyeks_local.emulators.local_aws import LocalAws

pytestmark = pytest.mark.local

DOCUMENT = {
    "schemaVersion": "2.2",
    "parameters": {"action": {"type": "String", "allowedValues": ["sync", "status"]}},
    "mainSteps": [{"name": "run", "action": "aws:runShellScript", "inputs": {"runCommand": ["true"]}}],
}


@pytest.fixture
def document(local_aws: LocalAws) -> str:
    name = f"sync-{uuid.uuid4().hex[:8]}"
    local_aws.client("ssm").create_document(
        Name=name, DocumentType="Command", DocumentFormat="JSON", Content=json.dumps(DOCUMENT)
    )
    return name


def launch(aws: LocalAws, tag: str, count: int = 1) -> list[str]:
    instances = aws.client("ec2").run_instances(
        ImageId="ami-12345678",
        MinCount=count,
        MaxCount=count,
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Sync", "Value": tag}]}],
    )["Instances"]
    return [instance["InstanceId"] for instance in instances]


def send(aws: LocalAws, document: str, tag: str) -> dict[str, Any]:
    command: dict[str, Any] = aws.client("ssm").send_command(
        DocumentName=document,
        Targets=[{"Key": "tag:Sync", "Values": [tag]}],
        Parameters={"action": ["sync"]},
        MaxConcurrency="100%",
        MaxErrors="100%",
        TimeoutSeconds=600,
    )["Command"]
    return command


def fetch(aws: LocalAws, instance: str, wait: float = 0) -> requests.Response:
    url = f"{aws.endpoint('ssm')}/_local/ssm/next"
    return requests.get(url, params={"instance": instance, "wait": str(wait)}, timeout=wait + 10)


def report(aws: LocalAws, **result: Any) -> requests.Response:
    return requests.post(f"{aws.endpoint('ssm')}/_local/ssm/result", json=result, timeout=10)


def test_a_command_reaches_every_tagged_running_instance_and_its_result_comes_back(
    local_aws: LocalAws, document: str
) -> None:
    ssm = local_aws.client("ssm")
    one, two = launch(local_aws, document, 2)
    launch(local_aws, "somebody else's")
    command = send(local_aws, document, document)
    assert command["TargetCount"] == 2

    task = fetch(local_aws, one).json()
    assert task == {"command_id": command["CommandId"], "document": document, "parameters": {"action": ["sync"]}}
    state = ssm.get_command_invocation(CommandId=command["CommandId"], InstanceId=one)
    assert (state["Status"], state["ResponseCode"]) == ("InProgress", -1)

    result = {"command_id": command["CommandId"], "instance_id": one, "status": "Failed", "response_code": 3}
    assert report(local_aws, **result, stdout="o" * 30_000, stderr="why").status_code == 200
    state = ssm.get_command_invocation(CommandId=command["CommandId"], InstanceId=one)
    assert (state["Status"], state["ResponseCode"], state["StandardErrorContent"]) == ("Failed", 3, "why")
    assert len(state["StandardOutputContent"]) == 24_000

    listed = ssm.list_command_invocations(CommandId=command["CommandId"], Details=True)["CommandInvocations"]
    assert {each["InstanceId"]: each["Status"] for each in listed} == {one: "Failed", two: "Pending"}
    [summary] = ssm.list_commands(CommandId=command["CommandId"])["Commands"]
    assert (summary["Status"], summary["CompletedCount"], summary["ErrorCount"]) == ("InProgress", 1, 1)


def test_a_waiting_agent_gets_its_command_at_once(local_aws: LocalAws, document: str) -> None:
    [instance] = launch(local_aws, document)
    answers: list[tuple[int, float]] = []

    def agent() -> None:
        status = fetch(local_aws, instance, wait=20).status_code
        answers.append((status, time.monotonic()))

    thread = threading.Thread(target=agent)
    thread.start()
    time.sleep(0.3)
    send(local_aws, document, document)
    sent = time.monotonic()
    thread.join(timeout=25)
    [(status, received)] = answers
    assert status == 200
    assert received - sent < 2


def test_an_agent_without_a_command_gets_an_empty_answer_after_its_wait(local_aws: LocalAws) -> None:
    begun = time.monotonic()
    answer = fetch(local_aws, "i-none", wait=0.5)
    assert (answer.status_code, answer.content) == (204, b"")
    assert 0.4 < time.monotonic() - begun < 3


def test_a_command_is_not_lost_to_an_agent_that_was_killed_while_it_waited(local_aws: LocalAws, document: str) -> None:
    [instance] = launch(local_aws, document)
    url = f"{local_aws.endpoint('ssm')}/_local/ssm/next?instance={instance}&wait=30"
    agent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, urllib.request; print(flush=True); urllib.request.urlopen(sys.argv[1])",
            url,
        ],
        stdout=subprocess.PIPE,
    )
    agent.stdout.readline()  # type: ignore[union-attr]
    time.sleep(0.5)  # it waits now
    agent.kill()
    agent.communicate()
    command = send(local_aws, document, document)
    assert fetch(local_aws, instance, wait=5).json()["command_id"] == command["CommandId"]


def test_targets_are_resolved_when_the_command_is_sent(local_aws: LocalAws, document: str) -> None:
    [early] = launch(local_aws, document)
    command = send(local_aws, document, document)
    [late] = launch(local_aws, document)
    assert fetch(local_aws, late).status_code == 204
    assert fetch(local_aws, early).json()["command_id"] == command["CommandId"]


def test_a_second_or_malformed_result_is_refused(local_aws: LocalAws, document: str) -> None:
    [instance] = launch(local_aws, document)
    command = send(local_aws, document, document)["CommandId"]
    result = {"command_id": command, "instance_id": instance, "response_code": 0, "stdout": "", "stderr": ""}
    assert report(local_aws, **result, status="Success").status_code == 409  # not fetched yet
    fetch(local_aws, instance)
    assert report(local_aws, **result, status="Done").status_code == 400
    assert report(local_aws, command_id=command).status_code == 400
    assert report(local_aws, **result, status="Success").status_code == 200
    assert report(local_aws, **result, status="Success").status_code == 409


def test_a_stopped_or_unknown_instance_is_refused_by_id(local_aws: LocalAws, document: str) -> None:
    ssm = local_aws.client("ssm")
    [instance] = launch(local_aws, document)
    local_aws.client("ec2").terminate_instances(InstanceIds=[instance])
    for name in (instance, "i-00000000000000000"):
        with pytest.raises(ssm.exceptions.InvalidInstanceId):
            ssm.send_command(DocumentName=document, InstanceIds=[name], Parameters={"action": ["sync"]})


def test_invocations_are_listed_in_pages(local_aws: LocalAws, document: str) -> None:
    instances = launch(local_aws, document, 3)
    command = send(local_aws, document, document)["CommandId"]
    pages = list(
        local_aws.client("ssm")
        .get_paginator("list_command_invocations")
        .paginate(CommandId=command, PaginationConfig={"PageSize": 2})
    )
    assert [len(page["CommandInvocations"]) for page in pages] == [2, 1]
    listed = {each["InstanceId"] for page in pages for each in page["CommandInvocations"]}
    assert listed == set(instances)
