"""What can go wrong between a workflow and its result.

ClientError               exit code 1
├── UnreachableError      no answer from the server, or no ComfyUI behind the address
├── RejectedError         the server refused the workflow, wholly or some of its outputs
├── ExecutionError        a node raised an error
├── JobInterruptedError   somebody else cancelled the job
├── JobLostError          the server no longer knows the job: it restarted, or the job was deleted from its queue
├── MissingResultError    the job succeeded, a file it names is not there
└── JobTimeoutError       the time limit passed; the job was cancelled        exit code 124
"""

from __future__ import annotations

from typing import Any

from comfyeks.errors import OperationError


class ClientError(OperationError):
    pass


class UnreachableError(ClientError):
    pass


class RejectedError(ClientError):
    """`node_errors` is the server's own: {node id: {"errors": [{"type", "message", "details", …}], "class_type"}}."""

    def __init__(self, message: str, node_errors: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.node_errors = node_errors or {}


class ExecutionError(ClientError):
    """`details` is the server's execution_error: exception_type, exception_message, traceback, node_id, …"""

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}


class JobInterruptedError(ClientError):
    pass


class JobLostError(ClientError):
    pass


class MissingResultError(ClientError):
    pass


class StoppedError(Exception):
    """The caller's `stop` was set; the job was cancelled on the server. A note on it says how that went."""


class JobTimeoutError(ClientError):
    """`problem` is what stood in the way of an answer when time was up, "" when the job merely took too long."""

    exit_code = 124

    def __init__(self, message: str, problem: str = "") -> None:
        super().__init__(message)
        self.problem = problem
