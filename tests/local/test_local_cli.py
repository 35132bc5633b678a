"""`comfyeks local`"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comfyeks.errors import Failure
from comfyeks.local import emulators
from comfyeks.local.cli import app


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of a checkout of its own."""
    monkeypatch.setattr(emulators, "STATE", tmp_path)
    return tmp_path


def test_env_prints_commands_that_a_shell_can_evaluate(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (state / "local").mkdir()
    variables = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_REGION": "it's quoted"}
    (state / "local" / "env.json").write_text(json.dumps(variables))
    monkeypatch.setenv("AWS_PROFILE", "prod")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://elsewhere")
    printed = CliRunner().invoke(app, ["env"]).stdout
    script = printed + 'echo "$AWS_ENDPOINT_URL|$AWS_REGION|$AWS_PROFILE|$AWS_ENDPOINT_URL_S3"'
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert shell.stdout == "http://127.0.0.1:1|it's quoted||\n"
    assert all(line.startswith(("export ", "unset ")) for line in printed.splitlines())


def test_env_of_a_local_aws_that_is_not_up_is_a_failure_that_says_what_to_do(state: Path) -> None:
    result = CliRunner().invoke(app, ["env"])
    assert isinstance(result.exception, Failure)
    assert "comfyeks local up" in str(result.exception)


def test_status_exits_1_and_prints_json_when_asked(state: Path) -> None:
    result = CliRunner().invoke(app, ["status", "--json"])
    assert result.exit_code == 1
    assert {part["name"]: part["state"] for part in json.loads(result.stdout)} == {
        "ministack": "stopped",
        "moto": "stopped",
    }


@pytest.mark.local
def test_up_status_and_down_tell_what_they_did(state: Path) -> None:
    runner = CliRunner()
    try:
        assert runner.invoke(app, ["up"]).exit_code == 0
        again = runner.invoke(app, ["up"])
        assert "is up already" in again.stderr
        status = runner.invoke(app, ["status"])
        assert status.exit_code == 0
        assert status.stdout.count("running") == 2
    finally:
        assert runner.invoke(app, ["down"]).exit_code == 0
    assert runner.invoke(app, ["status"]).exit_code == 1
