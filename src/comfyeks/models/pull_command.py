"""Pulls models: resolves ids, groups, workflows and URLs, then transfers the files, with progress bars."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from rich.filesize import decimal

from comfyeks import deployment, workflow
from comfyeks.console import note
from comfyeks.errors import OperationError, UserError
from comfyeks.models import layout
from comfyeks.models.catalogue import Catalogue, Entry
from comfyeks.models.references import references
from comfyeks.models.sources import Tokens
from comfyeks.models.store import ModelStore, open_store
from comfyeks.models.transfer import CONNECTIONS, Progress, Wanted, pull
from comfyeks.models.transfer_bars import transfer_bars

_HUGGING_FACE_PAGE = re.compile(r"(https://huggingface\.co/.+?)/blob/")


def plan(
    known: Catalogue,
    what: Iterable[str],
    *,
    to: str | None = None,
    name: str | None = None,
    sha256: str | None = None,
    allow_pickle: bool = False,
) -> list[Wanted]:
    """The models to pull for ids, groups, workflow files and URLs. Raises UserError for an argument that is none."""
    arguments = list(what)
    urls = [argument for argument in arguments if "://" in argument]
    if not urls and (to, name, sha256) != (None, None, None):
        raise UserError("--to, --as and --sha256 are for a URL; the catalogue has its own values")
    if len(urls) > 1 and (name, sha256) != (None, None):
        raise UserError(f"--as and --sha256 are for one file, and {len(urls)} URLs are given")
    if urls and to is None:
        raise UserError(f"{urls[0]}: give the models folder with --to, for example --to loras")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UserError(f"--sha256 {sha256!r}: must be 64 hex digits")
    wanted: dict[str, Wanted] = {}
    for argument in arguments:
        if argument in urls:
            wanted[argument] = _from_url(argument, to or "", name, sha256, allow_pickle)
        else:
            entries = _of_workflow(known, Path(argument)) if argument.endswith(".json") else known.select([argument])
            wanted |= {entry.key: from_entry(entry, allow_pickle=allow_pickle) for entry in entries}
    return list(wanted.values())


def from_entry(entry: Entry, *, allow_pickle: bool = False) -> Wanted:
    return Wanted(entry.url, entry.folder, entry.file, entry.size, entry.sha256, allow_pickle)


def _from_url(url: str, to: str, name: str | None, sha256: str | None, allow_pickle: bool) -> Wanted:
    if not url.startswith(("https://", "http://")):
        raise UserError(f"{url}: must be an https:// or http:// address")
    folder = to.strip("/")
    if (problem := layout.problem(f"{folder}/{name or 'name'}")) is not None:
        raise UserError(f"--to {to!r}{f' --as {name!r}' if name else ''}: {problem}")
    # People copy the address of the page that shows a file, which is not that of the file.
    address = _HUGGING_FACE_PAGE.sub(r"\1/resolve/", url)
    return Wanted(address, folder, name, sha256=sha256.lower() if sha256 else None, allow_pickle=allow_pickle)


def _of_workflow(known: Catalogue, path: Path) -> list[Entry]:
    found = [(reference, known.at(reference.key)) for reference in references(workflow.load(path))]
    if missing := sorted({reference.key for reference, entry in found if entry is None}):
        raise UserError(
            f"{path}: the catalogue does not have {', '.join(missing)}; pull them by URL, with --to and --as"
        )
    return list({entry.id: entry for _, entry in found if entry is not None}.values())


def missing(known: Catalogue, names: Iterable[str], store: ModelStore) -> list[Entry]:
    """The models with these ids or in these groups that the bucket lacks."""
    present = {model.key for model in store.models()}
    return [entry for entry in known.select(names) if entry.key not in present]


def run(
    known: Catalogue,
    wanted: list[Wanted],
    *,
    bucket: str | None,
    project: str | None,
    region: str | None,
    force: bool = False,
    connections: int = CONNECTIONS,
    on_key: Callable[[str], object] = lambda key: None,
) -> None:
    """Pull all models, even if one of them fails; call `on_key` with each key that is then in the bucket.

    Raises OperationError naming what failed; KeyboardInterrupt passes through.
    """
    store = open_store(bucket, project, region)
    tokens = Tokens(os.environ, lambda: {} if bucket is not None else _stored_tokens(project, region))
    for notice in sorted({text for one in wanted if (text := layout.folder_notice(f"{one.folder}/x")) is not None}):
        note(f"note: {notice}")
    failures: list[OperationError] = []
    with transfer_bars() as bars:
        for one in wanted:
            task = bars.add_task(f"{one.folder}/{one.name or '…'}", total=None)
            progress = Progress(lambda size, task=task: bars.update(task, total=size), partial(bars.advance, task))  # type: ignore[misc]
            try:
                done = pull(store, one, tokens, force=force, connections=connections, progress=progress)
            except OperationError as error:
                bars.remove_task(task)
                failures.append(error)
                note(f"failed: {error}")
                continue
            except KeyboardInterrupt:
                note("interrupted; uploaded parts are kept for a day or more: run the same command again to resume")
                raise
            bars.update(task, total=done.size, completed=done.size)
            if done.sha256 is None:
                note(f"{done.key}: exists already ({decimal(done.size)})")
            elif (entry := known.at(done.key)) is not None and known.record(entry, done.size, done.sha256):
                note(f"{done.key}: size and sha256 written to {known.path.name}; commit that file")
            elif one.sha256 is None:
                note(f"{done.key}: sha256 {done.sha256}")
            on_key(done.key)
    if failures:
        raise OperationError(
            str(failures[0]) if len(wanted) == 1 else f"{len(failures)} of {len(wanted)} were not pulled"
        )


def _stored_tokens(project: str | None, region: str | None) -> Mapping[str, str]:
    """Host → token from the deployment's secret; empty when there is no secret.

    Raises OperationError when it cannot be read.
    """
    target = deployment.current(project, region)
    name = target.model_tokens_secret
    try:
        secret = boto3.client("secretsmanager", region_name=target.region).get_secret_value(SecretId=name)[
            "SecretString"
        ]
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "ResourceNotFoundException":
            return {}
        raise OperationError(f"the secret {name} cannot be read: {code}") from error
    except BotoCoreError as error:
        raise OperationError(f"the secret {name} cannot be read: {error}") from error
    try:
        tokens = json.loads(secret)
    except ValueError:
        tokens = None
    if not isinstance(tokens, dict) or not all(isinstance(value, str) for value in tokens.values()):
        raise OperationError(
            f'the secret {name} must be a JSON object of hosts and tokens, like {{"huggingface.co": "hf_…"}}'
        )
    return tokens
