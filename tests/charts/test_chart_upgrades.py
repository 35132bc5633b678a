"""An upgrade from every released chart changes no immutable field."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from comfyeks.charts import CHARTS_ROOT
from comfyeks.charts.render import render
from tests.charts import released

RELEASES = {file.stem: yaml.safe_load(file.read_text()) for file in sorted(released.FOLDER.glob("*.yaml"))}
_EACH = [(version, scenario) for version, kept in RELEASES.items() for scenario in kept]


def test_there_is_a_release_to_upgrade_from_and_the_present_version_is_newer_or_among_them() -> None:
    version = yaml.safe_load((CHARTS_ROOT / "comfyui" / "Chart.yaml").read_text())["version"]

    def number(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    assert RELEASES
    assert number(version) >= max(map(number, RELEASES))


@pytest.mark.parametrize(("version", "scenario"), _EACH, ids=["-".join(key) for key in _EACH])
def test_selectors_claims_and_volumes_stay_as_they_were(version: str, scenario: str) -> None:
    kept: dict[str, Any] = RELEASES[version][scenario]
    now = released.immutable(render("comfyui", kept["values"]))
    assert {name: now.get(name) for name in kept["objects"]} == kept["objects"]
