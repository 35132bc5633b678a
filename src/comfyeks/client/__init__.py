"""Run ComfyUI workflows from a program.

Example:
    from comfyeks import workflow
    from comfyeks.client import ComfyClient

    client = ComfyClient("http://127.0.0.1:8848")
    result = client.run(workflow.load(Path("workflows/sdxl-text-to-image.json")), timeout=600)
    client.save(result, Path("output"))
"""

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
