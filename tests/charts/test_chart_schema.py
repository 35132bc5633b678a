"""The generator of schemas and README tables, and its output for the charts' own values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from comfyeks.charts import CHARTS, CHARTS_ROOT
from comfyeks.dev import chart_files
from comfyeks.dev.chart_schema import generate, parse, schema_of, table_of, with_table
from comfyeks.dev.cli import charts as app
from comfyeks.errors import OperationError, UserError
from tests.charts.harness import SCENARIOS


def schema(text: str) -> dict[str, Any]:
    return schema_of(parse(text, "values.yaml"), "test")


def of(text: str) -> dict[str, Any]:
    """Schema of the one key of a values.yaml."""
    [(_, value)] = [item for item in schema(text)["properties"].items() if item[0] != "global"]
    return dict(value)


@pytest.mark.parametrize(
    ("default", "kind"),
    [('"a"', "string"), ("1", "integer"), ("1.5", "number"), ("true", "boolean"), ("[]", "array"), ("{}", "object")],
)
def test_the_type_is_that_of_the_default(default: str, kind: str) -> None:
    assert of(f"# -- Text.\nkey: {default}\n")["type"] == kind


def test_text_and_default_are_copied() -> None:
    found = of("# -- One line\n# and another.\n# @schema minimum:1; maximum:3\nkey: 2\n")
    assert found == {
        "description": "One line and another.",
        "default": 2,
        "type": "integer",
        "minimum": 1,
        "maximum": 3,
    }


def test_a_comment_above_the_text_is_not_part_of_it() -> None:
    assert of("# Heading.\n# -- Text.\nkey: 2\n")["description"] == "Text."


def test_a_pattern_may_hold_what_separates_directives() -> None:
    assert of("# -- Text.\n# @schema pattern:^a;b:c$; minLength:1\nkey: ''\n")["pattern"] == "^a;b:c$"


def test_null_needs_a_type_and_is_then_allowed() -> None:
    found = of("# -- Text.\n# @schema type:string|null; enum:a,b\nkey: null\n")
    assert found["type"] == ["string", "null"]
    assert found["enum"] == ["a", "b", None]
    with pytest.raises(UserError, match=r"values.yaml:2: key is null: name its type"):
        schema("# -- Text.\nkey: null\n")


def test_a_section_refuses_unknown_keys() -> None:
    made = schema("section:\n  # -- Text.\n  key: 1\n")
    jsonschema.validate({"section": {"key": 2}}, made)
    for unknown in ({"other": 1}, {"section": {"other": 1}}):
        with pytest.raises(jsonschema.ValidationError, match="'other' was unexpected"):
            jsonschema.validate(unknown, made)


def test_a_map_accepts_any_name() -> None:
    made = schema("# -- Text.\n# @schema values:string\nlabels:\n  a: b\n")
    jsonschema.validate({"labels": {"anything": "x"}}, made)
    with pytest.raises(jsonschema.ValidationError, match="1 is not of type 'string'"):
        jsonschema.validate({"labels": {"anything": 1}}, made)


def test_a_list_is_constrained_in_its_items() -> None:
    made = schema("# -- Text.\n# @schema minItems:1; uniqueItems:true; itemsEnum:a,b\nkey: [a]\n")
    jsonschema.validate({"key": ["a", "b"]}, made)
    for wrong in ([], ["a", "a"], ["c"]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"key": wrong}, made)


ENTRIES = """
# -- Pools.
# @schema entries:defaults; keysPattern:^[a-z]+$
pools:
  one: {}
defaults:
  # -- Size.
  # @schema minimum:1
  size: 1
"""


def test_entries_have_the_keys_of_their_section_and_may_be_removed() -> None:
    made = schema(ENTRIES)
    jsonschema.validate({"pools": {"a": {"size": 2}, "b": {}, "one": None}}, made)
    for wrong in ({"a": {"size": 0}}, {"a": {"other": 1}}, {"A": {}}, {"a": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"pools": wrong}, made)


def test_an_entry_has_no_default_of_its_own() -> None:
    entry = schema(ENTRIES)["properties"]["pools"]["additionalProperties"]
    assert "default" not in entry["properties"]["size"]
    assert schema(ENTRIES)["properties"]["defaults"]["properties"]["size"]["default"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key: 1\n", "values.yaml:1: key has no description"),
        ("# -- Text.\n\nkey: 1\n", "values.yaml:3: key has no description"),
        ("a:\n  b: 1\n", "values.yaml:2: a.b has no description"),
        ("# -- Text.\n# @schema colour:red\nkey: 1\n", "unknown @schema directive 'colour:red'"),
        ("# -- Text.\n# @schema type:text\nkey: 1\n", "unknown type 'text'"),
        ("# -- Text.\n# @schema entries:nothing\nkey: {}\n", "entries:nothing is not a section"),
        ("[]", "the values are not a mapping"),
    ],
)
def test_a_missing_or_wrong_annotation_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        schema(text)


def test_the_table_has_a_row_for_each_leaf_and_survives_pipes_and_placeholders() -> None:
    table = table_of(parse("section:\n  # -- This | <that>.\n  # @schema enum:a,b\n  key: a\n", "values.yaml"))
    assert table.splitlines()[2:] == ['| `section.key` | `a` or `b` | `"a"` | This \\| \\<that>. |']


def test_a_readme_without_the_markers_is_refused() -> None:
    with pytest.raises(UserError, match=r"README.md does not have the table's markers"):
        with_table("# Title\n", "table", "README.md")


def test_generating_twice_changes_nothing_more() -> None:
    readme = (CHARTS_ROOT / "comfyui" / "README.md").read_text()
    assert generate(CHARTS_ROOT / "comfyui")[CHARTS_ROOT / "comfyui" / "README.md"] == readme


# -- The charts' own values --------------------------------------------------------------------------------------------


def leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in node["properties"].items():
        if "properties" in child:
            yield from leaves(child, f"{path}{name}.")
        else:
            yield f"{path}{name}", child


def committed(chart: str) -> dict[str, Any]:
    return dict(json.loads((CHARTS_ROOT / chart / "values.schema.json").read_text()))


@pytest.mark.parametrize("chart", CHARTS)
def test_the_schema_is_draft_07_and_sound(chart: str) -> None:
    made = committed(chart)
    assert made["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(made)


@pytest.mark.parametrize("chart", CHARTS)
def test_every_leaf_has_a_description_and_its_default(chart: str) -> None:
    found = [(path, leaf) for path, leaf in leaves(committed(chart)) if path != "global"]
    assert len(found) > 20
    for path, leaf in found:
        assert leaf["description"].endswith("."), path
        assert "default" in leaf, path


@pytest.mark.parametrize("chart", CHARTS)
def test_defaults_are_those_of_the_values_and_pass_their_own_schema(chart: str) -> None:
    values = yaml.safe_load((CHARTS_ROOT / chart / "values.yaml").read_text())
    jsonschema.validate(values, committed(chart))
    for path, leaf in leaves(committed(chart)):
        if path != "global":
            value: Any = values
            for key in path.split("."):
                value = value[key]
            assert leaf["default"] == value, path


# -- Committed files ---------------------------------------------------------------------------------------------------


def test_everything_generated_is_up_to_date() -> None:
    assert chart_files.stale() == []


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of charts/ that the generators write to."""
    import shutil

    shutil.copytree(CHARTS_ROOT, tmp_path / "charts")
    for module in (chart_files,):
        monkeypatch.setattr(module, "CHARTS_ROOT", tmp_path / "charts")
    monkeypatch.setattr("comfyeks.dev.charts.REPO_ROOT", tmp_path)
    return tmp_path / "charts"


def test_verify_names_stale_missing_and_surplus_files_and_generate_fixes_them(copy: Path) -> None:
    (copy / "comfyui" / "values.schema.json").write_text("{}")
    (copy / "comfyui" / "instance-types" / "g5.xlarge.yaml").unlink()
    (copy / "karpenter-gpu" / "instance-types" / "x9.large.yaml").write_text("a: 1\n")
    result = CliRunner().invoke(app, ["verify"])
    assert isinstance(result.exception, OperationError)
    for name in ("values.schema.json", "g5.xlarge.yaml", "x9.large.yaml", "comfyeks dev charts generate"):
        assert name in str(result.exception)
    assert CliRunner().invoke(app, ["generate"]).exit_code == 0
    assert CliRunner().invoke(app, ["verify"]).exit_code == 0
    assert not (copy / "karpenter-gpu" / "instance-types" / "x9.large.yaml").exists()


def test_the_command_line_renders_what_the_tests_render() -> None:
    file = str(SCENARIOS["comfyui", "minimal"])
    result = CliRunner().invoke(app, ["render", "comfyui", "-f", file, "--set", "gpu.count=0", "--set", "replicas=2"])
    assert result.exit_code == 0
    [deployment] = [item for item in yaml.safe_load_all(result.stdout) if item["kind"] == "Deployment"]
    assert deployment["spec"]["replicas"] == 2
    assert "nvidia.com/gpu" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["render", "comfy"], "there is no chart 'comfy': it is one of comfyui, karpenter-gpu"),
        (["render", "comfyui", "-f", "nowhere.yaml"], "no values file nowhere.yaml"),
        (["render", "comfyui", "--set", "gpu.count"], "--set gpu.count: write KEY.KEY=VALUE"),
        (["render", "comfyui", "--set", "gpu=1", "--set", "gpu.count=0"], "gpu already has the value 1"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(arguments: list[str], message: str) -> None:
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, UserError)
    assert message in str(error)
