"""Generates the tables of inputs and outputs in the README of each Terraform root from its .tf files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hcl2
from lark import UnexpectedInput

from comfyeks.errors import OperationError
from comfyeks.terraform.runner import ROOTS

_BEGIN = "<!-- generated from the .tf files by `make generate` -->\n"
_END = "<!-- end of what is generated -->\n"


def pages() -> dict[Path, str]:
    """Path → text of the README of each root. Raises OperationError for one without the two marker lines."""
    return {root / "README.md": _readme(root) for root in ROOTS.values()}


def _readme(root: Path) -> str:
    path = root / "README.md"
    before, begin, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise OperationError(f"{path} must have the line {_BEGIN.strip()!r} and, below it, {_END.strip()!r}")
    return f"{before}{_BEGIN}\n{_tables(root)}\n{_END}{after}"


def blocks(root: Path, kind: str) -> dict[str, dict[str, Any]]:
    """The blocks of a kind (`variable`, `output`) in a root's files, by name.

    Raises OperationError for a file that is not HCL.
    """
    options = hcl2.SerializationOptions(with_comments=False, explicit_blocks=False, strip_string_quotes=True)
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(root.glob("*.tf")):
        try:
            content = hcl2.loads(path.read_text(encoding="utf-8"), serialization_options=options)
        except UnexpectedInput as error:
            raise OperationError(
                f"{path}, line {error.line}: is not valid Terraform; `terraform fmt` explains the error"
            ) from error
        for block in content.get(kind, []):
            found |= block
    return found


def _tables(root: Path) -> str:
    variables = (
        (f"`{name}`", _cell(block["description"]), f"`{_expression(block['type'])}`", _default(block))
        for name, block in sorted(blocks(root, "variable").items())
    )
    outputs = ((f"`{name}`", _cell(block["description"])) for name, block in sorted(blocks(root, "output").items()))
    return "\n".join(
        [
            *_table(("input", "description", "type", "default"), variables),
            "",
            *_table(("output", "description"), outputs),
            "",
        ]
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]


def _default(block: dict[str, Any]) -> str:
    if "default" not in block:
        return "required"
    value = block["default"]
    if isinstance(value, str) and value.startswith("${"):
        return f"`{_expression(value)}`"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _expression(value: Any) -> str:
    """A type or an expression as in the file, on one line."""
    return " ".join(str(value).removeprefix("${").removesuffix("}").split())


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("<", "\\<")
