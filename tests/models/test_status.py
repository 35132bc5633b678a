"""`comfyeks models status`: what nodes say, and what they do not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, cast

import boto3
import pytest
from botocore.exceptions import ClientError
from typer.testing import CliRunner

from comfyeks.errors import OperationError
from comfyeks.models import cli, status
from comfyeks.models.store import Model
from tests.models.conftest import BUCKET, DEPLOYMENT

MODELS = [Model("vae/a", 10, datetime.now(UTC)), Model("vae/b", 5, datetime.now(UTC)),
          Model("x", 99, datetime.now(UTC), ignored="has no folder")]  # fmt: skip
SYNCED = {
    "schema": 1, "state": "idle", "ready": True, "files": 2, "bytes": 15, "missing_files": 0, "missing_bytes": 0,
    "skipped_count": 1, "finished": "2026-11-21T07:00:00Z", "error": None,
}  # fmt: skip


class Channel:
    """SSM as the nodes see it: one answer per instance; None never answers."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.sent: list[dict[str, Any]] = []

    def send_command(self, **parameters: Any) -> dict[str, Any]:
        self.sent.append(parameters)
        return {"Command": {"CommandId": "command-1"}}

    def get_paginator(self, name: str) -> Channel:
        assert name == "list_command_invocations"
        return self

    def paginate(self, **parameters: Any) -> list[dict[str, Any]]:
        assert parameters == {"CommandId": "command-1", "Details": True}
        return [
            {"CommandInvocations": [self._invocation(node, answer)]}
            for node, answer in self.answers.items() if answer is not None
        ]  # fmt: skip

    def _invocation(self, node: str, answer: Any) -> dict[str, Any]:
        if isinstance(answer, tuple):
            state, output = answer
        else:
            state, output = "Success", json.dumps(answer) + "\n"
        return {
            "InstanceId": node,
            "Status": state,
            "CommandPlugins": [{"Output": output}] if state != "InProgress" else [],
        }


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Channel:
    fake = Channel()
    original = boto3.Session.client
    monkeypatch.setattr(
        boto3.Session,
        "client",
        lambda self, name, **options: fake if name == "ssm" else original(self, name, **options),
    )
    return fake


class OneNode:
    """A session in whose account runs one node, i-1."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def client(self, name: str, region_name: str | None = None) -> Any:
        return self.channel if name == "ssm" else self

    def get_paginator(self, name: str) -> OneNode:
        return self

    def paginate(self, **parameters: Any) -> list[dict[str, Any]]:
        return [{"Reservations": [{"Instances": [{"InstanceId": "i-1", "InstanceType": "g5.2xlarge"}]}]}]


def collect_one(channel: Channel) -> status.NodeStatus:
    [row] = status.collect(cast(boto3.Session, OneNode(channel)), DEPLOYMENT, MODELS, wait=0.1)
    return row


def launch(session: boto3.Session, count: int, tag: str = DEPLOYMENT.name) -> list[str]:
    ec2 = session.client("ec2")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "ComfyUIModelSync", "Value": tag}]}]
    instances = ec2.run_instances(
        ImageId="ami-12c6146b", MinCount=count, MaxCount=count, InstanceType="g5.2xlarge", TagSpecifications=tags  # type: ignore[arg-type]
    )["Instances"]  # fmt: skip
    return sorted(instance["InstanceId"] for instance in instances)


def test_every_live_node_is_asked_once_by_tag(session: boto3.Session, channel: Channel) -> None:
    nodes = launch(session, 2)
    launch(session, 1, tag="comfyui-other")
    session.client("ec2").terminate_instances(InstanceIds=launch(session, 1))
    channel.answers = dict.fromkeys(nodes, SYNCED)
    rows = status.collect(session, DEPLOYMENT, MODELS, wait=1)
    assert [row.node for row in rows] == nodes
    assert all(row.converged and row.ready and row.instance_type == "g5.2xlarge" for row in rows)
    [sent] = channel.sent
    assert sent["DocumentName"] == "comfyui-sync-models"
    assert sent["Targets"] == [{"Key": "tag:ComfyUIModelSync", "Values": ["comfyui"]}]
    assert sent["Parameters"] == {"action": ["status"]}
    assert (sent["MaxConcurrency"], sent["MaxErrors"]) == ("100%", "100%")


@pytest.mark.parametrize(
    ("answer", "state", "message"),
    [
        (None, "no answer", "still booting, or its SSM agent is not connected"),
        (("InProgress", ""), "no answer", "still booting"),
        (("Failed", "sh: not found\nmore"), "no answer", "the command ended with Failed: sh: not found"),
        (("TimedOut", ""), "no answer", "the command ended with TimedOut: no output"),
        (("Success", "not json"), "no answer", "not json"),
        ({**SYNCED, "state": "syncing", "ready": False, "files": 1, "missing_files": 1}, "syncing", None),
        ({**SYNCED, "state": "failed", "error": "disk full"}, "failed", "disk full"),
        ({**SYNCED, "files": 1, "bytes": 10}, "idle", "holds 1 files, the bucket has 2: a sync is due"),
        ({**SYNCED, "bytes": 14}, "idle", "a sync is due"),
        ({**SYNCED, "ready": False}, "idle", None),
        ({**SYNCED, "skipped_count": 2}, "idle", "a sync is due"),
        (
            {
                **SYNCED,
                "files": 1,
                "bytes": 10,
                "left_out_count": 1,
                "left_out_bytes": 5,
                "left_out": [{"key": "vae/b", "bytes": 5}],
            },
            "idle",
            "no space for 1 models (5 bytes): vae/b; use a larger instance type, or set "
            "modelSync.settings.prefixes of this pool's node class",
        ),
        ({**SYNCED, "files": "many"}, "no answer", "the command ended with Success"),
    ],
)
def test_a_node_that_is_not_up_to_date_is_reported(
    channel: Channel, answer: Any, state: str, message: str | None
) -> None:
    channel.answers = {"i-1": answer}
    row = collect_one(channel)
    assert not row.converged
    assert row.state == state
    assert (message or "") in (row.problem or "")


def test_models_that_the_pool_excludes_are_not_missing(channel: Channel) -> None:
    channel.answers = {"i-1": {**SYNCED, "files": 1, "bytes": 10, "unselected": 1}}
    assert collect_one(channel).converged


def test_everything_that_a_node_reports_is_in_the_json_and_in_the_table(
    session: boto3.Session, channel: Channel
) -> None:
    [node] = launch(session, 1)
    verified = {"finished": "2026-11-21T06:00:00Z", "files": 2, "replaced": 1, "unknown": 0}
    channel.answers = {
        node: {
            **SYNCED, "first_ready": True, "ready": False, "state": "syncing", "missing_files": 3,
            "missing_bytes": 3_000, "budget": {"bytes": 66_000_000_000}, "left_out_count": 1, "left_out_bytes": 7_000,
            "left_out": [{"key": "vae/z", "bytes": 7_000}], "last_success": "2026-11-21T07:00:00Z",
            "verified": verified,
        }
    }  # fmt: skip
    [row] = json.loads(CliRunner().invoke(cli.app, ["status", "--json"]).stdout)
    assert (row["first_ready"], row["budget_bytes"], row["left_out"]) == (True, 66_000_000_000, ["vae/z"])
    assert (row["missing_files"], row["left_out_bytes"], row["verified"]) == (3, 7_000, verified)
    assert row["age"] >= 0
    table = CliRunner().invoke(cli.app, ["status"]).stdout
    for text in ("first set", "66.0 GB", "3 (3.0 kB)", "1 (7.0 kB)", "2 read, 1 replaced", "no space for 1 models"):
        assert text in table


def test_verify_asks_all_nodes_once_and_prints_the_run_ids(session: boto3.Session, channel: Channel) -> None:
    first, second = launch(session, 2)
    channel.answers = {first: {"run_id": "20261121T070000.000000-ab12"}, second: None}
    result = CliRunner().invoke(cli.app, ["verify", "--json", "--wait", "0.1"])
    assert json.loads(result.stdout) == {first: "20261121T070000.000000-ab12", second: None}
    assert str(result.exception) == f"no answer: {second}"
    [sent] = channel.sent
    assert sent["Parameters"] == {"action": ["verify"]}
    channel.answers[second] = ("Failed", "sh: not found")
    assert isinstance(CliRunner().invoke(cli.app, ["verify"]).exception, OperationError)
    channel.answers[second] = channel.answers[first]
    table = CliRunner().invoke(cli.app, ["verify"])
    assert table.exit_code == 0
    assert table.stdout.count("20261121T070000.000000-ab12") == 2


def test_no_node_means_no_command(session: boto3.Session, channel: Channel) -> None:
    assert status.collect(session, DEPLOYMENT, MODELS) == []
    assert channel.sent == []


def test_the_command_exits_1_unless_all_nodes_are_up_to_date(session: boto3.Session, channel: Channel) -> None:
    first, second = launch(session, 2)
    session.client("s3").put_object(Bucket=BUCKET, Key="vae/a", Body=b"0123456789")
    here = {**SYNCED, "files": 1, "bytes": 10, "skipped_count": 0}
    channel.answers = {first: here, second: None}
    result = CliRunner().invoke(cli.app, ["status", "--json", "--wait", "0.1"])
    assert isinstance(result.exception, OperationError)
    assert str(result.exception) == f"not up to date: {second}"
    assert [row["converged"] for row in json.loads(result.stdout)] == [True, False]
    channel.answers[second] = here
    table = CliRunner().invoke(cli.app, ["status"])
    assert table.exit_code == 0
    assert first in table.stdout
    assert second in table.stdout


def test_an_archived_model_is_not_waited_for(session: boto3.Session, channel: Channel) -> None:
    [node] = launch(session, 1)
    s3 = session.client("s3")
    s3.put_object(Bucket=BUCKET, Key="vae/a", Body=b"0123456789")
    s3.put_object(Bucket=BUCKET, Key="vae/old", Body=b"0123456789", StorageClass="DEEP_ARCHIVE")
    channel.answers = {node: {**SYNCED, "files": 1, "bytes": 10}}
    assert CliRunner().invoke(cli.app, ["status"]).exit_code == 0


def test_what_a_node_reports_cannot_reach_the_terminal_as_commands(session: boto3.Session, channel: Channel) -> None:
    [node] = launch(session, 1)
    channel.answers = {
        node: {**SYNCED, "state": "\x1b[2J", "finished": "[/x]", "error": "loras/[/abc]\x1b]0;owned\x07"}
    }
    result = CliRunner().invoke(cli.app, ["status"])
    assert isinstance(result.exception, OperationError)
    assert "\x1b" not in result.stdout
    assert "loras/[/abc]\N{REPLACEMENT CHARACTER}]0;owned" in result.stdout


def test_a_missing_document_is_reported_with_the_command_that_creates_it(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**parameters: Any) -> None:
        raise ClientError({"Error": {"Code": "InvalidDocument", "Message": ""}}, "SendCommand")

    monkeypatch.setattr(channel, "send_command", refuse)
    with pytest.raises(OperationError, match="comfyeks infra apply"):
        collect_one(channel)
