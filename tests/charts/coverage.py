"""Which branches the templates of a chart have, which ones a render takes, and which values they read.

A copy of the chart records each entered branch in its own values, which all templates of a render share, and prints
the record in an additional object. A branch is the body of an if, else if, else or with, and also the missing else of a
condition that has none. `with` on a section of the values is not a branch, because sections always exist.
validate.yaml is left out: its conditions only fail, with messages that are tested one by one.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from comfyeks.charts import CHARTS_ROOT
from comfyeks.charts import render as rendering
from comfyeks.charts.render import YamlLoader
from comfyeks.versions import VERSIONS

_ACTION = re.compile(r"\{\{-?\s*(/\*.*?\*/|(?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|[^\"`])*?)\s*-?\}\}", re.DOTALL)
_OPENS = re.compile(r"(if|with|range|define|block)\b")
_NOTE = """
{{- define "coverage.note" -}}
{{- $root := first . -}}
{{- if kindIs "slice" $root }}{{ $root = first $root }}{{ end -}}
{{- if hasKey $root "Values" -}}
{{- $notes := get $root.Values "coverage" | default dict -}}
{{- $_ := set $root.Values "coverage" (set $notes (last .) true) -}}
{{- end -}}
{{- end -}}
"""
# Templates are rendered in reverse order of their names, so this one comes last.
_REPORT = """
apiVersion: v1
kind: Coverage
metadata: {name: coverage}
branches: {{ keys (.Values.coverage | default dict) | toJson }}
"""


def instrumented(chart: str, folder: Path) -> tuple[Path, set[str]]:
    """A copy of the chart that notes its branches, and all branches there are, as `<file>:<line> <what>`."""
    copy = folder / chart
    shutil.copytree(CHARTS_ROOT / chart, copy)
    schema = copy / "values.schema.json"
    sections = {f".Values.{name}" for name in _sections(json.loads(schema.read_text()))}
    schema.unlink()
    branches: set[str] = set()
    for file in sorted((copy / "templates").iterdir()):
        if file.name != "validate.yaml":
            text, found = _noted(file.read_text(), file.name, sections)
            file.write_text(text)
            branches |= found
    (copy / "templates" / "_0.tpl").write_text(_NOTE)
    (copy / "templates" / "0.yaml").write_text(_REPORT)
    return copy, branches


def _sections(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, child in schema["properties"].items():
        if "properties" in child:
            yield f"{path}{name}"
            yield from _sections(child, f"{path}{name}.")


@dataclass
class _Block:
    keyword: str
    line: int
    is_condition: bool
    has_else: bool = False


def _noted(text: str, file: str, sections: set[str]) -> tuple[str, set[str]]:
    branches: set[str] = set()
    blocks: list[_Block] = []
    made: list[str] = []
    end = 0

    def note(line: int, what: str, trim: str) -> str:
        branch = f"{file}:{line} {what}"
        branches.add(branch)
        return f'{{{{ include "coverage.note" (list $ {json.dumps(branch)}) {trim}}}}}'

    for action in _ACTION.finditer(text):
        made.append(text[end : action.start()])
        end = action.end()
        content, line = action[1], text.count("\n", 0, action.start()) + 1
        trim = "-" if action[0].endswith("-}}") else ""
        if opens := _OPENS.match(content):
            subject = content.removeprefix("with ").removeprefix("$")
            is_section = opens[1] == "with" and subject in sections
            blocks.append(_Block(opens[1], line, opens[1] in ("if", "with") and not is_section))
            made.append(action[0])
            if blocks[-1].is_condition:
                made.append(note(line, content, trim))
        elif content.startswith("else"):
            blocks[-1].has_else |= content == "else"
            made.append(action[0])
            made.append(note(line, content, trim))
        elif content == "end":
            block = blocks.pop()
            if block.is_condition and not block.has_else:
                left = "-" if action[0].startswith("{{-") else ""
                made.append(f"{{{{{left} else }}}}{note(block.line, f'no {block.keyword}', '')}")
            made.append(action[0])
        else:
            made.append(action[0])
    assert not blocks, f"{file}: not closed: {blocks}"
    return "".join([*made, text[end:]]), branches


def taken(chart: Path, inputs: Iterable[tuple[Path, dict[str, Any]]]) -> Iterator[str]:
    """The branches that renders of (values file, values over it) take."""
    for file, values in inputs:
        argv = ["template", chart.name, chart, "--namespace", "comfyui", "--values", file, "--values", "-"]
        done = rendering.helm(*argv, "--kube-version", VERSIONS["kubernetes"], stdin=json.dumps(values))
        assert done.returncode == 0, done.stderr
        [report] = [
            item for item in yaml.load_all(done.stdout, Loader=YamlLoader) if item and item["kind"] == "Coverage"
        ]
        yield from report["branches"]


_NAME = re.compile(r"^\$(\w+)\s*:=\s*")
_READ = re.compile(r"(?<![\w.)\"])(\$\w*)?((?:\.\w+)+)")
# A variable or a dot that stands for one value of the chart, directly or as an entry over its defaults.
_VALUE = re.compile(r"^(?:include \"[\w-]+\.entry\" \(list )?\(?(?:\$\w*|first \.)?\)?\.Values((?:\.\w+)+)")


def reads(text: str) -> Iterator[tuple[str, ...]]:
    """Paths below .Values that a template reads: directly, through `with`, or through a variable for one of them."""
    variables: dict[str, tuple[str, ...]] = {}
    # What the dot stands for in the open blocks: a path below .Values, () for the root, None for something else.
    dots: list[tuple[str, ...] | None] = [()]
    for action in _ACTION.finditer(text):
        content = re.sub(r'"(?:\\.|[^"\\])*"', '""', action[1])
        dot = dots[-1]
        for variable, path in _READ.findall(content):
            keys = tuple(path.strip(".").split("."))
            if keys[0] == "Values":
                yield keys[1:]
            elif variable in variables:
                yield (*variables[variable], *keys)
            elif not variable and dot:
                yield (*dot, *keys)
        if named := _NAME.match(content):
            value = _VALUE.match(action[1][named.end() :])
            variables.pop(f"${named[1]}", None)
            if value:
                variables[f"${named[1]}"] = tuple(value[1].strip(".").split("."))
        if opens := _OPENS.match(content):
            dots.append(_dot(opens[1], content, dot))
        elif content == "end":
            dots.pop()


def _dot(keyword: str, content: str, dot: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if keyword == "if":
        return dot
    if keyword == "define":
        return ()
    value = _VALUE.match(content.removeprefix("with "))
    if keyword == "with" and value:
        return tuple(value[1].strip(".").split("."))
    return None
