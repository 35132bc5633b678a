"""Run ComfyUI workflows from a program: `ComfyClient`, `workflow.load`, and the errors that can come of it."""

from comfyeks.client.comfy_client import ComfyClient
from comfyeks.client.errors import (
    ClientError,
    ExecutionError,
    JobInterruptedError,
    JobLostError,
    JobTimeoutError,
    MissingResultError,
    RejectedError,
    StoppedError,
    UnreachableError,
)
from comfyeks.client.progress import Job, Progress
from comfyeks.client.results import OutputData, OutputFile, Result, SavedFile

__all__ = [
    "ClientError",
    "ComfyClient",
    "ExecutionError",
    "Job",
    "JobInterruptedError",
    "JobLostError",
    "JobTimeoutError",
    "MissingResultError",
    "OutputData",
    "OutputFile",
    "Progress",
    "RejectedError",
    "Result",
    "SavedFile",
    "StoppedError",
    "UnreachableError",
]
