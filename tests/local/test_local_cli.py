"""`comfyeks local`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from comfyeks.cli import app as root
from comfyeks.errors import OperationError
from comfyeks_local import cli
from comfyeks_local.cli import app
from comfyeks_local.emulators import local_aws as emulators
from comfyeks_local.node import cli as node_cli


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


def test_env_fails_when_the_local_aws_is_not_up_and_says_how_to_start_it(state: Path) -> None:
    result = CliRunner().invoke(app, ["env"])
    assert isinstance(result.exception, OperationError)
    assert "comfyeks local up" in str(result.exception)


def test_status_exits_1_and_prints_json_when_asked(state: Path) -> None:
    result = CliRunner().invoke(app, ["status", "--json"])
    assert result.exit_code == 1
    assert {part["name"]: part["state"] for part in json.loads(result.stdout)} == {
        "ministack": "stopped",
        "moto": "stopped",
    }


def test_the_emulators_end_even_when_a_node_cannot_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    def refuse() -> None:
        raise OperationError("node-1 does not end")

    monkeypatch.setattr(cli.pod, "kill_all", lambda: ended.append("pods"))
    monkeypatch.setattr(cli, "remove_all", refuse)
    monkeypatch.setattr(cli.LocalAws, "down", lambda self: ended.append("emulators"))
    with pytest.raises(OperationError, match="node-1"):
        cli.stop_everything()
    assert ended == ["pods", "emulators"]


def test_control_characters_in_a_nodes_report_do_not_reach_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_cli, "NODES", tmp_path)
    (tmp_path / "node-1").mkdir()
    (tmp_path / "node-1" / "node.json").write_text("{}")
    error = "cannot fetch loras/[/abc] \x1b]0;owned\x07 [red]x"
    monkeypatch.setattr(node_cli.LocalNode, "instance_id", "i-1")
    monkeypatch.setattr(node_cli.LocalNode, "alive", lambda self: True)
    monkeypatch.setattr(node_cli.LocalNode, "status", lambda self: {"state": "\x1b[2J", "error": error})
    monkeypatch.setattr(node_cli, "out", Console(width=300))
    result = CliRunner().invoke(app, ["node", "ls"])
    assert result.exit_code == 0, result.exception
    assert "\x1b" not in result.stdout
    assert "loras/[/abc] \N{REPLACEMENT CHARACTER}]0;owned\N{REPLACEMENT CHARACTER} [red]x" in result.stdout


@pytest.mark.parametrize(
    "arguments", [["local"], ["local", "up"], ["local", "node", "ls"], ["models"], ["models", "ls"]]
)
def test_every_command_has_the_flag_h(arguments: list[str]) -> None:
    assert "Usage:" in CliRunner().invoke(root, [*arguments, "-h"]).stdout


@pytest.mark.local
def test_up_status_and_down_report_what_they_did(state: Path) -> None:
    runner = CliRunner()
    try:
        assert runner.invoke(app, ["up"]).exit_code == 0
        again = runner.invoke(app, ["up"])
        assert "is already up" in again.stderr
        status = runner.invoke(app, ["status"])
        assert status.exit_code == 0
        assert status.stdout.count("running") == 2
    finally:
        assert runner.invoke(app, ["down"]).exit_code == 0
    assert runner.invoke(app, ["status"]).exit_code == 1
