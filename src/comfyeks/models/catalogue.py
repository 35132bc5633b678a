"""Reads models/catalogue.yaml: which models can be pulled, from where, into which folder, with which size and hash.

A mistake in it is a UserError that names the line. The first pull of a model whose size or hash is null writes what it
found into the file (`record`), so that every later pull is checked against it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from comfyeks.errors import UserError
from comfyeks.files import write_atomically
from comfyeks.models import layout
from comfyeks.paths import REPO_ROOT

CATALOGUE = REPO_ROOT / "models" / "catalogue.yaml"
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REVISION = re.compile(r"/resolve/[0-9a-f]{40}/")
# Hosts that serve every revision of a file, so that a URL can, and must, name one.
_REVISIONED_HOSTS = ("huggingface.co",)


@dataclass(frozen=True)
class Entry:
    """One model. `size` (bytes) and `sha256` (hex) are None until the first pull; `line` is its line in the file."""

    id: str
    groups: tuple[str, ...]
    folder: str
    file: str
    url: str
    size: int | None
    sha256: str | None
    licence: str
    gated: bool
    line: int = 0

    @property
    def key(self) -> str:
        """Object key in the models bucket: the path below ComfyUI's models folder."""
        return f"{self.folder}/{self.file}"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


# Field → (description of allowed values, check). Every field is required; null counts as a value.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "id": ("lower-case letters, digits, '.' and '-'", _is_name),
    "groups": (
        "a list of names in lower-case letters, digits, '.' and '-'",
        lambda value: isinstance(value, list) and all(_is_name(name) for name in value),
    ),
    "folder": ("a folder below ComfyUI's models/", lambda value: isinstance(value, str)),
    "file": ("the file's name", lambda value: isinstance(value, str)),
    "url": ("an https URL", lambda value: isinstance(value, str) and urlsplit(value).scheme == "https"),
    "size": ("bytes, or null", lambda value: value is None or (type(value) is int and value > 0)),
    "sha256": ("64 hex digits, or null", lambda value: value is None or _SHA256.fullmatch(str(value)) is not None),
    "licence": ("the name of the licence", lambda value: isinstance(value, str) and value != ""),
    "gated": ("true or false", lambda value: isinstance(value, bool)),
}


class Catalogue:
    """The models, in the order of the file."""

    def __init__(self, entries: Iterable[Entry], path: Path) -> None:
        self.entries = list(entries)
        self.path = path
        self._by_id = {entry.id: entry for entry in self.entries}
        self._by_key = {entry.key: entry for entry in self.entries}

    @property
    def groups(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            for group in entry.groups:
                found.setdefault(group, []).append(entry)
        return found

    def at(self, key: str) -> Entry | None:
        """The model with this object key (`<folder>/<file>`), or None."""
        return self._by_key.get(key)

    def select(self, names: Iterable[str]) -> list[Entry]:
        """The models with these ids or in these groups, each once. Raises UserError for an unknown name."""
        selected: dict[str, Entry] = {}
        for name in names:
            found = [self._by_id[name]] if name in self._by_id else self.groups.get(name)
            if found is None:
                known = [*self.groups, *self._by_id]
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else f"groups: {', '.join(self.groups)}."
                raise UserError(
                    f"{name!r} is not a model or group of the catalogue; {hint} 'comfyeks models catalogue' lists all."
                )
            selected.update({entry.id: entry for entry in found})
        return list(selected.values())

    def record(self, entry: Entry, size: int, sha256: str) -> bool:
        """Fill in the fields of `entry` that are null in the file; return whether the file changed."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        changed = False
        for at in range(entry.line - 1, len(lines)):
            if at >= entry.line and re.match(r"\s*- id:", lines[at]):
                break
            for field, value in (("size", size), ("sha256", sha256)):
                if re.fullmatch(rf"\s+{field}:\s*(null|~)?\s*(#.*)?\s*", lines[at]):
                    lines[at] = f"{lines[at].partition(':')[0]}: {value}\n"
                    changed = True
        if changed:
            write_atomically(self.path, "".join(lines))
        return changed


def load(path: Path = CATALOGUE) -> Catalogue:
    """Read the catalogue from a file. Raises UserError naming the invalid line."""
    try:
        text = path.read_text(encoding="utf-8")
        top = yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(top, dict) or list(top) != ["models"] or not isinstance(top["models"], list):
        raise UserError(f"{path}: must be a mapping with the one key 'models', a list")
    # Parsed a second time for the line numbers.
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    lines = [node.start_mark.line + 1 for node in root.value[0][1].value]
    entries = [_entry(path, line, data) for line, data in zip(lines, top["models"], strict=True)]
    _check_whole(path, entries)
    return Catalogue(entries, path)


def _entry(path: Path, line: int, data: Any) -> Entry:
    where = f"{path.name}:{line}"
    if not isinstance(data, dict):
        raise UserError(f"{where}: a model is a mapping with {', '.join(_FIELDS)}")
    if wrong := sorted({*_FIELDS} ^ {*data}, key=str):
        what = "unknown field" if wrong[0] in data else "missing field"
        raise UserError(f"{where}: {what} {wrong[0]!r}; a model has {', '.join(_FIELDS)}")
    for field, (expected, fits) in _FIELDS.items():
        if not fits(data[field]):
            raise UserError(f"{where}: {field} {data[field]!r} must be {expected}")
    entry = Entry(**{**data, "groups": tuple(data["groups"])}, line=line)
    if entry.folder not in layout.KNOWN_FOLDERS:
        near = difflib.get_close_matches(entry.folder, layout.KNOWN_FOLDERS, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(layout.KNOWN_FOLDERS)}"
        raise UserError(f"{where}: folder {entry.folder!r} is not one that ComfyUI reads; {hint}")
    if "/" in entry.file or (problem := layout.problem(entry.key)) is not None:
        raise UserError(
            f"{where}: file {entry.file!r} {'is a path, not a file name' if '/' in entry.file else problem}"
        )
    if urlsplit(entry.url).hostname in _REVISIONED_HOSTS and not _REVISION.search(entry.url):
        raise UserError(
            f"{where}: url {entry.url!r} does not name a revision: write /resolve/<40 hex digits of a commit>/"
        )
    return entry


def _check_whole(path: Path, entries: list[Entry]) -> None:
    for what in ("id", "key"):
        first: dict[str, Entry] = {}
        for entry in entries:
            value = getattr(entry, what)
            other = first.setdefault(value, entry)
            if other is not entry:
                raise UserError(f"{path.name}:{entry.line}: {what} {value!r} is already used in line {other.line}")
    groups = {group for entry in entries for group in entry.groups}
    for entry in entries:
        if entry.id in groups:
            raise UserError(f"{path.name}:{entry.line}: id {entry.id!r} is also the name of a group")
