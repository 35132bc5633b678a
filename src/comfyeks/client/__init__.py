"""Run ComfyUI workflows from a program: `ComfyClient`, `workflow.load`, and the errors that can come of it."""

from comfyeks.client.comfy_client import ComfyClient
from comfyeks.client.errors import (
    ClientError,
    ExecutionFailed,
    Interrupted,
    JobLost,
    Rejected,
    ResultMissing,
    Stopped,
    TimedOut,
    Unreachable,
)
from comfyeks.client.progress import Job, Progress
from comfyeks.client.results import OutputData, OutputFile, Result, SavedFile

__all__ = [
    "ClientError",
    "ComfyClient",
    "ExecutionFailed",
    "Interrupted",
    "Job",
    "JobLost",
    "OutputData",
    "OutputFile",
    "Progress",
    "Rejected",
    "Result",
    "ResultMissing",
    "SavedFile",
    "Stopped",
    "TimedOut",
    "Unreachable",
]
