"""Generates values.schema.json and the values table in a chart's README from the annotated values.yaml.

The annotation is a comment directly above a key:

    # -- What the value decides, in as many lines as it takes.
    # @schema type:integer; minimum:0; maximum:8
    count: 1

Every leaf has a description. `@schema` is needed only for what does not follow from the default:

    type:T|T          string, integer, number, boolean, array, object, null; needed when the default is null
    enum:A,B          and pattern, minimum, maximum, minLength, maxLength, minItems, uniqueItems as in JSON Schema
    items:T           what a list holds; itemsPattern and itemsEnum constrain its strings
    values:T          a map from any name to T ("any" for anything): its keys are the user's
    entries:SECTION   a map from any name to objects with the keys of SECTION, which holds their defaults;
                      keysPattern constrains the names

A mapping with keys and neither of the last two is a section: it allows no other keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from comfyeks.errors import UserError

JsonSchema = dict[str, Any]

_TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")
_TABLE_START = "<!-- values: made from values.yaml by `comfyeks dev charts generate` -->"
_TABLE_END = "<!-- /values -->"


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]


_DIRECTIVES: dict[str, Callable[[str], Any]] = {
    "type": lambda text: text.split("|"),
    "enum": _listed,
    "pattern": str,
    "minimum": int,
    "maximum": int,
    "minLength": int,
    "maxLength": int,
    "minItems": int,
    "uniqueItems": lambda text: text == "true",
    "items": str,
    "itemsPattern": str,
    "itemsEnum": _listed,
    "values": str,
    "entries": str,
    "keysPattern": str,
}
# These go into the schema as they are; the others decide its shape.
_KEYWORDS = ("pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "uniqueItems")


@dataclass
class Value:
    """One key of values.yaml: a leaf, or a section with children."""

    path: tuple[str, ...]
    line: int
    default: Any
    description: str
    directives: dict[str, Any]
    children: list[Value] = field(default_factory=list)

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def is_leaf(self) -> bool:
        return not self.children

    def leaves(self) -> Iterator[Value]:
        if self.is_leaf:
            yield self
        for child in self.children:
            yield from child.leaves()


def parse(text: str, source: str) -> list[Value]:
    """The values of an annotated values.yaml, in its order.

    Raises UserError naming file, line and key of a missing or invalid annotation.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{source}: the values are not a mapping")
    return _parse_mapping(root, (), text.splitlines(), source)


def _parse_mapping(node: yaml.MappingNode, above: tuple[str, ...], lines: list[str], source: str) -> list[Value]:
    values = []
    for key_node, value_node in node.value:
        path = (*above, str(key_node.value))
        line = key_node.start_mark.line
        where = f"{source}:{line + 1}: {'.'.join(path)}"
        description, directives = _annotation(lines, line, where)
        default = yaml.SafeLoader("").construct_document(value_node)
        value = Value(path, line + 1, default, description, directives)
        is_section = isinstance(value_node, yaml.MappingNode) and value_node.value and not _is_map(directives)
        if is_section:
            value.children = _parse_mapping(value_node, path, lines, source)
        elif not description:
            raise UserError(f"{where} has no description: put `# -- what it decides` above it")
        elif default is None and "type" not in directives:
            raise UserError(f"{where} is null: name its type, as in `# @schema type:string|null`")
        values.append(value)
    return values


def _is_map(directives: dict[str, Any]) -> bool:
    return "values" in directives or "entries" in directives


def _annotation(lines: list[str], line: int, where: str) -> tuple[str, dict[str, Any]]:
    """The description and directives in the comment block directly above a line."""
    first = line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    described: list[str] = []
    directives: dict[str, Any] = {}
    for comment in (text.strip() for text in lines[first:line]):
        if comment.startswith("# -- "):
            described = [comment.removeprefix("# -- ")]
        elif comment.startswith("# @schema "):
            directives |= _directives(comment.removeprefix("# @schema "), where)
        elif described:
            described.append(comment.removeprefix("#").strip())
    return " ".join(described), directives


def _directives(text: str, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # A pattern may contain a semicolon: only one before another directive is a separator.
    for part in re.split(rf";\s*(?=(?:{'|'.join(_DIRECTIVES)}):)", text):
        name, colon, value = part.strip().partition(":")
        if not colon or name not in _DIRECTIVES:
            raise UserError(f"{where}: unknown @schema directive {part.strip()!r}; there are {', '.join(_DIRECTIVES)}")
        found[name] = _DIRECTIVES[name](value.strip())
    unknown = [name for name in found.get("type", []) if name not in _TYPES]
    if unknown:
        raise UserError(f"{where}: unknown type {unknown[0]!r}; there are {', '.join(_TYPES)}")
    return found


# -- JSON Schema ------------------------------------------------------------------------------------------------------


def schema_of(values: list[Value], title: str) -> JsonSchema:
    """A draft-07 JSON schema that rejects unknown keys, with description and default of each leaf."""
    by_name = {value.name: value for value in _walk(values)}
    root = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": title,
        **_object_schema(values, by_name),
    }
    # Helm itself adds this key when the chart is a dependency of another one.
    root["properties"]["global"] = {
        "type": "object",
        "description": "Helm's own: shared with a parent chart, not used here.",
    }
    return root


def _walk(values: list[Value]) -> Iterator[Value]:
    for value in values:
        yield value
        yield from _walk(value.children)


def _object_schema(values: list[Value], by_name: dict[str, Value]) -> JsonSchema:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {value.path[-1]: _value_schema(value, by_name) for value in values},
    }


def _value_schema(value: Value, by_name: dict[str, Value]) -> JsonSchema:
    if not value.is_leaf:
        described = {"description": value.description} if value.description else {}
        return {**described, **_object_schema(value.children, by_name)}
    given = value.directives
    schema: JsonSchema = {"description": value.description, "default": value.default}
    types = given.get("type") or [_type_of(value.default)]
    schema["type"] = types[0] if len(types) == 1 else types
    if "enum" in given:
        schema["enum"] = [*given["enum"], *([None] if "null" in types else [])]
    schema |= {keyword: given[keyword] for keyword in _KEYWORDS if keyword in given}
    if "array" in types:
        schema["items"] = _items_schema(given)
    if "object" in types:
        schema |= _map_schema(value, by_name)
    return schema


def _type_of(default: Any) -> str:
    match default:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "string"


def _items_schema(given: dict[str, Any]) -> JsonSchema:
    items: JsonSchema = {"type": given.get("items", "string")}
    if "itemsPattern" in given:
        items["pattern"] = given["itemsPattern"]
    if "itemsEnum" in given:
        items["enum"] = given["itemsEnum"]
    return items


def _map_schema(value: Value, by_name: dict[str, Value]) -> JsonSchema:
    given = value.directives
    schema: JsonSchema = {}
    if "keysPattern" in given:
        schema["propertyNames"] = {"pattern": given["keysPattern"]}
    if "entries" in given:
        section = by_name.get(given["entries"])
        if section is None or section.is_leaf:
            raise UserError(f"{value.name}: entries:{given['entries']} is not a section of the values")
        entry = _object_schema(section.children, by_name)
        _drop_defaults(entry)
        # null removes an entry of the chart's defaults.
        schema["additionalProperties"] = {**entry, "type": ["object", "null"]}
    elif given.get("values", "any") == "any":
        schema["additionalProperties"] = True
    else:
        schema["additionalProperties"] = {"type": given["values"]}
    return schema


def _drop_defaults(schema: JsonSchema) -> None:
    """Remove defaults: an entry's default is the value in its section, which the user may have changed."""
    schema.pop("default", None)
    for child in schema.get("properties", {}).values():
        _drop_defaults(child)


# -- README -----------------------------------------------------------------------------------------------------------


def table_of(values: list[Value]) -> str:
    """A Markdown table with one row per leaf."""
    rows = ["| Key | Type | Default | What it decides |", "|---|---|---|---|"]
    for leaf in (leaf for value in values for leaf in value.leaves()):
        cells = [
            f"`{leaf.name}`",
            _shown_type(leaf),
            f"`{json.dumps(leaf.default, ensure_ascii=False)}`",
            # A <placeholder> would be parsed as HTML and not shown.
            leaf.description.replace("<", "\\<"),
        ]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _shown_type(leaf: Value) -> str:
    given = leaf.directives
    if "enum" in given:
        return " or ".join(f"`{item}`" for item in given["enum"])
    if "entries" in given:
        return f"map of objects like `{given['entries']}`"
    types = given.get("type") or [_type_of(leaf.default)]
    shown = " or ".join(types)
    if "array" in types:
        shown = shown.replace("array", f"list of {given.get('items', 'string')}s")
    return shown


def with_table(readme: str, table: str, source: str) -> str:
    """Return the README with this table between the two markers."""
    start, found_start, rest = readme.partition(_TABLE_START)
    _, found_end, end = rest.partition(_TABLE_END)
    if not found_start or not found_end:
        raise UserError(f"{source} does not have the table's markers: add {_TABLE_START} and {_TABLE_END}")
    return f"{start}{_TABLE_START}\n\n{table}\n\n{_TABLE_END}{end}"


def generate(chart: Path) -> dict[Path, str]:
    """Path → text of the files generated from one chart's values.yaml."""
    source = chart / "values.yaml"
    values = parse(source.read_text(), str(source))
    schema = schema_of(values, f"Values of the chart {chart.name}")
    readme = chart / "README.md"
    return {
        chart / "values.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        readme: with_table(readme.read_text(), table_of(values), str(readme)),
    }
