"""Checks of a local file, before `comfyeks models add` uploads anything."""

from __future__ import annotations

import hashlib
from pathlib import Path

from comfyeks.errors import UserError
from comfyeks.models import formats
from comfyeks.models.catalogue import Entry


def check_file(path: Path, key: str, entry: Entry | None, *, allow_pickle: bool) -> None:
    """Raise UserError when the content does not fit the file name, or is not the model `entry` of the catalogue."""
    size = path.stat().st_size
    with path.open("rb") as stream:

        def read(start: int, stop: int) -> bytes:
            stream.seek(start)
            return stream.read(stop - start)

        try:
            formats.check(key, size, read, allow_pickle=allow_pickle)
        except formats.NotAModelError as error:
            raise UserError(f"{path}: {error}") from None
        if entry is None:
            return
        found: dict[str, int | str] = {}
        if entry.size is not None:
            found["size"] = size
        if entry.sha256 is not None and size == (entry.size or size):
            stream.seek(0)
            found["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
    for field, value in found.items():
        if value != getattr(entry, field):
            raise UserError(
                f"{path}: its {field} {value} differs from the catalogue's {getattr(entry, field)} for {entry.id}; "
                "give another file another name with --as, or upload it under this name with --force"
            )
