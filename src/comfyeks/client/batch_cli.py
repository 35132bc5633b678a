"""`comfyeks batch`: one workflow, many rows of parameters."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from comfyeks import workflow as workflows
from comfyeks.client.batch import Batch, Outcome, open_journal, read_items
from comfyeks.client.cli import print_json
from comfyeks.client.comfy_client import ComfyClient
from comfyeks.client.options import Namespace, PortForward, Target, Url, server
from comfyeks.console import err, note
from comfyeks.errors import OperationError, UserError
from comfyeks.signals import exit_code, termination_as_interrupt


def batch(
    workflow: Annotated[Path, typer.Argument(metavar="WORKFLOW.json", help="Workflow in API format (Export (API)).")],
    rows: Annotated[
        Path, typer.Argument(metavar="ROWS.csv|ROWS.jsonl", help="One run per row; columns NODE.INPUT, seed, id.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for results (DIR/<id>) and the journal of finished rows.")
    ],
    url: Url = None,
    forward: PortForward = False,
    namespace: Namespace = "comfyui",
    target: Target = "deploy/comfyui",
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Number of rows that run at the same time.")] = 4,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Time limit of one row.", min=0.1)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome of each row as one JSON object per line.")
    ] = False,
) -> None:
    """Run a workflow once for each row of a table.

    May be repeated after an interruption, a kill or a failure: finished rows are skipped, jobs that the server still
    has are waited for, the rest is submitted. Prints the paths of new results.
    """
    if not rows.is_file():
        raise UserError(f"{rows}: there is no such file")
    items = read_items(rows, workflows.load(workflow))
    unfinished: list[Outcome] = []
    bar = Progress(
        TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err,
        disable=not err.is_terminal,
    )  # fmt: skip
    try:
        with termination_as_interrupt(), server(url, forward, namespace, target) as address, bar:
            task = bar.add_task("rows", total=len(items))
            with open_journal(out, items) as journal:
                runner = Batch(items, out, lambda: ComfyClient(address), timeout=timeout)
                for outcome in runner.run(journal, jobs):
                    bar.advance(task)
                    _print_outcome(outcome, out, as_json)
                    if outcome.status != "completed":
                        unfinished.append(outcome)
    except KeyboardInterrupt as signalled:
        note("interrupted; submitted jobs were cancelled. Run the same command again to resume")
        raise typer.Exit(exit_code(signalled)) from None
    if unfinished:
        raise OperationError(
            f"{len(unfinished)} of {len(items)} rows are not done; run the same command again to retry them"
        )


def _print_outcome(outcome: Outcome, out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"event": "row", **asdict(outcome), "files": [str(out / file) for file in outcome.files]})
    elif outcome.status != "completed":
        note(f"row {outcome.id} {outcome.status}: {outcome.error}")
    elif not outcome.before:
        sys.stdout.write("".join(f"{out / file}\n" for file in outcome.files))
        sys.stdout.flush()
