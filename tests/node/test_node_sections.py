"""The node program is one file in sections, and no section knows a later one (docs/decisions/0011)."""

from __future__ import annotations

import ast
import re
from bisect import bisect

from comfyeks.paths import REPO_ROOT

PROGRAM = REPO_ROOT / "node" / "comfyui-model-sync"


def references_to_later_sections(text: str) -> list[str]:
    """Each use of a module-level name that is defined in a later section: in functions, classes and annotations."""
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines, start=1) if re.match(r"# --- .+ -+$", line)]

    def section(line: int) -> int:
        return bisect(starts, line)

    defined: dict[str, int] = {}
    for statement in (tree := ast.parse(text)).body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            defined[statement.name] = section(statement.lineno)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            names = [
                node.id
                for node in ast.walk(statement)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            ]
            defined |= dict.fromkeys(names, section(statement.lineno))
    assert starts
    assert defined
    return [
        f"line {node.lineno}: {node.id} of the section at line {starts[defined[node.id] - 1]}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and defined.get(node.id, 0) > section(node.lineno)
    ]


def test_no_section_refers_to_a_later_one() -> None:
    assert references_to_later_sections(PROGRAM.read_text()) == []
