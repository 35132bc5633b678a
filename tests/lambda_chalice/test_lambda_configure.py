"""What `comfyeks events configure` writes, without AWS: the account's answers are stubbed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from typer.testing import CliRunner

from comfyeks import model_events
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError, UserError
from tests.lambda_chalice.fakes import SETTINGS

FILM = Deployment(project="film", region="us-west-2", account="123456789012")
DEFAULT = Deployment(project=None, region="us-west-2", account="123456789012")
QUEUE = "arn:aws:sqs:us-west-2:123456789012:comfyui-film-model-events"
FUNCTION = "arn:aws:lambda:us-west-2:123456789012:function:comfyui-models-film-sync"


def output(deployment: Deployment = FILM, **changes: Any) -> dict[str, Any]:
    return {
        "stage": deployment.stage,
        "iam_role_arn": "arn:aws:iam::123456789012:role/comfyui-film-model-events",
        "queue_arn": QUEUE,
        "environment_variables": dict(SETTINGS),
        "tags": {"comfyeks:deployment": deployment.name},
        **changes,
    }


def mapping(uuid: str, function: str = FUNCTION, state: str = "Enabled") -> dict[str, Any]:
    return {"UUID": f"{uuid:0>36}", "FunctionArn": function, "EventSourceArn": QUEUE, "State": state}


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    client = boto3.client("lambda", "us-west-2", aws_access_key_id="test", aws_secret_access_key="test")
    monkeypatch.setattr(model_events, "_lambda_client", lambda _: client)
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()


def exists(account: Stubber, function: bool, *mappings: dict[str, Any]) -> None:
    if function:
        account.add_response("get_function_configuration", {"FunctionArn": FUNCTION})
    else:
        account.add_client_error("get_function_configuration", "ResourceNotFoundException", http_status_code=404)
    account.add_response(
        "list_event_source_mappings", {"EventSourceMappings": list(mappings)}, {"EventSourceArn": QUEUE}
    )


def config(project: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((project / ".chalice" / "config.json").read_text())
    return result


def deployed(project: Path) -> Path:
    return project / ".chalice" / "deployed" / "film.json"


def test_a_stage_gets_everything_that_chalice_needs(account: Stubber, tmp_path: Path) -> None:
    exists(account, False)
    model_events.configure(FILM, output(), project=tmp_path)
    written = config(tmp_path)
    digest = written["stages"]["film"]["tags"].pop(model_events.SOURCE_TAG)
    assert re.fullmatch("[0-9a-f]+", digest)
    assert written == {
        "version": "2.0",
        "app_name": "comfyui-models",
        "stages": {
            "film": {
                "manage_iam_role": False,
                "iam_role_arn": "arn:aws:iam::123456789012:role/comfyui-film-model-events",
                "environment_variables": SETTINGS,
                "lambda_timeout": 60,
                "lambda_memory_size": 256,
                "tags": {"comfyeks:deployment": "comfyui-film"},
            }
        },
    }


def test_other_stages_and_settings_of_the_file_stay(account: Stubber, tmp_path: Path) -> None:
    (tmp_path / ".chalice").mkdir()
    theirs = {"stages": {"default": {"lambda_timeout": 7}, "film": {"old": True}}, "xray": True}
    (tmp_path / ".chalice" / "config.json").write_text(json.dumps(theirs))
    exists(account, False)
    model_events.configure(FILM, output(), project=tmp_path)
    written = config(tmp_path)
    assert written["stages"]["default"] == {"lambda_timeout": 7}
    assert written["xray"] is True
    assert "old" not in written["stages"]["film"]
    assert [path.name for path in (tmp_path / ".chalice").iterdir()] == ["config.json"], "no temporary file stays"


def test_the_stage_of_a_deleted_deployment_is_removed_and_the_others_stay(account: Stubber, tmp_path: Path) -> None:
    (tmp_path / ".chalice").mkdir()
    theirs = {"stages": {"default": {"lambda_timeout": 7}, "film": {"old": True}}, "xray": True}
    (tmp_path / ".chalice" / "config.json").write_text(json.dumps(theirs))
    exists(account, False)
    model_events.delete(FILM, project=tmp_path, forget=True)
    assert config(tmp_path) == {"stages": {"default": {"lambda_timeout": 7}}, "xray": True}


def test_forgetting_creates_no_file(account: Stubber, tmp_path: Path) -> None:
    exists(account, False)
    model_events.delete(FILM, project=tmp_path, forget=True)
    assert not (tmp_path / ".chalice" / "config.json").exists()


def test_function_and_mapping_of_the_account_become_chalices_record(account: Stubber, tmp_path: Path) -> None:
    exists(account, True, mapping("1", FUNCTION + "-other"), mapping("2"), mapping("3", state="Deleting"))
    model_events.configure(FILM, output(), project=tmp_path)
    assert json.loads(deployed(tmp_path).read_text()) == {
        "resources": [
            {"name": "sync", "resource_type": "lambda_function", "lambda_arn": FUNCTION},
            {
                "name": "sync-sqs-event-source",
                "resource_type": "sqs_event",
                "queue_arn": QUEUE,
                "event_uuid": f"{2:0>36}",
                "queue": "comfyui-film-model-events",
                "lambda_arn": FUNCTION,
            },
        ],
        "schema_version": "2.0",
        "backend": "api",
    }


def test_a_stale_record_is_removed_when_nothing_is_deployed(account: Stubber, tmp_path: Path) -> None:
    deployed(tmp_path).parent.mkdir(parents=True)
    deployed(tmp_path).write_text("{}")
    exists(account, False, mapping("1", FUNCTION + "-other"))
    model_events.configure(FILM, output(), project=tmp_path)
    assert not deployed(tmp_path).exists()


def test_a_second_page_of_mappings_is_read(account: Stubber, tmp_path: Path) -> None:
    account.add_client_error("get_function_configuration", "ResourceNotFoundException", http_status_code=404)
    others = [mapping("1", FUNCTION + "-other")]
    account.add_response("list_event_source_mappings", {"EventSourceMappings": others, "NextMarker": "more"})
    account.add_response("list_event_source_mappings", {"EventSourceMappings": [mapping("2")]})
    model_events.configure(FILM, output(), project=tmp_path)
    [resource] = json.loads(deployed(tmp_path).read_text())["resources"]
    assert resource["event_uuid"] == f"{2:0>36}"


def test_the_record_is_kept_when_aws_does_not_answer(account: Stubber, tmp_path: Path) -> None:
    deployed(tmp_path).parent.mkdir(parents=True)
    deployed(tmp_path).write_text("kept")
    account.add_client_error("get_function_configuration", "AccessDeniedException", "not you")
    with pytest.raises(OperationError, match=r"looking for comfyui-models-film-sync: .*not you"):
        model_events.configure(FILM, output(), project=tmp_path)
    assert deployed(tmp_path).read_text() == "kept"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (output(DEFAULT), "stage 'default', this deployment is 'film'"),
        ({"stage": "film"}, "lacks environment_variables, iam_role_arn, queue_arn, tags, MODEL_EVENTS_DLQ_URL"),
        (output(environment_variables={**SETTINGS} | {"X": "1"}), None),
        (output(environment_variables={}), "lacks MODEL_EVENTS_DLQ_URL, MODEL_EVENTS_QUEUE_ARN, SYNC_DOCUMENT"),
    ],
    ids=["other stage", "old terraform", "more variables", "no variables"],
)
def test_an_output_that_does_not_fit_is_refused_before_anything_is_written(
    bad: dict[str, Any], message: str | None, account: Stubber, tmp_path: Path
) -> None:
    if message is None:
        exists(account, False)
        model_events.configure(FILM, bad, project=tmp_path)
        return
    with pytest.raises(UserError, match=message):
        model_events.configure(FILM, bad, project=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_configuration_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / ".chalice").mkdir()
    (tmp_path / ".chalice" / "config.json").write_text("{stages:")
    with pytest.raises(UserError, match=r"config\.json is not JSON .*remove it"):
        model_events.configure(FILM, output(), project=tmp_path)


def test_deleting_a_function_that_does_not_exist_runs_nothing(account: Stubber, tmp_path: Path) -> None:
    exists(account, False)
    model_events.delete(FILM, project=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_deploy_waits_until_the_old_mapping_is_deleted(account: Stubber, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("comfyeks.model_events.time.sleep", pauses.append)
    for state in ("Deleting", "Deleting", "Enabled"):
        account.add_response("list_event_source_mappings", {"EventSourceMappings": [mapping("1", state=state)]})
    model_events._wait_for_deleted_mapping(FILM, QUEUE)
    assert len(pauses) == 2


def interpreter(monkeypatch: pytest.MonkeyPatch, minor: int) -> None:
    stand_in = SimpleNamespace(executable="/venv/bin/python", version_info=SimpleNamespace(major=3, minor=minor))
    monkeypatch.setattr(model_events, "sys", stand_in)


@pytest.mark.parametrize("minor", [10, 99])
def test_an_interpreter_without_a_lambda_runtime_is_refused_by_name(
    minor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter(monkeypatch, minor)
    with pytest.raises(UserError, match=rf"no runtime python3\.{minor}, .*one of 3\.11, 3\.12, 3\.13"):
        model_events.packaging_runtime("us-west-2")


def test_configure_warns_of_such_an_interpreter_and_deploy_stops(
    account: Stubber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interpreter(monkeypatch, 99)
    exists(account, False)
    model_events.configure(FILM, output(), project=tmp_path)
    assert "warning: Lambda has no runtime python3.99" in capsys.readouterr().err
    with pytest.raises(UserError, match="no runtime"):
        model_events.deploy(FILM, project=tmp_path)


@pytest.mark.parametrize("minor", [11, 13])
def test_the_runtime_is_the_interpreters_own_version(minor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter(monkeypatch, minor)
    assert model_events.packaging_runtime("us-west-2") == f"python3.{minor}"


def test_the_message_of_a_failed_chalice_is_its_last_exception_on_one_line() -> None:
    text = (
        "Traceback (most recent call last):\n  File x\nValueError: first\n\nDuring handling\n\n"
        "Traceback (most recent call last):\n  File y, in z\n    raise\n"
        "chalice.deploy.deployer.ChaliceDeploymentError: ERROR - While deploying, received:\n\n no such role\n\n"
    )
    assert model_events._last_message(text) == (
        "chalice.deploy.deployer.ChaliceDeploymentError: ERROR - While deploying, received: no such role"
    )
    assert model_events._last_message("Usage: chalice\nNo such option\n") == "Usage: chalice No such option"
    assert model_events._last_message("") == "no message"


@pytest.mark.parametrize("verb", ["configure", "deploy", "delete"])
def test_every_command_explains_itself(verb: str) -> None:
    result = CliRunner().invoke(model_events.app, [verb, "--help"])
    assert result.exit_code == 0
    assert "--project" in result.stdout


def test_the_commands_print_data_to_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_events.deployments, "current", lambda project, region: FILM)
    monkeypatch.setattr(model_events.outputs, "platform", lambda _: {"chalice": output()})
    monkeypatch.setattr(model_events, "configure", lambda *_: None)
    monkeypatch.setattr(model_events, "deploy", lambda _: None)
    assert CliRunner().invoke(model_events.app, ["configure"]).stdout == "chalice deploy --stage film\n"
    assert CliRunner().invoke(model_events.app, ["deploy"]).stdout == "comfyui-models-film-sync\n"


def test_the_digest_follows_code_and_settings(tmp_path: Path) -> None:
    (tmp_path / "chalicelib").mkdir()
    for name in ("app.py", "chalicelib/sync.py"):
        (tmp_path / name).write_text("pass\n")
    before = model_events.source_digest({"lambda_timeout": 60}, tmp_path)
    assert model_events.source_digest({"lambda_timeout": 60}, tmp_path) == before
    assert model_events.source_digest({"lambda_timeout": 61}, tmp_path) != before
    (tmp_path / "chalicelib/sync.py").write_text("pass  # changed\n")
    assert model_events.source_digest({"lambda_timeout": 60}, tmp_path) != before
