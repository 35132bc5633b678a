"""Systems Manager Run Command as an account's API shows it.

What SendCommand accepts, who gets which command, and what the three read operations answer.

moto stores commands and reports each one as a success; an agent cannot fetch one. This module holds the state between
the API (bridged into moto) and the agents of the local nodes (the HTTP channel of
`comfyeks_local.emulators.moto_server`). It depends on neither moto nor HTTP.

An invocation is one command on one instance:

    Pending ──fetched──► InProgress ──result──► Success | Failed | TimedOut
       │                     └──execution timeout──► TimedOut (ExecutionTimedOut)
       ├──delivery timeout──► TimedOut (DeliveryTimedOut)
       └──more errors than MaxErrors──► Cancelled (Terminated)
"""

from __future__ import annotations

import math
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

STDOUT_LIMIT = 24_000  # characters that GetCommandInvocation returns
STDERR_LIMIT = 8_000
PLUGIN_OUTPUT_LIMIT = 2_500  # characters that ListCommandInvocations returns, both streams together
TRUNCATED = "\n---Output truncated---"
ERROR_SEPARATOR = "\n----------ERROR-------\n"

DEFAULT_DELIVERY_TIMEOUT = 3600  # seconds, SendCommand without TimeoutSeconds
DEFAULT_EXECUTION_TIMEOUT = 3600  # seconds, a step without timeoutSeconds
MAX_INSTANCE_IDS = 50  # of one SendCommand; targets have no such limit
REPORTABLE = ("Success", "Failed", "TimedOut")


class RefusedError(Exception):
    """The API rejects a request. `code` is the AWS error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def checked_parameters(document: dict[str, Any], given: dict[str, list[str]]) -> dict[str, list[str]]:
    """The document's parameters with `given` values and defaults filled in; raises RefusedError(InvalidParameters)."""
    declared: dict[str, dict[str, Any]] = document.get("parameters") or {}
    for name in given:
        if name not in declared:
            raise RefusedError("InvalidParameters", f"Parameter {name!r} is not defined in the document.")
    complete: dict[str, list[str]] = {}
    for name, rule in declared.items():
        if name not in given:
            if "default" not in rule:
                raise RefusedError("InvalidParameters", f"Parameter {name!r} is required and has no default value.")
            default = rule["default"]
            complete[name] = [str(value) for value in default] if isinstance(default, list) else [str(default)]
            continue
        values = given[name]
        if rule.get("type", "String") == "String" and len(values) != 1:
            raise RefusedError("InvalidParameters", f"Parameter {name!r} is a String and takes exactly one value.")
        allowed = rule.get("allowedValues")
        pattern = rule.get("allowedPattern")
        for value in values:
            if allowed is not None and value not in allowed:
                raise RefusedError("InvalidParameters", f"Parameter {name!r}: {value!r} is not one of {allowed}.")
            if pattern is not None and not re.search(pattern, value):
                raise RefusedError("InvalidParameters", f"Parameter {name!r}: {value!r} does not match {pattern}.")
        complete[name] = list(values)
    return complete


def limit_of(text: str, targets: int) -> int:
    """MaxConcurrency or MaxErrors ("10" or "10%") as a number of invocations, rounded up as AWS does."""
    return math.ceil(targets * int(text[:-1]) / 100) if text.endswith("%") else int(text)


def truncated(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(TRUNCATED)] + TRUNCATED


def _timestamp(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


@dataclass
class Invocation:
    instance_id: str
    status: str = "Pending"
    details: str = "Pending"
    response_code: int = -1
    stdout: str = ""
    stderr: str = ""
    started: float | None = None
    ended: float | None = None

    @property
    def terminal(self) -> bool:
        return self.status not in ("Pending", "InProgress")

    @property
    def error(self) -> bool:
        """Whether it counts against MaxErrors (a delivery timeout does not)."""
        return self.details in ("Failed", "ExecutionTimedOut")

    def finish(self, status: str, details: str, at: float) -> None:
        self.status, self.details, self.ended = status, details, at


@dataclass
class Command:
    """One SendCommand. `scope` is (account, region)."""

    scope: tuple[str, str]
    document_name: str
    document_version: str
    plugin: str
    parameters: dict[str, list[str]]  # with defaults, as the agent receives them
    given_parameters: dict[str, list[str]]
    instance_ids: Sequence[str]  # as given by the caller, empty for targets
    targets: list[dict[str, Any]]
    comment: str
    timeout: int
    execution_timeout: int
    max_concurrency: str
    max_errors: str
    requested: float
    invocations: dict[str, Invocation]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def errors(self) -> int:
        return sum(invocation.error for invocation in self.invocations.values())

    @property
    def too_many_errors(self) -> bool:
        return self.errors > limit_of(self.max_errors, len(self.invocations))

    def status(self) -> tuple[str, str]:
        """(Status, StatusDetails) of the whole command."""
        invocations = self.invocations.values()
        if not invocations:
            return "Success", "NoInstancesInTag"
        if all(invocation.status == "Pending" for invocation in invocations):
            return "Pending", "Pending"
        if not all(invocation.terminal for invocation in invocations):
            return "InProgress", "InProgress"
        if all(invocation.status == "Success" for invocation in invocations):
            return "Success", "Success"
        if self.too_many_errors:
            timed_out = all(i.details == "ExecutionTimedOut" for i in invocations if i.error)
            return ("TimedOut", "ExecutionTimedOut") if timed_out else ("Failed", "Failed")
        if all(invocation.details == "DeliveryTimedOut" for invocation in invocations):
            return "TimedOut", "DeliveryTimedOut"
        return "Failed", "Incomplete"

    def describe(self) -> dict[str, Any]:
        """The `Command` structure of SendCommand and ListCommands."""
        status, details = self.status()
        requested = datetime.fromtimestamp(self.requested, UTC)
        return {
            "CommandId": self.id,
            "DocumentName": self.document_name,
            "DocumentVersion": self.document_version,
            "Comment": self.comment,
            "ExpiresAfter": requested + timedelta(seconds=self.timeout + self.execution_timeout),
            "Parameters": self.given_parameters,
            "InstanceIds": list(self.instance_ids),
            "Targets": self.targets,
            "RequestedDateTime": requested,
            "Status": status,
            "StatusDetails": details,
            "MaxConcurrency": self.max_concurrency,
            "MaxErrors": self.max_errors,
            "TargetCount": len(self.invocations),
            "CompletedCount": sum(invocation.terminal for invocation in self.invocations.values()),
            "ErrorCount": self.errors,
            "DeliveryTimedOutCount": sum(i.details == "DeliveryTimedOut" for i in self.invocations.values()),
            "TimeoutSeconds": self.timeout,
        }

    def describe_invocation(self, invocation: Invocation) -> dict[str, Any]:
        """The answer of GetCommandInvocation."""
        elapsed = (invocation.ended or 0) - (invocation.started or 0)
        done = invocation.started is not None and invocation.ended is not None
        return {
            "CommandId": self.id,
            "InstanceId": invocation.instance_id,
            "Comment": self.comment,
            "DocumentName": self.document_name,
            "DocumentVersion": self.document_version,
            "PluginName": self.plugin,
            "ResponseCode": invocation.response_code,
            "ExecutionStartDateTime": _timestamp(invocation.started),
            "ExecutionElapsedTime": f"PT{elapsed:.3f}S" if done else "",
            "ExecutionEndDateTime": _timestamp(invocation.ended),
            "Status": invocation.status,
            "StatusDetails": invocation.details,
            "StandardOutputContent": truncated(invocation.stdout, STDOUT_LIMIT),
            "StandardOutputUrl": "",
            "StandardErrorContent": truncated(invocation.stderr, STDERR_LIMIT),
            "StandardErrorUrl": "",
        }

    def list_invocation(self, invocation: Invocation, details: bool) -> dict[str, Any]:
        """One element of ListCommandInvocations; `details` adds the plugin with its output."""
        output = invocation.stdout + (ERROR_SEPARATOR + invocation.stderr if invocation.stderr else "")
        plugin = {
            "Name": self.plugin,
            "Status": invocation.status,
            "StatusDetails": invocation.details,
            "ResponseCode": invocation.response_code,
            "Output": truncated(output, PLUGIN_OUTPUT_LIMIT),
        }
        for name, seconds in (
            ("ResponseStartDateTime", invocation.started),
            ("ResponseFinishDateTime", invocation.ended),
        ):
            if seconds is not None:
                plugin[name] = datetime.fromtimestamp(seconds, UTC)
        return {
            "CommandId": self.id,
            "InstanceId": invocation.instance_id,
            "InstanceName": "",
            "Comment": self.comment,
            "DocumentName": self.document_name,
            "DocumentVersion": self.document_version,
            "RequestedDateTime": datetime.fromtimestamp(self.requested, UTC),
            "Status": invocation.status,
            "StatusDetails": invocation.details,
            "CommandPlugins": [plugin] if details else [],
        }


class RunCommand:
    """All commands of all accounts and regions of one process; safe to use from many threads."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._commands: dict[str, Command] = {}  # in order of sending

    def send(
        self,
        scope: tuple[str, str],
        document_name: str,
        document: dict[str, Any],
        *,
        document_version: str = "$DEFAULT",
        given_parameters: dict[str, list[str]] | None = None,
        instance_ids: Sequence[str] = (),
        targets: Iterable[dict[str, Any]] = (),
        targeted: Iterable[str] = (),
        comment: str = "",
        timeout: int | None = None,
        max_concurrency: str = "50",
        max_errors: str = "0",
    ) -> Command:
        """Accept a command for `instance_ids`, or for `targeted`, the instances that `targets` selected.

        Raises RefusedError for parameters that the document does not allow and for more than 50 instance ids.
        """
        if len(instance_ids) > MAX_INSTANCE_IDS:
            raise RefusedError(
                "ValidationException", f"{len(instance_ids)} instance ids: a command takes at most {MAX_INSTANCE_IDS}."
            )
        given = given_parameters or {}
        steps = document.get("mainSteps") or [{}]
        timeout_text = (steps[0].get("inputs") or {}).get("timeoutSeconds", DEFAULT_EXECUTION_TIMEOUT)
        command = Command(
            scope=scope,
            document_name=document_name,
            document_version=document_version,
            plugin=steps[0].get("name", "aws:runShellScript"),
            parameters=checked_parameters(document, given),
            given_parameters=given,
            instance_ids=instance_ids,
            targets=list(targets),
            comment=comment,
            timeout=timeout or DEFAULT_DELIVERY_TIMEOUT,
            execution_timeout=int(timeout_text) if str(timeout_text).isdigit() else DEFAULT_EXECUTION_TIMEOUT,
            max_concurrency=max_concurrency,
            max_errors=max_errors,
            requested=self._clock(),
            invocations={instance_id: Invocation(instance_id) for instance_id in [*instance_ids, *targeted]},
        )
        with self._changed:
            self._commands[command.id] = command
            self._changed.notify_all()
        return command

    def next(self, instance_id: str, wait: float, gone: Callable[[], bool] = lambda: False) -> Command | None:
        """The oldest command pending for this instance, which is in progress from then on.

        None after `wait` seconds, or as soon as the waiting agent is `gone`: a command that is handed to a dead agent
        would be lost for its successor.
        """
        deadline = time.monotonic() + wait
        with self._changed:
            while not gone():
                if (command := self._take(instance_id)) is not None:
                    return command
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(min(remaining, 1.0))  # wake up to check whether the agent is gone
            return None

    def _take(self, instance_id: str) -> Command | None:
        self._expire()
        for command in self._commands.values():
            invocation = command.invocations.get(instance_id)
            if invocation is None or invocation.status != "Pending":
                continue
            running = sum(i.status == "InProgress" for i in command.invocations.values())
            if running < max(1, limit_of(command.max_concurrency, len(command.invocations))):
                invocation.status = invocation.details = "InProgress"
                invocation.started = self._clock()
                return command
        return None

    def report(
        self, command_id: str, instance_id: str, status: str, response_code: int, stdout: str, stderr: str
    ) -> None:
        """Store the result that an agent reports for a command it fetched.

        Raises RefusedError: ValidationException for a status that agents do not report, InvocationDoesNotExist for a
        command that the instance does not have in progress (never fetched, timed out, or reported before).
        """
        if status not in REPORTABLE:
            raise RefusedError("ValidationException", f"status {status!r} is not one of {', '.join(REPORTABLE)}")
        with self._changed:
            self._expire()
            command = self._commands.get(command_id)
            invocation = command.invocations.get(instance_id) if command else None
            if command is None or invocation is None or invocation.status != "InProgress":
                state = invocation.details if invocation else "unknown"
                raise RefusedError(
                    "InvocationDoesNotExist", f"command {command_id} is not in progress on {instance_id} ({state})"
                )
            invocation.response_code, invocation.stdout, invocation.stderr = response_code, stdout, stderr
            invocation.finish(status, "ExecutionTimedOut" if status == "TimedOut" else status, self._clock())
            self._stop_after_too_many_errors(command)
            self._changed.notify_all()  # MaxConcurrency may let another instance start

    def _stop_after_too_many_errors(self, command: Command) -> None:
        if command.too_many_errors:
            for invocation in command.invocations.values():
                if invocation.status == "Pending":
                    invocation.finish("Cancelled", "Terminated", self._clock())

    def _expire(self) -> None:
        now = self._clock()
        for command in self._commands.values():
            for invocation in command.invocations.values():
                if invocation.status == "Pending" and now > command.requested + command.timeout:
                    invocation.finish("TimedOut", "DeliveryTimedOut", now)
                elif (
                    invocation.status == "InProgress" and now > (invocation.started or now) + command.execution_timeout
                ):
                    invocation.finish("TimedOut", "ExecutionTimedOut", now)
                    self._stop_after_too_many_errors(command)

    def commands(
        self, scope: tuple[str, str], command_id: str | None = None, instance_id: str | None = None
    ) -> list[Command]:
        """Commands of an account and region, newest first. Raises RefusedError(InvalidCommandId) for an unknown id."""
        with self._changed:
            self._expire()
            found = [
                command
                for command in reversed(self._commands.values())
                if command.scope == scope
                and command_id in (None, command.id)
                and (instance_id is None or instance_id in command.invocations)
            ]
        if command_id is not None and not found:
            raise RefusedError(
                "InvalidCommandId", f"The command ID {command_id} does not exist in this account and Region."
            )
        return found

    def invocation(self, scope: tuple[str, str], command_id: str, instance_id: str) -> dict[str, Any]:
        """The answer of GetCommandInvocation; raises RefusedError(InvocationDoesNotExist)."""
        with self._changed:
            self._expire()
            command = self._commands.get(command_id)
            if command is None or command.scope != scope or instance_id not in command.invocations:
                raise RefusedError("InvocationDoesNotExist", f"no invocation of command {command_id} on {instance_id}")
            return command.describe_invocation(command.invocations[instance_id])

    def invocations(
        self, scope: tuple[str, str], command_id: str | None, instance_id: str | None, details: bool
    ) -> list[dict[str, Any]]:
        """The elements of ListCommandInvocations, newest command first."""
        commands = self.commands(scope, command_id, instance_id)
        with self._changed:
            return [
                command.list_invocation(invocation, details)
                for command in commands
                for invocation in command.invocations.values()
                if instance_id in (None, invocation.instance_id)
            ]
