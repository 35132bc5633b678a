"""Runs one workflow many times: one run per row of parameters, one folder of results per row.

Every row is submitted once. Its job id and its server are written to a journal before it is sent, so that a later run
asks that server for the job instead of submitting it again. The folder `<out>/<id>` appears when all results of a row
are saved.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from comfyeks import workflow as workflows
from comfyeks.client.comfy_client import ComfyClient
from comfyeks.client.errors import (
    ClientError,
    JobInterruptedError,
    JobLostError,
    MissingResultError,
    StoppedError,
    UnreachableError,
)
from comfyeks.client.results import Result
from comfyeks.errors import ComfyeksError, UserError
from comfyeks.workflow import Upload, Workflow

JOURNAL = "batch.jsonl"
_RECONNECT_SECONDS = 120.0  # for a server that restarts
_SUBMISSIONS = 3  # of one row: a server that restarts forgets its jobs, and they did not run
# Statuses of rows whose job may be on the server; a cancelled one may have finished just before.
_MAYBE_SUBMITTED = ("submitting", "unreachable", "cancelled")
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Item:
    """One row: its graph and the files to upload for it. Two rows with the same `digest` are the same job."""

    id: str
    graph: Workflow
    uploads: tuple[Upload, ...]

    @property
    def digest(self) -> str:
        files = [hashlib.sha256(upload.path.read_bytes()).hexdigest() for upload in self.uploads]
        return hashlib.sha256(json.dumps([self.graph, files], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """How a row ended: "completed" (`files` below `out`), "failed", "cancelled", or "unreachable" (not known yet)."""

    id: str
    status: str
    files: tuple[str, ...] = ()
    error: str = ""
    before: bool = False  # completed by an earlier run


def read_items(rows: Path, workflow: Workflow) -> list[Item]:
    """The rows of a .csv or .jsonl file, applied to a workflow.

    Columns are NODE.INPUT (by id or title), `seed` (for every seed input that is not a link) and `id` (names the row's
    results; default: the row's number). An empty cell keeps the workflow's value. `@FILE` uploads a file, relative to
    the folder of the rows' file.

    Raises UserError naming file and line.
    """
    items: list[Item] = []
    lines: dict[str, int] = {}
    for number, (line, row) in enumerate(_rows(rows), 1):
        where = f"{rows}:{line}"
        name = str(row.pop("id", None) or f"{number:04}")
        if not _ID.fullmatch(name):
            raise UserError(f"{where}: id {name!r} must be letters, digits, '.', '-' and '_', and not begin with '.'")
        if name in lines:
            raise UserError(f"{where}: id {name!r} is already used in line {lines[name]}")
        lines[name] = line
        try:
            items.append(_item(name, row, workflow, rows.parent))
        except UserError as error:
            raise UserError(f"{where}: {str(error).removeprefix('--set ').removeprefix('--')}") from None
    if not items:
        raise UserError(f"{rows}: has no rows")
    return items


def _item(name: str, row: dict[str, Any], workflow: Workflow, folder: Path) -> Item:
    graph = workflow
    seed = row.pop("seed", None)
    if seed not in (None, ""):
        try:
            graph = workflows.with_seed(graph, int(seed))
        except ValueError:
            raise UserError(f"seed {seed!r} must be a whole number") from None
    assignments = [
        f"{column}={value if isinstance(value, str) else json.dumps(value)}"
        for column, value in row.items()
        if value not in (None, "")
    ]
    graph, uploads = workflows.with_assignments(graph, assignments, folder)
    return Item(name, graph, tuple(uploads))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and content of each row of a file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}:{number}: is not JSON: {error.msg}") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}:{number}: must be a JSON object of NODE.INPUT and values")
                yield number, row
    elif path.suffix == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True))
        for record in reader:
            if None in record or None in record.values():
                raise UserError(f"{path}:{reader.line_num}: must have as many cells as the first line has columns")
            yield reader.line_num, dict(record)
    else:
        raise UserError(f"{path}: must be a .csv or a .jsonl file")


class Journal:
    """The last known status of each row. A status is on the disk before the step that it announces happens."""

    def __init__(self, stream: IO[str], records: dict[str, dict[str, Any]]) -> None:
        self._stream = stream
        self._records = records
        self._lock = threading.Lock()

    def last(self, item_id: str) -> dict[str, Any]:
        return self._records.get(item_id, {})

    def write(self, item_id: str, status: str, **facts: Any) -> None:
        record = {"id": item_id, "status": status, **facts}
        with self._lock:
            self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._records[item_id] = record


@contextmanager
def open_journal(out: Path, items: list[Item]) -> Iterator[Journal]:
    """Open the journal of a folder for this process alone.

    Raises UserError when another process uses it, or when it has other parameters under the id of one of `items`.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / JOURNAL
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"--out {out}: another batch is running in this folder") from None
        stream.seek(0)
        records: dict[str, dict[str, Any]] = {}
        for line in stream:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # an incomplete line, from a killed run
                record = json.loads(line)
                records[record["id"]] = record
            if not line.endswith("\n"):
                stream.write("\n")
        for item in items:
            if records.get(item.id, {}).get("digest", item.digest) != item.digest:
                raise UserError(
                    f"--out {out}: row {item.id} had other parameters when it was run there; choose another folder"
                )
        yield Journal(stream, records)


class Batch:
    """Runs rows in parallel. Each worker has its own client, which a load balancer may bind to its own server."""

    def __init__(
        self, items: list[Item], out: Path, make_client: Callable[[], ComfyClient], *, timeout: float | None = None
    ) -> None:
        self._items = items
        self._out = out
        self._make_client = make_client
        self._timeout = timeout
        self._stop = threading.Event()
        self._local = threading.local()

    def run(self, journal: Journal, jobs: int) -> Iterator[Outcome]:
        """Yield the outcome of each row as it ends, `jobs` at a time. Stopping early cancels submitted jobs."""
        pool = ThreadPoolExecutor(jobs, thread_name_prefix="batch")
        try:
            futures = [pool.submit(self._run_item, item, journal) for item in self._items]
            for future in as_completed(futures):
                yield future.result()
        finally:
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _run_item(self, item: Item, journal: Journal) -> Outcome:
        known = journal.last(item.id)
        if known.get("status") == "completed" and (self._out / item.id).is_dir():
            return Outcome(item.id, "completed", tuple(known["files"]), before=True)
        facts: dict[str, Any] = {"digest": item.digest}
        try:
            files = self._resume(item, known) or self._submit(item, journal, facts)
        except StoppedError as stopped:
            outcome = Outcome(item.id, "cancelled", error="; ".join(getattr(stopped, "__notes__", [])))
        except UnreachableError as error:
            outcome = Outcome(item.id, "unreachable", error=str(error))
        except ComfyeksError as error:
            outcome = Outcome(item.id, "failed", error=str(error))
        else:
            outcome = Outcome(item.id, "completed", files)
        if outcome.status in _MAYBE_SUBMITTED:
            facts |= {key: value for key, value in journal.last(item.id).items() if key in ("prompt_id", "binding")}
        if outcome.files:
            facts["files"] = outcome.files
        if outcome.error:
            facts["error"] = outcome.error
        journal.write(item.id, outcome.status, **facts)
        return outcome

    def _resume(self, item: Item, known: dict[str, Any]) -> tuple[str, ...] | None:
        """The files of the job that an earlier run submitted; None when there is no such job, or no server knows it."""
        if known.get("status") not in _MAYBE_SUBMITTED or "prompt_id" not in known:
            return None
        client = self._make_client()
        client.binding = known.get("binding", {})
        try:
            return self._follow(client, known["prompt_id"], item)
        except JobInterruptedError:  # the earlier run cancelled it
            return None

    def _follow(self, client: ComfyClient, prompt_id: str, item: Item) -> tuple[str, ...] | None:
        self._connect(client)
        try:
            result = client.follow(prompt_id, item.graph, timeout=self._timeout, stop=self._stop)
            return self._save(client, result, item)
        except (JobLostError, MissingResultError):
            return None

    def _submit(self, item: Item, journal: Journal, facts: dict[str, Any]) -> tuple[str, ...]:
        for attempt in range(1, _SUBMISSIONS + 1):
            client = self._client()
            self._connect(client)
            graph = workflows.with_uploads(item.graph, item.uploads, client.upload)
            prompt_id = str(uuid.uuid4())
            journal.write(item.id, "submitting", **facts, prompt_id=prompt_id, binding=client.binding)
            try:
                result = client.run(graph, prompt_id=prompt_id, timeout=self._timeout, stop=self._stop)
                return self._save(client, result, item)
            except JobLostError:
                if attempt == _SUBMISSIONS:
                    raise
            except UnreachableError:
                # Whether it has the job is unknown: wait until it answers, and only then submit again.
                if (files := self._follow(client, prompt_id, item)) is not None:
                    return files
                if attempt == _SUBMISSIONS:
                    raise
        raise AssertionError

    def _connect(self, client: ComfyClient) -> None:
        """Wait for a server that may be restarting. Raises UnreachableError when it does not answer in time."""
        deadline = time.monotonic() + _RECONNECT_SECONDS
        while not self._stop.is_set():
            try:
                return client.connect()
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
            self._stop.wait(1)
        raise StoppedError("stopped")

    def _client(self) -> ComfyClient:
        """The client of the calling worker."""
        if not hasattr(self._local, "client"):
            self._local.client = self._make_client()
        client: ComfyClient = self._local.client
        return client

    def _save(self, client: ComfyClient, result: Result, item: Item) -> tuple[str, ...]:
        """Save all results, then put the row's folder in place; return the paths below `out`.

        A folder that a killed run left there is replaced.
        """
        partial, final = self._out / f".{item.id}.partial", self._out / item.id
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        saved = client.save(result, partial, item.graph)
        if not saved:
            raise ClientError("the workflow has no results to save")
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        return tuple(f"{item.id}/{file.path.relative_to(partial)}" for file in saved)
