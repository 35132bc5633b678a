"""Validation of a workflow in API format: which outputs can run, and the errors of the others, by node."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from comfyeks_local.comfyui.folders import Folders
from comfyeks_local.comfyui.graph_nodes import GRAPH_NODES, Spec

Graph = dict[str, dict[str, Any]]
Problem = dict[str, Any]
_CHOICES_SHOWN = 20
_CONVERSIONS: dict[str, type] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


def problem(kind: str, message: str, details: str = "", **extra_info: Any) -> Problem:
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


@dataclass(frozen=True)
class Validation:
    """`error` is None if at least one output can run; `node_errors` has the errors of all outputs that cannot."""

    error: Problem | None
    outputs: list[str] = field(default_factory=list)
    node_errors: dict[str, dict[str, Any]] = field(default_factory=dict)


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def validate(graph: Graph, folders: Folders, targets: Iterable[str] | None = None) -> Validation:
    """Check every node that an output needs. Converts literals in `graph` to their declared type, as on the server."""
    candidates = []
    for node_id, node in graph.items():
        class_type = node.get("class_type")
        if class_type not in GRAPH_NODES:
            title = node.get("_meta", {}).get("title") or class_type
            reason = "has no class_type." if class_type is None else "not found. The custom node may not be installed."
            return Validation(
                problem(
                    "missing_node_type",
                    f"Node '{title}' {reason}",
                    f"Node ID '#{node_id}'",
                    node_id=node_id,
                    class_type=class_type,
                    node_title=title,
                )
            )
        if GRAPH_NODES[class_type].output and (targets is None or node_id in targets):
            candidates.append(node_id)
    if not candidates:
        return Validation(problem("prompt_no_outputs", "Prompt has no outputs"))

    checker = _Checker(graph, folders)
    good, bad = [], []
    node_errors: dict[str, dict[str, Any]] = {}
    for output in candidates:
        try:
            valid = checker.check(output)
        except Exception as error:  # a dangling link, a bad slot: an error of the output, as on the server
            valid = False
            checker.results[output] = (
                False,
                [
                    problem(
                        "exception_during_validation",
                        "Exception when validating node",
                        str(error),
                        exception_type=type(error).__name__,
                        traceback=traceback.format_tb(error.__traceback__),
                    )
                ],
            )
            checker.active.clear()
        if valid:
            good.append(output)
            continue
        bad.append(output)
        for node_id, (node_valid, problems) in checker.results.items():
            if not node_valid and problems:
                entry = node_errors.setdefault(
                    node_id, {"errors": problems, "dependent_outputs": [], "class_type": graph[node_id]["class_type"]}
                )
                entry["dependent_outputs"].append(output)
    if good:
        return Validation(None, good, node_errors)
    details = "\n".join(f"{p['message']}: {p['details']}" for output in bad for p in checker.results[output][1])
    return Validation(
        problem("prompt_outputs_failed_validation", "Prompt outputs failed validation", details),
        node_errors=node_errors,
    )


class _Checker:
    def __init__(self, graph: Graph, folders: Folders) -> None:
        self.graph = graph
        self.folders = folders
        self.results: dict[str, tuple[bool, list[Problem]]] = {}
        self.active: list[str] = []

    def check(self, node_id: str) -> bool:
        """Whether this node and all nodes that it depends on are valid."""
        if node_id in self.results:
            return self.results[node_id][0]
        if node_id in self.active:
            cycle = self.active[self.active.index(node_id) :]
            self.results[node_id] = (
                False,
                [
                    problem(
                        "dependency_cycle",
                        "Dependency cycle detected",
                        " -> ".join(cycle),
                        node_id=node_id,
                        cycle_nodes=cycle,
                    )
                ],
            )
            return False
        self.active.append(node_id)
        node = self.graph[node_id]
        declaration = GRAPH_NODES[node["class_type"]]
        declared = declaration.inputs(self.folders)
        specs = {**declared["required"], **declared.get("optional", {})}
        problems: list[Problem] = []
        valid = True
        for name, spec in specs.items():
            if name not in node["inputs"]:
                if name in declared["required"]:
                    problems.append(
                        problem("required_input_missing", "Required input is missing", name, input_name=name)
                    )
                continue
            value = node["inputs"][name]
            if isinstance(value, list):
                found = self._check_link(name, spec, value)
                if found is not None:
                    problems.append(found)
                elif not self.check(value[0]):
                    valid = False
            else:
                checked = name in declaration.checked
                problems += self._check_literal(node["inputs"], name, spec, with_choices=not checked)
        if declaration.check is not None:
            complaint = declaration.check(self.folders, node["inputs"])
            if complaint is not None:
                name = declaration.checked[0]
                problems.append(
                    problem(
                        "custom_validation_failed",
                        "Custom validation failed for node",
                        f"{name} - {complaint}",
                        input_name=name,
                        input_config=specs[name],
                        received_value=node["inputs"].get(name),
                    )
                )
        self.active.pop()
        if node_id in self.results:  # a cycle led back to this node
            problems = [*self.results[node_id][1], *problems]
        self.results[node_id] = (valid and not problems, problems)
        return self.results[node_id][0]

    def _check_link(self, name: str, spec: Spec, link: list[Any]) -> Problem | None:
        if len(link) != 2:
            return problem(
                "bad_linked_input",
                "Bad linked input, must be a length-2 list of [node_id, slot_index]",
                name,
                input_name=name,
                input_config=spec,
                received_value=link,
            )
        received = GRAPH_NODES[self.graph[link[0]]["class_type"]].returns[link[1]]
        wanted = spec[0] if isinstance(spec[0], str) else "COMBO"
        if "*" in (received, wanted) or received in wanted.split(","):
            return None
        return problem(
            "return_type_mismatch",
            "Return type mismatch between linked nodes",
            f"{name}, received_type({received}) mismatch input_type({wanted})",
            input_name=name,
            input_config=spec,
            received_type=received,
            linked_node=link,
        )

    @staticmethod
    def _check_literal(inputs: dict[str, Any], name: str, spec: Spec, *, with_choices: bool) -> list[Problem]:
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        value = inputs[name]
        extra: dict[str, Any] = {"input_name": name, "input_config": spec, "received_value": value}
        choices = options.get("options") if kind == "COMBO" else kind
        if isinstance(choices, list):
            if value in choices or not with_choices:
                return []
            few = len(choices) <= _CHOICES_SHOWN
            shown = str(choices) if few else f"(list of length {len(choices)})"
            return [
                problem(
                    "value_not_in_list",
                    "Value not in list",
                    f"{name}: '{value}' not in {shown}",
                    **{**extra, "input_config": spec if few else None},
                )
            ]
        if kind in _CONVERSIONS:
            try:
                value = inputs[name] = _CONVERSIONS[kind](value)
            except (ValueError, TypeError) as error:
                return [
                    problem(
                        "invalid_input_type",
                        f"Failed to convert an input value to a {kind} value",
                        f"{name}, {value}, {error}",
                        **extra,
                        exception_message=str(error),
                    )
                ]
        if "min" in options and value < options["min"]:
            return [
                problem("value_smaller_than_min", f"Value {value} smaller than min of {options['min']}", name, **extra)
            ]
        if "max" in options and value > options["max"]:
            return [
                problem("value_bigger_than_max", f"Value {value} bigger than max of {options['max']}", name, **extra)
            ]
        return []
