"""The generated files for charts, add-ons and Chalice."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from comfyeks.deployment import Deployment
from comfyeks.platform import values_files

OUTPUTS: dict[str, Any] = {
    "cluster_name": "comfyui",
    "helm_values": {
        "karpenter_gpu": {"cluster": {"name": "comfyui"}},
        "comfyui": {"image": {"repository": "r"}, "outputs": {"bucket": "comfyui-outputs-1"}},
        "addons": {"karpenter": {"settings": {"clusterName": "comfyui"}}, "keda": {}},
    },
}


@pytest.fixture
def written(deployment: Deployment) -> Deployment:
    values_files.write(deployment, OUTPUTS)
    return deployment


def test_each_chart_and_add_on_gets_its_values_file(written: Deployment) -> None:
    files = {str(path.relative_to(written.dir)) for path in written.dir.rglob("*.values.yaml")}
    assert files == {
        "karpenter-gpu.values.yaml",
        "comfyui.values.yaml",
        "addons/karpenter.values.yaml",
        "addons/keda.values.yaml",
    }
    values = yaml.safe_load((written.dir / "addons/karpenter.values.yaml").read_text())
    assert values == {"settings": {"clusterName": "comfyui"}}


def test_values_file_names_its_deployment(written: Deployment) -> None:
    first = (written.dir / "comfyui.values.yaml").read_text().splitlines()[0]
    assert first == "# comfyui in 111122223333, us-west-2. Written by `comfyeks infra apply`."


def test_outputs_are_written_unchanged(written: Deployment) -> None:
    assert json.loads((written.dir / "outputs.json").read_text()) == OUTPUTS


def test_file_of_a_removed_add_on_is_deleted(written: Deployment) -> None:
    values_files.write(written, {**OUTPUTS, "helm_values": {**OUTPUTS["helm_values"], "addons": {"karpenter": {}}}})
    assert [path.name for path in (written.dir / "addons").iterdir()] == ["karpenter.values.yaml"]


def test_removing_keeps_the_operators_own_file(written: Deployment) -> None:
    own = written.dir / "settings.yaml"
    own.touch()
    values_files.remove(written)
    assert list(written.dir.iterdir()) == [own]
