"""`comfyeks run`: one workflow, from the file to its results on this disk."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from comfyeks import workflow as workflows
from comfyeks.client.comfy_client import ComfyClient
from comfyeks.client.errors import ClientError, RejectedError
from comfyeks.client.missing_models import pull_missing
from comfyeks.client.options import Namespace, PortForward, Target, Url, server
from comfyeks.client.progress import Progress as JobProgress
from comfyeks.client.results import Result, SavedFile
from comfyeks.console import err, note
from comfyeks.errors import UserError
from comfyeks.options import Project, Region
from comfyeks.signals import exit_code, termination_as_interrupt


def run(
    workflow: Annotated[Path, typer.Argument(metavar="WORKFLOW.json", help="Workflow in API format (Export (API)).")],
    url: Url = None,
    forward: PortForward = False,
    namespace: Namespace = "comfyui",
    target: Target = "deploy/comfyui",
    seed: Annotated[
        int | None, typer.Option(help="Seed for every seed input that holds a number (not a link).")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NODE.INPUT=VALUE",
            help="Set an input of a node, given by id or title; @FILE uploads a file. Repeatable.",
        ),
    ] = None,
    inputs: Annotated[
        list[Path] | None,
        typer.Option("--input", metavar="FILE", help="File to upload; the workflow loads it by this name. Repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for results; nothing is overwritten.")] = Path(
        "output"
    ),
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Time after which the job is cancelled, uploads included; exit code 124."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Open the results with this machine's viewer.")] = False,
    pull: Annotated[
        bool | None,
        typer.Option("--pull/--no-pull", help="Pull models that the server lacks. Default: ask at a terminal."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print events as they happen, one JSON object per line; the last is the outcome."),
    ] = False,
    project: Project = None,
    region: Region = None,
) -> None:
    """Run a workflow and save its results.

    Prints the paths of the saved files. Exit codes: 0 done, 1 failed (with the server's reason), 2 wrong usage,
    124 timed out, 130 interrupted; in the last two cases the job is cancelled on the server.
    """
    if timeout is not None and timeout <= 0:
        raise UserError(f"--timeout {timeout:g}: must be more than 0 seconds")
    graph = workflows.load(workflow)
    if seed is not None:
        graph = workflows.with_seed(graph, seed)
    graph, uploads = workflows.with_assignments(graph, assignments or [], Path())
    for path in inputs or []:
        if not path.is_file():
            raise UserError(f"--input {path}: there is no such file")
        uploads += [workflows.Upload(*place, path) for place in workflows.places_of(graph, path.name)]
    started = time.monotonic()
    saved: list[SavedFile] = []
    try:
        with termination_as_interrupt(), server(url, forward, namespace, target) as address:
            client = ComfyClient(address)

            def submit() -> Result:
                with client.time_limit(timeout), _Display(as_json) as display:
                    ready = workflows.with_uploads(graph, uploads, client.upload)
                    return client.run(ready, on_progress=display.show)

            try:
                result = submit()
            except RejectedError as rejected:
                pull_missing(client, rejected, graph, pull, project, region)
                result = submit()
            saved = client.save(result, out, graph)
    except ClientError as error:
        if as_json:
            print_json({"event": "end", "status": error.status, "error": str(error)})
        raise
    except KeyboardInterrupt as signalled:
        outcome = "; ".join(["interrupted", *getattr(signalled, "__notes__", [])])
        note(outcome)
        if as_json:
            print_json({"event": "end", "status": "Cancelled", "error": outcome})
        raise typer.Exit(exit_code(signalled)) from None
    note(f"done in {time.monotonic() - started:.1f} s{_cached_note(result, graph)}")
    if as_json:
        print_json(_summary(result, saved))
    else:
        for file in saved:
            sys.stdout.write(f"{file.path}\n")
    if not saved:
        note("the workflow has no results to save")
    for file in saved if show else []:
        if typer.launch(str(file.path)) != 0:
            note(f"--show: no program on this machine opens {file.path}")


def _summary(result: Result, saved: list[SavedFile]) -> dict[str, Any]:
    return {
        "event": "end",
        "status": "completed",
        "prompt_id": result.prompt_id,
        "seconds": result.seconds,
        "cached_nodes": list(result.cached),
        "files": [
            {"path": str(file.path), "node": file.node_id, "kind": file.kind, "bytes": file.bytes} for file in saved
        ],
    }


def print_json(data: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _cached_note(result: Result, graph: workflows.Workflow) -> str:
    if len(result.cached) < len(graph):
        return ""
    return ": nothing changed since the last run, the server answered from its cache"


class _Display:
    """Shows progress on stderr: bars on a terminal, else one line per node; with `--json`, events on stdout."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._task: TaskID = self._bars.add_task("queued", total=None)
        self._node_id: str | None = None
        self._line = self._printed = ""

    def __enter__(self) -> _Display:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def show(self, progress: JobProgress) -> None:
        if self._as_json:
            print_json({"event": "progress", **asdict(progress)})
        if progress.state == "queued":
            self._line = f"queued, {progress.queue} on the server" if progress.queue else "queued"
        elif progress.node_id != self._node_id:
            self._node_id = progress.node_id
            self._line = f"node {progress.done + 1} of {progress.total}: {progress.node}"
        elif progress.node_id is None:
            self._line = "running"
        self._bars.update(self._task, description=self._line, completed=progress.value, total=progress.maximum or None)
        if not err.is_terminal and self._line != self._printed:
            note(self._line)
            self._printed = self._line
