"""docs/reference/terraform.md: every variable and output of both roots, from the .tf files themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hcl2
from lark import UnexpectedInput

from comfyeks.errors import OperationError
from comfyeks.paths import REPO_ROOT
from comfyeks.terraform.runner import ROOTS

PATH = REPO_ROOT / "docs" / "reference" / "terraform.md"

_INTRODUCTION = """\
# Terraform variables and outputs

Variables go into `.comfyeks/<name>/settings.yaml`: those of the platform below `terraform:`, those of the data root
below `data:`. `comfyeks infra apply` reads them and keeps them with the deployment
([0007](../decisions/0007-settings-stay-with-the-deployment.md)). It gives `project`, `region` and `node_files` itself.

This page is generated from the `.tf` files by `make generate`; `make lint` fails when it is stale.
"""

_TITLES = {
    "platform": "Platform: `infra/terraform/platform`",
    "data": "Data: `infra/terraform/data`, which outlives the platform",
}


def text() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *(_section(title, ROOTS[root]) for root, title in _TITLES.items())])


def blocks(root: Path, kind: str) -> dict[str, dict[str, Any]]:
    """The blocks of a kind (`variable`, `output`) in a root's files, by name.

    Raises OperationError for what is no HCL.
    """
    options = hcl2.SerializationOptions(with_comments=False, explicit_blocks=False, strip_string_quotes=True)
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(root.glob("*.tf")):
        try:
            content = hcl2.loads(path.read_text(encoding="utf-8"), serialization_options=options)
        except UnexpectedInput as error:
            raise OperationError(
                f"{path}, line {error.line}: not Terraform's language; `terraform fmt` says more"
            ) from error
        for block in content.get(kind, []):
            found |= block
    return found


def _section(title: str, root: Path) -> str:
    variables = (
        (f"`{name}`", f"`{_expression(block['type'])}`", _default(block), _cell(block["description"]))
        for name, block in sorted(blocks(root, "variable").items())
    )
    outputs = ((f"`{name}`", _cell(block["description"])) for name, block in sorted(blocks(root, "output").items()))
    return "\n".join(
        [
            f"## {title}\n",
            *_table(("variable", "type", "default", "what it is"), variables),
            "",
            *_table(("output", "what it is"), outputs),
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
    """A type or an expression as it stands in the file, on one line."""
    return " ".join(str(value).removeprefix("${").removesuffix("}").split())


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("<", "\\<")
