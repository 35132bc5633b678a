"""The local node's SSM agent: documents are run as the real agent runs them, and nothing else is."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from comfyeks_local.node.ssm_agent import Result, run_document


def document(*commands: str, timeout: str = "10", **parameters: dict[str, Any]) -> dict[str, Any]:
    step = {
        "action": "aws:runShellScript",
        "name": "step",
        "inputs": {"timeoutSeconds": timeout, "runCommand": list(commands)},
    }
    return {"schemaVersion": "2.2", "parameters": parameters, "mainSteps": [step]}


ACTION = {"type": "String", "allowedValues": ["sync", "status"], "default": "sync", "interpolationType": "ENV_VAR"}


def run(content: dict[str, Any], **given: str) -> Result:
    return asyncio.run(run_document(content, {name: [value] for name, value in given.items()}, os.environ))


def test_a_parameter_arrives_as_an_environment_variable() -> None:
    result = run(document('echo "got $SSM_action"', "echo two >&2", action=ACTION), action="status")
    assert result == Result("Success", 0, "got status\n", "two\n")


def test_a_parameter_that_is_not_given_has_its_default() -> None:
    assert run(document('echo "$SSM_action"', action=ACTION)).stdout == "sync\n"


@pytest.mark.parametrize("value", ["reboot", "sync; reboot", ""])
def test_a_value_that_the_document_does_not_allow_runs_nothing(value: str) -> None:
    with pytest.raises(ValueError, match="allowed: sync, status"):
        run(document("touch /nonexistent/x", action=ACTION), action=value)


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter force"):
        run(document("true", action=ACTION), force="yes")


def test_a_parameter_that_would_become_script_text_is_refused() -> None:
    with pytest.raises(ValueError, match="would become script text"):
        run(document("echo {{ key }}", key={"type": "String"}), key="$(reboot)")


def test_a_failing_script_is_a_failed_command_with_its_exit_code() -> None:
    result = run(document("echo before", "exit 7"))
    assert (result.status, result.response_code, result.stdout) == ("Failed", 7, "before\n")


def test_a_script_that_does_not_end_is_timed_out() -> None:
    result = run(document("exec sleep 30", timeout="0.3"))
    assert result.status == "TimedOut"


def test_a_step_that_the_node_cannot_play_is_refused() -> None:
    content = document("true")
    content["mainSteps"][0]["action"] = "aws:runPowerShellScript"
    with pytest.raises(ValueError, match="aws:runPowerShellScript is not supported on this node"):
        run(content)
