"""The results of a finished job, and how they are saved on this disk."""

from __future__ import annotations

import contextlib
import filecmp
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from comfyeks.client.errors import MissingResultError

_FLAGS = ("animated",)  # keys in a node's output that describe the files beside them


@dataclass(frozen=True)
class OutputFile:
    """A file on the server. `kind` is the node's output key: images (videos too), audio, latents, 3d and others."""

    node_id: str
    kind: str
    filename: str
    subfolder: str
    type: str

    @property
    def name(self) -> str:
        return f"{self.subfolder}/{self.filename}" if self.subfolder else self.filename


@dataclass(frozen=True)
class OutputData:
    """A result that was sent in a message: text, values, or an image over the websocket."""

    node_id: str
    kind: str
    suffix: str
    content: bytes


@dataclass(frozen=True)
class Result:
    """The results of a job that succeeded. `cached` are ids of nodes that the server did not run again."""

    prompt_id: str
    seconds: float
    files: tuple[OutputFile, ...] = ()
    data: tuple[OutputData, ...] = ()
    cached: tuple[str, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class SavedFile:
    path: Path
    node_id: str
    kind: str
    bytes: int


def parse_outputs(outputs: dict[str, Any]) -> tuple[list[OutputFile], list[OutputData]]:
    """Every result in a job's `outputs`: {node id: {kind: [{"filename", "subfolder", "type"} | text | …]}}."""
    files: list[OutputFile] = []
    data: list[OutputData] = []
    for node_id, output in outputs.items():
        for kind, values in (output or {}).items():
            if kind in _FLAGS:
                continue
            texts = []
            for value in values if isinstance(values, list | tuple) else [values]:
                if isinstance(value, dict) and value.get("filename"):
                    files.append(
                        OutputFile(
                            node_id,
                            kind,
                            value["filename"],
                            value.get("subfolder") or "",
                            value.get("type") or "output",
                        )
                    )
                elif value is not None:
                    texts.append(str(value))
            data += [OutputData(node_id, kind, ".txt", text.encode()) for text in texts]
    return files, data


def local_path(out: Path, name: str) -> Path:
    """Where a server's file name goes below `out`. Raises MissingResultError for a name that would leave it."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or any(ord(char) < 32 or char == "\\" for char in name):
        raise MissingResultError(f"the server names a result {name!r}, which is not a file name below {out}: not saved")
    return out.joinpath(*parts)


@contextmanager
def new_file(wanted: Path) -> Iterator[tuple[IO[bytes], Callable[[], Path]]]:
    """Yield a stream to write to, and a function that publishes the finished file and returns its path.

    Both are for use inside the block. The file appears complete or not at all, and never replaces another one: an
    existing file with the same content is kept, beside one with other content the new file is called "name (1).png".
    """
    wanted.parent.mkdir(parents=True, exist_ok=True)
    part = wanted.with_name(f".{wanted.name[:80]}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as stream:

            def publish() -> Path:
                stream.flush()
                return _publish(part, wanted)

            yield stream, publish
    finally:
        part.unlink(missing_ok=True)


def _publish(part: Path, wanted: Path) -> Path:
    candidate, number = wanted, 0
    while True:
        try:
            os.link(part, candidate)
            return candidate
        except FileExistsError:
            with contextlib.suppress(OSError):
                if filecmp.cmp(part, candidate, shallow=False):
                    return candidate
        except OSError:  # a file system without hard links: another program may interfere, but the file is complete
            if not candidate.exists():
                part.replace(candidate)
                return candidate
        number += 1
        candidate = wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}")
