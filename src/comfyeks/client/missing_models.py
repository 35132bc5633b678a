"""When the server rejects a workflow because a model is missing: find it in the catalogue and offer to pull it."""

from __future__ import annotations

import sys
import time

import typer
from rich.filesize import decimal

from comfyeks.client.comfy_client import ComfyClient
from comfyeks.client.errors import JobTimeoutError, RejectedError
from comfyeks.console import note
from comfyeks.models import catalogue, pull_command
from comfyeks.models.catalogue import Entry
from comfyeks.models.references import references
from comfyeks.workflow import Workflow

_APPEAR_SECONDS = 3600.0  # for a node to fetch what is in the bucket


def missing_models(rejected: RejectedError, workflow: Workflow) -> list[Entry]:
    """The catalogue's entries for the models that the server lacks; none when the workflow has other errors too."""
    refused = {
        (node_id, str((problem.get("extra_info") or {}).get("input_name")))
        for node_id, entry in rejected.node_errors.items()
        for problem in entry.get("errors", [])
    }
    known = catalogue.load()
    named = {(found.node_id, found.input): known.at(found.key) for found in references(workflow)}
    entries = {entry.id: entry for place in refused if (entry := named.get(place)) is not None}
    return list(entries.values()) if all(named.get(place) is not None for place in refused) else []


def pull_missing(
    client: ComfyClient,
    rejected: RejectedError,
    workflow: Workflow,
    answer: bool | None,
    project: str | None,
    region: str | None,
) -> None:
    """Pull the missing models if `answer` or the person at the terminal agrees; wait until the server lists them.

    Otherwise raises `rejected`, with the command that pulls them.
    """
    entries = missing_models(rejected, workflow)
    if not entries:
        raise rejected
    names = " ".join(entry.id for entry in entries)
    size = sum(entry.size or 0 for entry in entries)
    if answer is None and sys.stdin.isatty():
        note(str(rejected))
        answer = typer.confirm(f"Pull {names} ({decimal(size)}) into the models bucket now?", err=True)
    if not answer:
        raise RejectedError(f"{rejected}. 'comfyeks models pull {names}' gets it", rejected.node_errors)
    wanted = [pull_command.from_entry(entry) for entry in entries]
    pull_command.run(catalogue.load(), wanted, bucket=None, project=project, region=region)
    note("pulled into the bucket; waiting until the server's node has it")
    deadline = time.monotonic() + _APPEAR_SECONDS
    while absent := [entry.key for entry in entries if entry.file not in client.model_files(entry.folder)]:
        if time.monotonic() > deadline:
            raise JobTimeoutError(
                f"not on the server after {_APPEAR_SECONDS:g} s: {', '.join(absent)}; see 'comfyeks models status'"
            )
        time.sleep(2)
