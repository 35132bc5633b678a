"""The errors of running a workflow.

ClientError               exit code 1
├── UnreachableError      no answer from the server, or no ComfyUI behind the address
├── RejectedError         the server refused the workflow, wholly or some of its outputs
├── ExecutionError        a node raised an error
├── JobInterruptedError   somebody else cancelled the job
├── JobLostError          the server no longer knows the job: it restarted, or the job was deleted from its queue
├── MissingResultError    the job succeeded, a file it names is not there
└── JobTimeoutError       the time limit passed; the job was cancelled        exit code 124

`status` is how `comfyeks run --json` names the error; programs compare it, so it does not change.
"""

from __future__ import annotations

from typing import Any

from comfyeks.errors import OperationError


class ClientError(OperationError):
    status = "ClientError"


class UnreachableError(ClientError):
    status = "Unreachable"


class RejectedError(ClientError):
    """`node_errors` as the server sent it: {node id: {"errors": [{"type", "message", "details", …}], "class_type"}}."""

    status = "Rejected"

    def __init__(self, message: str, node_errors: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.node_errors = node_errors or {}


class ExecutionError(ClientError):
    """`details` is the server's execution_error: exception_type, exception_message, traceback, node_id and others."""

    status = "ExecutionFailed"

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}


class JobInterruptedError(ClientError):
    status = "Interrupted"


class JobLostError(ClientError):
    status = "JobLost"


class MissingResultError(ClientError):
    status = "ResultMissing"


class StoppedError(Exception):
    """The caller set `stop`; the job was cancelled on the server. A note on the exception says whether that worked."""


class JobTimeoutError(ClientError):
    """`problem` is what prevented an answer when time was up, "" when the job only took too long."""

    exit_code = 124
    status = "TimedOut"

    def __init__(self, message: str, problem: str = "") -> None:
        super().__init__(message)
        self.problem = problem
