"""Run Command as the API shows it, without any emulator."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from comfyeks_local.emulators.run_command import (
    PLUGIN_OUTPUT_LIMIT,
    STDERR_LIMIT,
    STDOUT_LIMIT,
    RefusedError,
    RunCommand,
    checked_parameters,
    limit_of,
)

SCOPE = ("123456789012", "us-west-2")
DOCUMENT: dict[str, Any] = {
    "schemaVersion": "2.2",
    "parameters": {"action": {"type": "String", "allowedValues": ["sync", "status"], "default": "status"}},
    "mainSteps": [{"name": "run", "action": "aws:runShellScript", "inputs": {"timeoutSeconds": "120"}}],
}


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def commands(clock: Clock) -> RunCommand:
    return RunCommand(clock)


def send(commands: RunCommand, *instances: str, **settings: Any) -> str:
    settings = {"given_parameters": {"action": ["sync"]}, "max_errors": "100%", **settings}
    return commands.send(SCOPE, "sync-models", DOCUMENT, targeted=instances, targets=[{}], **settings).id


def states(commands: RunCommand, command: str) -> dict[str, str]:
    return {each["InstanceId"]: each["StatusDetails"] for each in commands.invocations(SCOPE, command, None, False)}


def test_an_invocation_goes_from_pending_through_in_progress_to_success(commands: RunCommand, clock: Clock) -> None:
    command = send(commands, "i-1")
    seen = [commands.invocation(SCOPE, command, "i-1")]
    assert commands.next("i-1", 0).id == command  # type: ignore[union-attr]
    seen.append(commands.invocation(SCOPE, command, "i-1"))
    clock.now += 1.5
    commands.report(command, "i-1", "Success", 0, "out", "err")
    seen.append(commands.invocation(SCOPE, command, "i-1"))
    assert [each["Status"] for each in seen] == ["Pending", "InProgress", "Success"]
    assert [each["ResponseCode"] for each in seen] == [-1, -1, 0]
    assert seen[2]["StandardOutputContent"] == "out"
    assert seen[2]["StandardErrorContent"] == "err"
    assert seen[2]["ExecutionElapsedTime"] == "PT1.500S"
    assert seen[2]["PluginName"] == "run"


def test_an_agent_gets_a_command_once_and_in_the_order_of_sending(commands: RunCommand) -> None:
    first, second = send(commands, "i-1"), send(commands, "i-1")
    assert [commands.next("i-1", 0).id for _ in range(2)] == [first, second]  # type: ignore[union-attr]
    assert commands.next("i-1", 0) is None


def test_an_agent_gets_only_commands_for_its_instance(commands: RunCommand) -> None:
    send(commands, "i-1")
    assert commands.next("i-2", 0) is None


def test_a_waiting_agent_gets_a_command_as_soon_as_it_is_sent() -> None:
    commands = RunCommand()
    got: list[tuple[str, float]] = []

    def agent() -> None:
        command = commands.next("i-1", 10)
        assert command is not None
        got.append((command.id, time.monotonic()))

    thread = threading.Thread(target=agent)
    thread.start()
    time.sleep(0.1)
    sent = time.monotonic()
    command = send(commands, "i-1")
    thread.join(timeout=5)
    [(received, at)] = got
    assert received == command
    assert at - sent < 1


def test_a_command_is_not_given_to_an_agent_that_is_gone() -> None:
    commands, died = RunCommand(), threading.Event()
    dead: list[object] = []
    thread = threading.Thread(target=lambda: dead.append(commands.next("i-1", 10, gone=died.is_set)))
    thread.start()
    died.set()
    command = send(commands, "i-1")
    thread.join(timeout=5)
    assert dead == [None]
    assert commands.next("i-1", 0).id == command  # type: ignore[union-attr]


def test_the_agent_gets_defaults_but_the_command_shows_only_the_given_parameters(commands: RunCommand) -> None:
    command = commands.send(SCOPE, "sync-models", DOCUMENT, instance_ids=["i-1"])
    assert command.parameters == {"action": ["status"]}
    assert command.describe()["Parameters"] == {}


@pytest.mark.parametrize(
    ("rule", "given"),
    [
        pytest.param({"type": "String", "allowedValues": ["sync"]}, {"p": ["rm -rf /"]}, id="not an allowed value"),
        pytest.param({"type": "String", "allowedPattern": "^[a-z]+$"}, {"p": ["A"]}, id="not the allowed pattern"),
        pytest.param({"type": "String"}, {"p": ["a", "b"]}, id="two values for a String"),
        pytest.param({"type": "String"}, {}, id="missing without a default"),
        pytest.param({"type": "String"}, {"p": ["a"], "q": ["b"]}, id="not declared"),
    ],
)
def test_parameters_that_the_document_does_not_allow_are_refused(rule: dict[str, Any], given: Any) -> None:
    with pytest.raises(RefusedError) as refused:
        checked_parameters({"parameters": {"p": rule}}, given)
    assert refused.value.code == "InvalidParameters"


def test_more_than_50_instance_ids_are_refused_but_not_more_than_50_targets(commands: RunCommand) -> None:
    instances = [f"i-{n}" for n in range(51)]
    with pytest.raises(RefusedError, match="at most 50"):
        commands.send(SCOPE, "sync-models", DOCUMENT, instance_ids=instances)
    assert len(commands.send(SCOPE, "sync-models", DOCUMENT, targeted=instances).invocations) == 51


def test_long_output_is_cut_where_aws_cuts_it(commands: RunCommand) -> None:
    command = send(commands, "i-1")
    commands.next("i-1", 0)
    commands.report(command, "i-1", "Failed", 1, "o" * 30_000, "e" * 30_000)
    answer = commands.invocation(SCOPE, command, "i-1")
    [listed] = commands.invocations(SCOPE, command, None, True)
    assert len(answer["StandardOutputContent"]) == STDOUT_LIMIT == 24_000
    assert len(answer["StandardErrorContent"]) == STDERR_LIMIT == 8_000
    assert len(listed["CommandPlugins"][0]["Output"]) == PLUGIN_OUTPUT_LIMIT == 2_500
    assert answer["StandardOutputContent"].endswith("---Output truncated---")


def test_the_plugin_output_joins_both_streams(commands: RunCommand) -> None:
    command = send(commands, "i-1")
    commands.next("i-1", 0)
    commands.report(command, "i-1", "Failed", 3, "out", "err")
    [listed] = commands.invocations(SCOPE, command, "i-1", True)
    [plugin] = listed["CommandPlugins"]
    assert plugin["Output"] == "out\n----------ERROR-------\nerr"
    assert plugin["ResponseCode"] == 3
    assert commands.invocations(SCOPE, command, "i-1", False)[0]["CommandPlugins"] == []


def test_the_first_error_ends_a_command_with_max_errors_0(commands: RunCommand) -> None:
    command = send(commands, "i-1", "i-2", max_errors="0", max_concurrency="1")
    commands.next("i-1", 0)
    commands.report(command, "i-1", "Failed", 1, "", "")
    assert states(commands, command) == {"i-1": "Failed", "i-2": "Terminated"}
    assert commands.next("i-2", 0) is None
    assert commands.commands(SCOPE, command)[0].status() == ("Failed", "Failed")


def test_a_command_with_max_errors_100_percent_reaches_every_instance(commands: RunCommand) -> None:
    command = send(commands, "i-1", "i-2", max_concurrency="1")
    commands.next("i-1", 0)
    commands.report(command, "i-1", "Failed", 1, "", "")
    assert commands.next("i-2", 0) is not None
    commands.report(command, "i-2", "Success", 0, "", "")
    assert states(commands, command) == {"i-1": "Failed", "i-2": "Success"}
    assert commands.commands(SCOPE, command)[0].status() == ("Failed", "Incomplete")


def test_no_more_instances_run_at_once_than_max_concurrency(commands: RunCommand) -> None:
    command = send(commands, "i-1", "i-2", "i-3", max_concurrency="2")
    assert [commands.next(instance, 0) is not None for instance in ("i-1", "i-2", "i-3")] == [True, True, False]
    commands.report(command, "i-1", "Success", 0, "", "")
    assert commands.next("i-3", 0) is not None


def test_a_command_that_no_agent_fetches_times_out_after_its_timeout(commands: RunCommand, clock: Clock) -> None:
    command = send(commands, "i-1", timeout=600)
    clock.now += 601
    assert states(commands, command) == {"i-1": "DeliveryTimedOut"}
    assert commands.next("i-1", 0) is None
    assert commands.commands(SCOPE, command)[0].status() == ("TimedOut", "DeliveryTimedOut")


def test_a_command_whose_agent_died_times_out_after_the_steps_timeout(commands: RunCommand, clock: Clock) -> None:
    command = send(commands, "i-1")
    commands.next("i-1", 0)
    clock.now += 121
    assert states(commands, command) == {"i-1": "ExecutionTimedOut"}
    with pytest.raises(RefusedError) as refused:
        commands.report(command, "i-1", "Success", 0, "too late", "")
    assert refused.value.code == "InvocationDoesNotExist"


def test_a_result_counts_once(commands: RunCommand) -> None:
    command = send(commands, "i-1")
    commands.next("i-1", 0)
    commands.report(command, "i-1", "Success", 0, "first", "")
    with pytest.raises(RefusedError):
        commands.report(command, "i-1", "Failed", 1, "second", "")
    assert commands.invocation(SCOPE, command, "i-1")["StandardOutputContent"] == "first"


def test_a_command_without_targets_is_accepted_and_reported_as_such(commands: RunCommand) -> None:
    command = send(commands)
    assert commands.commands(SCOPE, command)[0].describe()["StatusDetails"] == "NoInstancesInTag"


def test_commands_of_another_account_or_region_are_not_shown(commands: RunCommand) -> None:
    command = send(commands, "i-1")
    elsewhere = ("123456789012", "eu-west-1")
    assert commands.commands(elsewhere) == []
    with pytest.raises(RefusedError) as refused:
        commands.invocation(elsewhere, command, "i-1")
    assert refused.value.code == "InvocationDoesNotExist"


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("3", 3), ("100%", 7), ("50%", 4), ("0%", 0)])
def test_limits_are_numbers_or_percentages_rounded_up(text: str, expected: int) -> None:
    assert limit_of(text, 7) == expected


def test_many_threads_lose_no_command_and_fetch_none_twice() -> None:
    commands = RunCommand()
    fetched: list[str] = []

    def agent() -> None:
        while (command := commands.next("i-1", 0.5)) is not None:
            fetched.append(command.id)
            commands.report(command.id, "i-1", "Success", 0, "", "")

    agents = [threading.Thread(target=agent) for _ in range(8)]
    for thread in agents:
        thread.start()
    sent = [send(commands, "i-1") for _ in range(200)]
    for thread in agents:
        thread.join(timeout=20)
    assert sorted(fetched) == sorted(sent)
