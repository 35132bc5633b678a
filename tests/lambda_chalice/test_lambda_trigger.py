"""app.py as Chalice sees it: what it registers, and that a batch reaches the handler."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chalice.test import Client

from app import app as chalice_app
from chalicelib import aws
from chalicelib.settings import Settings, SettingsError
from comfyeks import model_events
from comfyeks.deployment import CHALICE_APP, CHALICE_HANDLER
from comfyeks.paths import REPO_ROOT
from tests.lambda_chalice.fakes import SETTINGS, RecordingSQS, RecordingSSM, s3_document, s3_record


def test_the_queue_is_subscribed_with_the_batch_of_the_design() -> None:
    [source] = chalice_app.event_sources
    assert source.name == CHALICE_HANDLER
    assert source.queue_arn == SETTINGS["MODEL_EVENTS_QUEUE_ARN"]
    assert source.batch_size == 1000
    assert source.maximum_batching_window_in_seconds == 5
    assert source.maximum_concurrency == 2
    assert chalice_app.app_name == CHALICE_APP


def test_a_batch_reaches_the_handler_through_chalice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ssm, sqs = RecordingSSM(), RecordingSQS()
    monkeypatch.setattr(aws, "ssm", lambda: ssm)
    monkeypatch.setattr(aws, "sqs", lambda: sqs)
    with Client(chalice_app, project_dir=str(tmp_path)) as client:
        event = client.events.generate_sqs_event(
            message_bodies=[s3_document(s3_record("loras/a b.safetensors")), "poison"],
            queue_name="comfyui-model-events",
        )
        client.lambda_.invoke("sync", event)
    assert len(ssm.commands) == 1
    assert [letter["MessageBody"] for letter in sqs.messages] == ["poison"]


def test_importing_needs_neither_region_nor_credentials_nor_network() -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPO_ROOT / "lambda-chalice"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MODEL_EVENTS_QUEUE_ARN": SETTINGS["MODEL_EVENTS_QUEUE_ARN"],
    }
    code = """if True:
        import sys
        sys.addaudithook(lambda event, _: sys.exit(event) if event == "socket.connect" else None)
        import app
    """
    subprocess.run([sys.executable, "-c", code], env=environment, cwd="/", check=True)


def test_a_stage_that_is_not_configured_is_refused_when_chalice_imports_the_app(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"MODEL_EVENTS_DLQ_URL is not set.*comfyeks events configure"):
        Settings.from_environment({**SETTINGS, "MODEL_EVENTS_DLQ_URL": ""})
    project = tmp_path / "lambda-chalice"
    (project / ".chalice").mkdir(parents=True)
    (project / ".chalice" / "config.json").write_text(json.dumps({"version": "2.0", "app_name": CHALICE_APP}))
    (project / "app.py").symlink_to(REPO_ROOT / "lambda-chalice" / "app.py")
    (project / "chalicelib").symlink_to(REPO_ROOT / "lambda-chalice" / "chalicelib")
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    result = subprocess.run(
        [Path(sys.executable).with_name("chalice"), "deploy", "--stage", "nobody"],
        cwd=project,
        env={**environment, "AWS_DEFAULT_REGION": "us-west-2", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "MODEL_EVENTS_QUEUE_ARN is not set: this stage is not configured" in result.stderr


def test_the_settings_that_the_function_reads_are_the_ones_that_configure_demands() -> None:
    assert set(model_events.ENVIRONMENT) == set(SETTINGS)
    for name in model_events.ENVIRONMENT:
        with pytest.raises(SettingsError, match=name):
            Settings.from_environment({key: value for key, value in SETTINGS.items() if key != name})
