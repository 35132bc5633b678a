"""API-format workflows: read one, set its inputs, explain why the server rejected it.

A workflow is `{node id: {"class_type": str, "inputs": {name: literal | [node id, output slot]}, "_meta"?: {"title"}}}`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyeks.errors import UserError

Workflow = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Upload:
    """A file to upload. Its name on the server becomes the value of an input of a node."""

    node_id: str
    input: str
    path: Path


MAX_SEED = 2**64 - 1
_SEED_INPUTS = ("seed", "noise_seed")
_EXPORT_HINT = "In ComfyUI, use Workflow > Export (API) and run that file."


def load(path: Path) -> Workflow:
    """Read a workflow from a file. Raises UserError saying what is wrong with it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: is not JSON (line {error.lineno}, column {error.colno}: {error.msg}). {_EXPORT_HINT}"
        ) from error
    return check(data, str(path))


def check(data: Any, where: str = "workflow") -> Workflow:
    """Return `data` if it has the API format. Raises UserError with the reason if not."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: is a JSON {_json_type(data)}, an API-format workflow is an object. {_EXPORT_HINT}")
    if isinstance(data.get("nodes"), list):
        raise UserError(
            f"{where}: is a workflow saved for the editor (with positions and links), which the server cannot run. "
            f"{_EXPORT_HINT}"
        )
    if not data:
        raise UserError(f"{where}: has no nodes")
    for node_id, node in data.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise UserError(f"{where}: node {node_id!r} has no class_type: not the API format. {_EXPORT_HINT}")
        if not isinstance(node.get("inputs"), dict):
            raise UserError(f"{where}: node {node_id!r} has no inputs object: not the API format. {_EXPORT_HINT}")
    return data


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def title(workflow: Workflow, node_id: str) -> str:
    """The title of a node; without one, its class."""
    node = workflow.get(node_id, {})
    return str(node.get("_meta", {}).get("title") or node.get("class_type") or node_id)


def name(workflow: Workflow, node_id: str) -> str:
    """How messages name a node: `node 3 "Sampler" (KSampler)`."""
    class_type = workflow.get(node_id, {}).get("class_type", "unknown class")
    label = title(workflow, node_id)
    return f"node {node_id} ({class_type})" if label == class_type else f'node {node_id} "{label}" ({class_type})'


def with_seed(workflow: Workflow, seed: int) -> Workflow:
    """Return a copy in which every seed input that holds a number is `seed`; linked seed inputs stay linked.

    Raises UserError when the seed is out of range or the workflow has no such input.
    """
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"--seed {seed}: must be between 0 and {MAX_SEED}")
    changed = copy.deepcopy(workflow)
    places = [
        (node, key)
        for node in changed.values()
        for key in _SEED_INPUTS
        if isinstance(node["inputs"].get(key), int | float) and not isinstance(node["inputs"][key], bool)
    ]
    if not places:
        raise UserError("--seed: no node of this workflow has a seed or noise_seed input that holds a number")
    for node, key in places:
        node["inputs"][key] = seed
    return changed


def with_value(workflow: Workflow, assignment: str) -> Workflow:
    """Return a copy with one input set: `NODE.INPUT=VALUE`, where NODE is an id or a title that only one node has.

    VALUE has the type of the value it replaces: text, number, true/false; anything else is JSON. Raises UserError for
    an unknown node or input, an input that is linked to another node, and a value of the wrong type.
    """
    target, equals, text = assignment.partition("=")
    if not equals or "." not in target:
        raise UserError(f"--set {assignment!r}: write NODE.INPUT=VALUE, for example 6.text='a red fox'")
    changed = copy.deepcopy(workflow)
    node_id, key = _find_input(changed, target)
    inputs = changed[node_id]["inputs"]
    if is_link(inputs[key]):
        source = name(changed, inputs[key][0])
        raise UserError(f"--set {target}: this input is linked to {source}; set an input of that node instead")
    inputs[key] = _value(target, text, inputs[key])
    return changed


def with_assignments(workflow: Workflow, assignments: Iterable[str], folder: Path) -> tuple[Workflow, list[Upload]]:
    """Return a copy with every `NODE.INPUT=VALUE` set, and the files to upload for it.

    `NODE.INPUT=@FILE` names a file to upload, relative to `folder`. If there is no such file, "@FILE" is text, except
    for nodes that load files. Raises UserError like `with_value`.
    """
    uploads = []
    for assignment in assignments:
        workflow = with_value(workflow, assignment)
        target, _, text = assignment.partition("=")
        if text.startswith("@"):
            node_id, key = _find_input(workflow, target)
            path = folder / text[1:]
            if path.is_file():
                uploads.append(Upload(node_id, key, path))
            elif workflow[node_id]["class_type"].startswith("Load"):
                raise UserError(f"--set {assignment}: there is no file {path}")
    return workflow, uploads


def with_uploads(workflow: Workflow, uploads: Iterable[Upload], upload: Callable[[Path], str]) -> Workflow:
    """Return a copy that loads the uploaded files; `upload` uploads one and returns its name on the server."""
    changed = copy.deepcopy(workflow)
    for one in uploads:
        changed[one.node_id]["inputs"][one.input] = upload(one.path)
    return changed


def _find_input(workflow: Workflow, target: str) -> tuple[str, str]:
    # Titles and input names may contain dots: the longest existing node name is taken.
    for at in sorted((i for i, char in enumerate(target) if char == "."), reverse=True):
        node_name, key = target[:at], target[at + 1 :]
        if node_name in workflow:
            found = [node_name]
        else:
            found = [node_id for node_id in workflow if title(workflow, node_id) == node_name]
        if len(found) > 1:
            raise UserError(
                f"--set {target}: {len(found)} nodes are called {node_name!r}; use an id: {', '.join(found)}"
            )
        if found:
            if key not in workflow[found[0]]["inputs"]:
                known = ", ".join(workflow[found[0]]["inputs"]) or "none"
                raise UserError(f"--set {target}: {name(workflow, found[0])} has no input {key!r}; it has: {known}")
            return found[0], key
    nodes = ", ".join(f"{node_id} ({title(workflow, node_id)})" for node_id in workflow)
    raise UserError(f"--set {target}: no node has the id or title {target.rpartition('.')[0]!r}; there are: {nodes}")


def _value(target: str, text: str, current: Any) -> Any:
    try:
        parsed = json.loads(text, parse_constant=_no_constant)
    except ValueError:
        parsed = text
    if isinstance(current, str):
        return parsed if isinstance(parsed, str) else text
    if isinstance(current, bool):
        fits = isinstance(parsed, bool)
    elif isinstance(current, int | float):
        fits = isinstance(parsed, int | float) and not isinstance(parsed, bool)
    else:
        return parsed
    if not fits:
        wanted = "true or false" if isinstance(current, bool) else "a number"
        raise UserError(f"--set {target}={text}: must be {wanted}, like the present {json.dumps(current)}")
    return parsed


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def file_references(workflow: Workflow, file_name: str) -> Iterator[tuple[str, str]]:
    """(node id, input) of every value that is this file name, a folder before and ` [input]` after it ignored."""
    for node_id, node in workflow.items():
        for key, value in node["inputs"].items():
            if isinstance(value, str) and value.removesuffix(" [input]").rpartition("/")[2] == file_name:
                yield node_id, key


def places_of(workflow: Workflow, file_name: str) -> list[tuple[str, str]]:
    """(node id, input) of every reference to `file_name`. Raises UserError when there is none."""
    places = list(file_references(workflow, file_name))
    if not places:
        loaders = [
            f"{node_id}.{key} = {value!r}"
            for node_id, node in workflow.items()
            for key, value in node["inputs"].items()
            if node["class_type"].startswith("Load") and isinstance(value, str)
        ]
        known = f" Files it loads: {'; '.join(loaders)} (change one with --set)." if loaders else ""
        raise UserError(f"--input {file_name}: no node of this workflow loads a file of that name.{known}")
    return places


def explain_node_errors(workflow: Workflow, node_errors: dict[str, Any]) -> list[str]:
    """The problems that the server found, one line each."""
    return [
        f"{name(workflow, node_id)}: {_explain(problem)}"
        for node_id, entry in node_errors.items()
        for problem in entry.get("errors", [])
    ]


def _explain(problem: dict[str, Any]) -> str:
    info = problem.get("extra_info") or {}
    key, received = info.get("input_name"), info.get("received_value")
    details = str(problem.get("details") or "")
    match problem.get("type"):
        case "value_not_in_list":
            choices = _choices(info.get("input_config"))
            if choices is None:
                tail = details.rpartition(" not in ")[2]
                return f"{key} {received!r} is not on this server {tail}"
            offered = ", ".join(map(str, choices)) if choices else "none"
            return f"{key} {received!r} is not on this server; it has: {offered}"
        case "required_input_missing":
            return f"input {key or details} is required and missing"
        case "value_smaller_than_min" | "value_bigger_than_max":
            return f"{key}: {problem.get('message')}"
        case "return_type_mismatch":
            return f"{key} is linked to an output of the wrong type: {details}"
        case "exception_during_validation":
            return f"the server could not check it: {details} (does a link point to a node that is not there?)"
        case _:
            message = str(problem.get("message") or problem.get("type") or "rejected")
            return f"{message}: {details}" if details else message


def _choices(config: Any) -> list[Any] | None:
    """The choices in an input's declaration: [[…], {}], or in newer servers ["COMBO", {"options": […]}]."""
    if isinstance(config, list) and config:
        if isinstance(config[0], list):
            return config[0]
        if len(config) > 1 and isinstance(config[1], dict) and isinstance(config[1].get("options"), list):
            return list(config[1]["options"])
    return None


def _json_type(data: Any) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(data), "number")
