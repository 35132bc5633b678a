"""Every branch of every template is rendered, and every value has an effect."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from comfyeks.charts import CHARTS, CHARTS_ROOT
from comfyeks.charts import render as rendering
from comfyeks.charts.render import KubernetesObject, RenderError
from tests.charts import coverage
from tests.charts.harness import SCENARIOS

POLICY = {"enabled": True, "vpcCidrs": ["10.0.0.0/16"]}
# Values over the minimal scenario, for branches that no scenario takes.
BESIDE_SCENARIOS: dict[str, list[dict[str, Any]]] = {
    "comfyui": [
        {"networkPolicy": POLICY},
        {"networkPolicy": {**POLICY, "loadBalancerCidrs": ["10.0.1.0/24"]}},
        {"networkPolicy": {**POLICY, "metricsFrom": [{"podSelector": {}}]}, "monitoring": {"enabled": True}},
        {"monitoring": {"enabled": True}, "outputs": {"mode": "mount"}},
        {"gpu": {"count": 0}, "tolerations": [{"operator": "Exists"}]},
    ],
    "karpenter-gpu": [{"nodeClasses": {"default": {"modelSync": {"settings": {"budget": None}}}}}],
}


@pytest.mark.parametrize("chart", CHARTS)
def test_each_condition_of_the_templates_is_rendered_both_ways(chart: str, tmp_path: Path) -> None:
    noted, branches = coverage.instrumented(chart, tmp_path)
    inputs: list[tuple[Path, dict[str, Any]]] = [(file, {}) for (of, _), file in SCENARIOS.items() if of == chart]
    inputs += [(SCENARIOS[chart, "minimal"], values) for values in BESIDE_SCENARIOS[chart]]
    assert len(branches) > 10
    assert branches - set(coverage.taken(noted, inputs)) == set()


def test_a_branch_that_is_never_taken_is_found(tmp_path: Path) -> None:
    noted, branches = coverage.instrumented("comfyui", tmp_path)
    missing = branches - set(coverage.taken(noted, [(SCENARIOS["comfyui", "minimal"], {})]))
    assert "deployment.yaml" in " ".join(missing)
    assert any(what.endswith("if .Values.rollout.spareGpu") for what in missing)
    assert not any(what.endswith("if not .Values.schedule.windows") for what in missing)


# -- Values -----------------------------------------------------------------------------------------------------------


def leaves(node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    for name, child in node["properties"].items():
        if "properties" in child:
            yield from leaves(child, (*path, name))
        elif name != "global":
            yield (*path, name), child


def leaves_of(chart: str) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    return list(leaves(json.loads((CHARTS_ROOT / chart / "values.schema.json").read_text())))


@cache
def scenario_values(chart: str, scenario: str) -> dict[str, Any]:
    return dict(yaml.safe_load(SCENARIOS[chart, scenario].read_text()))


def at(values: Any, path: tuple[str, ...]) -> Any:
    """The value at this path. Raises KeyError if there is none."""
    for key in path:
        if not isinstance(values, dict):
            raise KeyError(key)
        values = values[key]
    return values


def made(chart: str, values: dict[str, Any]) -> list[KubernetesObject] | str:
    """Objects and notes of these values, or the message with which helm refused them."""
    try:
        return list(rendering.render(chart, values))
    except RenderError as error:
        return error.stderr


EACH_LEAF = [(chart, path) for chart in CHARTS for path, _ in leaves_of(chart)]


@pytest.mark.parametrize(("chart", "path"), EACH_LEAF, ids=[f"{chart}:{'.'.join(path)}" for chart, path in EACH_LEAF])
def test_a_value_has_an_effect(chart: str, path: tuple[str, ...]) -> None:
    """In a scenario with another value than the default, the default renders something else, or is refused."""
    default = dict(leaves_of(chart))[path]["default"]
    for of, scenario in SCENARIOS:
        values = scenario_values(chart, scenario) if of == chart else {}
        try:
            given = at(values, path)
        except KeyError:
            continue
        if given == default:
            continue
        without = copy.deepcopy(values)
        at(without, path[:-1])[path[-1]] = default
        if made(chart, without) != made(chart, values):
            return
    pytest.fail("no scenario renders otherwise without it: it is used by no template, or by no scenario")


@pytest.mark.parametrize("chart", CHARTS)
def test_every_key_that_a_template_reads_is_declared(chart: str) -> None:
    values = yaml.safe_load((CHARTS_ROOT / chart / "values.yaml").read_text())
    # The user chooses the keys below these.
    open_maps = {path for path, leaf in leaves_of(chart) if "object" in leaf["type"] or "array" in leaf["type"]}
    templates = CHARTS_ROOT / chart / "templates"
    found = {(file.name, path) for file in templates.iterdir() for path in coverage.reads(file.read_text())}
    assert len(found) > 20
    for file, path in found:
        for end in range(1, len(path) + 1):
            if path[: end - 1] in open_maps:
                break
            try:
                at(values, path[:end])
            except KeyError:
                pytest.fail(f"{file} reads .Values.{'.'.join(path)}, which is not declared")


@pytest.mark.parametrize(
    "text",
    [
        "{{ .Values.gpu.cuont }}",
        "{{ with .Values.gpu }}{{ if .x }}{{ end }}{{ .cuont }}{{ end }}",
        "{{ $gpu := .Values.gpu }}{{ if $gpu.cuont }}{{ end }}",
        "{{ range .Values.x }}{{ $.Values.gpu.cuont }}{{ end }}",
    ],
)
def test_a_key_that_is_read_in_any_of_these_ways_is_found(text: str) -> None:
    assert ("gpu", "cuont") in coverage.reads(text)


def test_a_text_and_an_element_of_a_list_are_not_taken_for_keys() -> None:
    text = '{{ range .Values.list }}{{ .name }}{{ end }}{{ printf "%s.foo" .Release.Name }}{{ $other.key }}'
    assert list(coverage.reads(text)) == [("list",)]
