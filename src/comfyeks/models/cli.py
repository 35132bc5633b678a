"""`comfyeks models`: pull, add, ls, rm, status, verify, catalogue."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import boto3
import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from comfyeks import deployment
from comfyeks.console import note, plain
from comfyeks.errors import OperationError, UserError
from comfyeks.models import catalogue, checks, layout, pull_command, status
from comfyeks.models.store import ModelStore, open_store, target_key
from comfyeks.models.transfer import CONNECTIONS
from comfyeks.models.transfer_bars import transfer_bars
from comfyeks.options import Project, Region
from comfyeks.signals import exit_code, termination_as_interrupt

app = typer.Typer(
    help="Manage the models bucket and show which models the GPU nodes have.",
    no_args_is_help=True,
)

_UNLIMITED = 4096

AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Accept .ckpt, .pt, .pth and .bin, formats that can run code when loaded."),
]
BucketOption = Annotated[
    str | None, typer.Option("--bucket", help="Bucket to use instead of the deployment's models bucket.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def pull(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="ID|GROUP|WORKFLOW.json|URL...", help="Ids and groups of the catalogue, workflow files, or URLs."
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="FOLDER[/SUB]", help="For a URL: folder below models/ that the loader reads."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="For a URL: file name, if not the server's.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="For a URL: SHA-256 that the file must have.")
    ] = None,
    allow_pickle: AllowPickle = False,
    force: Annotated[bool, typer.Option("--force", help="Replace models that exist.")] = False,
    connections: Annotated[
        int, typer.Option(min=1, max=64, help="Number of parallel connections per file.")
    ] = CONNECTIONS,
    bucket: BucketOption = None,
    project: Project = None,
    region: Region = None,
) -> None:
    """Copy models from their publishers into the bucket; every GPU node then fetches them. Prints the keys.

    Nothing is stored on this machine, and a wrong file never reaches the bucket. May be repeated: an interrupted pull
    resumes. Tokens for gated models: HF_TOKEN, CIVITAI_TOKEN, or the secret <deployment>-model-tokens.
    """
    known = catalogue.load()
    wanted = pull_command.plan(known, what, to=to, name=name, sha256=sha256, allow_pickle=allow_pickle)
    try:
        with termination_as_interrupt():
            pull_command.run(
                known,
                wanted,
                bucket=bucket,
                project=project,
                region=region,
                force=force,
                connections=connections,
                on_key=lambda key: sys.stdout.write(f"{key}\n"),
            )
    except KeyboardInterrupt as signalled:
        raise typer.Exit(exit_code(signalled)) from None


@app.command("catalogue")
def show_catalogue(as_json: JsonOption = False) -> None:
    """List the catalogue of models that can be pulled: ids, groups, keys, sizes, licences."""
    entries = catalogue.load().entries
    if as_json:
        _print_json([asdict(entry) for entry in entries])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("id", "groups", "key", "size", "licence", ""):
        table.add_column(column, overflow="fold")
    for entry in entries:
        size = decimal(entry.size) if entry.size is not None else "unknown"
        remark = "gated: needs a token" if entry.gated else ""
        table.add_row(entry.id, ", ".join(entry.groups), plain(entry.key), size, entry.licence, remark)
    _print_table(table)


@app.command()
def add(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Model files on this machine.")],
    to: Annotated[
        str, typer.Option("--to", metavar="FOLDER[/SUB]", help="Folder below models/ that the loader reads.")
    ],
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Name in the bucket, if not the file's own.")
    ] = None,
    allow_pickle: AllowPickle = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace models that exist; accept a file that differs from the catalogue's."),
    ] = False,
    bucket: BucketOption = None,
    project: Project = None,
    region: Region = None,
) -> None:
    """Upload model files; every GPU node then fetches them. Nothing is replaced without --force. Prints the keys.

    Rejects files that are damaged or not of the type of their name. A file in the place of a model of the catalogue
    must have its size and hash.
    """
    if name is not None and len(files) > 1:
        raise UserError(f"--as {name} is for one file, and {len(files)} are given")
    for path in files:
        if not path.is_file():
            raise UserError(
                f"{path}: is a directory; name its files" if path.is_dir() else f"{path}: there is no such file"
            )
    keys = [target_key(path, to, name) for path in files]
    if duplicates := sorted({key for key in keys if keys.count(key) > 1}):
        raise UserError(f"several files would become {', '.join(duplicates)}; upload them one by one, with --as")
    known = catalogue.load()
    for path, key in zip(files, keys, strict=True):
        checks.check_file(path, key, None if force else known.at(key), allow_pickle=allow_pickle)
    store = open_store(bucket, project, region)
    if not force and (present := [key for key in keys if store.size(key) is not None]):
        raise OperationError(
            f"{', '.join(present)} in {store.bucket} already: nothing was uploaded. --force replaces them."
        )
    for notice in sorted({text for key in keys if (text := layout.folder_notice(key)) is not None}):
        note(f"note: {notice}")
    with transfer_bars() as progress:
        for path, key in zip(files, keys, strict=True):
            task = progress.add_task(key, total=path.stat().st_size)
            store.upload(path, key, force=force, on_bytes=partial(progress.advance, task))
            sys.stdout.write(f"{key}\n")


@app.command("ls")
def list_models(
    prefix: Annotated[str, typer.Argument(metavar="[PREFIX]", help="Beginning of the keys to list, e.g. loras/.")] = "",
    as_json: JsonOption = False,
    bucket: BucketOption = None,
    project: Project = None,
    region: Region = None,
) -> None:
    """List the models in the bucket: keys, sizes, ages."""
    models = [model for model in open_store(bucket, project, region).models() if model.key.startswith(prefix)]
    if as_json:
        _print_json(
            [
                {
                    "key": model.key,
                    "bytes": model.size,
                    "modified": model.modified.isoformat(),
                    "ignored": model.ignored,
                }
                for model in models
            ]
        )
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("age", justify="right")
    table.add_column("")
    for model in models:
        remark = f"not on nodes: {model.ignored}" if model.ignored else ""
        table.add_row(plain(model.key), decimal(model.size), _age(model.modified), plain(remark))
    _print_table(table)
    note(f"{len(models)} objects, {decimal(sum(model.size for model in models))}")


@app.command("rm")
def remove(
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Keys, as 'comfyeks models ls' prints them.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    bucket: BucketOption = None,
    project: Project = None,
    region: Region = None,
) -> None:
    """Delete models from the bucket; every GPU node then deletes them too."""
    store = open_store(bucket, project, region)
    sizes = {model.key: model.size for model in store.models()}
    if unknown := [key for key in keys if key not in sizes]:
        raise UserError(
            f"not in {store.bucket}: {', '.join(unknown)}. Nothing was deleted; 'comfyeks models ls' lists the keys."
        )
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("models rm asks before it deletes; without a terminal, pass --yes")
        total = decimal(sum(sizes[key] for key in set(keys)))
        if not typer.confirm(f"Delete {', '.join(keys)} ({total}) from {store.bucket} and all nodes?", err=True):
            raise OperationError("nothing was deleted")
    store.delete(sorted(set(keys)))
    for key in sorted(set(keys)):
        sys.stdout.write(f"{key}\n")


@app.command("status")
def show_status(
    as_json: JsonOption = False,
    wait: Annotated[float, typer.Option(metavar="SECONDS", help="Time to wait for the nodes' answers.")] = 20.0,
    project: Project = None,
    region: Region = None,
) -> None:
    """Show which models each GPU node has. Exit code 1 unless every node is ready and up to date."""
    target = deployment.current(project, region)
    session = boto3.Session(region_name=target.region)
    models = ModelStore(session, target.bucket("models")).models()
    nodes = status.collect(session, target, models, wait)
    if as_json:
        _print_json([node.as_dict() for node in nodes])
    elif not nodes:
        note("no GPU node is running")
    else:
        _print_nodes(nodes)
    if behind := [node.node for node in nodes if not node.converged]:
        raise OperationError(f"not up to date: {', '.join(behind)}")


@app.command("verify")
def verify_models(
    as_json: JsonOption = False,
    wait: Annotated[float, typer.Option(metavar="SECONDS", help="Time to wait for the nodes' answers.")] = 20.0,
    project: Project = None,
    region: Region = None,
) -> None:
    """Make every GPU node read all its models and replace damaged ones. Exit code 1 unless every node answers.

    Prints the id of each node's run; 'comfyeks models status' shows its result.
    """
    target = deployment.current(project, region)
    runs = status.verify(boto3.Session(region_name=target.region), target, wait)
    if as_json:
        _print_json(runs)
    elif not runs:
        note("no GPU node is running")
    else:
        table = Table("node", "run", box=None, pad_edge=False)
        for node, run_id in runs.items():
            table.add_row(node, plain(run_id or "no answer"))
        _print_table(table)
    if silent := [node for node, run_id in runs.items() if run_id is None]:
        raise OperationError(f"no answer: {', '.join(silent)}")


def _print_nodes(nodes: list[status.NodeStatus]) -> None:
    columns = ("node", "type", "zone", "state", "ready", "files", "size", "budget", "missing", "left out", "age")
    table = Table(*columns, "verified", "remark", box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for node in nodes:
        row = (node.node, node.instance_type, node.zone, plain(node.state))
        if node.state == "no answer":
            table.add_row(*row, "no", *("-",) * 7, plain(node.problem or ""))
            continue
        table.add_row(
            *row,
            "yes" if node.ready else "first set" if node.first_ready else "no",
            str(node.files),
            decimal(node.bytes),
            "-" if node.budget_bytes is None else decimal(node.budget_bytes),
            _amount(node.missing_files, node.missing_bytes),
            _amount(node.left_out_count, node.left_out_bytes),
            "-" if node.age is None else _duration(node.age),
            plain(_verified(node.verified)),
            plain(node.problem or ""),
        )
    _print_table(table)


def _amount(files: int, size: int) -> str:
    return f"{files} ({decimal(size)})" if files else "-"


def _verified(report: dict[str, Any] | None) -> str:
    if not report:
        return "-"
    if not report.get("finished"):
        return f"reading, {report.get('files', 0)} so far"
    return f"{report['finished']}: {report.get('files', 0)} read, {report.get('replaced', 0)} replaced"


def _print_table(table: Table) -> None:
    """Print with the width of the terminal; elsewhere one line per row, however long."""
    Console(width=None if sys.stdout.isatty() else _UNLIMITED).print(table)


def _age(moment: datetime) -> str:
    return _duration((datetime.now(UTC) - moment).total_seconds())


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _print_json(data: object) -> None:
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
