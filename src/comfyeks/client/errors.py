"""What can go wrong between a workflow and its result.

ClientError              exit code 1
├── Unreachable          no answer from the server, or no ComfyUI behind the address
├── Rejected             the server refused the workflow, wholly or some of its outputs
├── ExecutionFailed      a node raised an error
├── Interrupted          somebody else cancelled the job
├── JobLost              the server no longer knows the job: it restarted, or the job was deleted from its queue
├── ResultMissing        the job succeeded, a file it names is not there
└── TimedOut             the time limit passed; the job was cancelled        exit code 124
"""

from __future__ import annotations

from typing import Any

from comfyeks.errors import Failure


class ClientError(Failure):
    pass


class Unreachable(ClientError):
    pass


class Rejected(ClientError):
    """`node_errors` is the server's own: {node id: {"errors": [{"type", "message", "details", …}], "class_type"}}."""

    def __init__(self, message: str, node_errors: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.node_errors = node_errors or {}


class ExecutionFailed(ClientError):
    """`details` is the server's execution_error: exception_type, exception_message, traceback, node_id, …"""

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}


class Interrupted(ClientError):
    pass


class JobLost(ClientError):
    pass


class ResultMissing(ClientError):
    pass


class Stopped(Exception):
    """The caller's `stop` was set; the job was cancelled on the server. A note on it says how that went."""


class TimedOut(ClientError):
    """`problem` is what stood in the way of an answer when time was up, "" when the job merely took too long."""

    exit_code = 124

    def __init__(self, message: str, problem: str = "") -> None:
        super().__init__(message)
        self.problem = problem
