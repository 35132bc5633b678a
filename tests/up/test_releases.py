"""The Helm releases that `comfyeks up` installs: which values reach which chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comfyeks.charts import CHARTS_ROOT
from comfyeks.charts.render import render
from comfyeks.deployment import Deployment
from comfyeks.platform import preflight
from comfyeks.settings import DeploymentSettings
from comfyeks.terraform.variables import AccessFlags
from comfyeks.up.run_context import RunContext
from tests.support.mocked_aws import mocked_aws

DEPLOYMENT = Deployment(None, "us-west-2", "111122223333")


@pytest.fixture(autouse=True)
def generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the values file that `comfyeks infra apply` writes."""
    monkeypatch.setattr("comfyeks.deployment.STATE", tmp_path)
    path = DEPLOYMENT.chart_values("karpenter-gpu")
    path.parent.mkdir(parents=True)
    path.write_text((CHARTS_ROOT / "karpenter-gpu" / "ci" / "minimal-values.yaml").read_text())


def pool_types(settings: DeploymentSettings) -> list[list[str]]:
    """Return the instance types of each node pool that `up` installs with these settings."""
    run = RunContext(DEPLOYMENT, settings, AccessFlags(), Path("log"), None)
    pools = render("karpenter-gpu", files=run.pools().values).of_kind("NodePool")
    return [_types(pool) for pool in pools]


def test_a_pool_of_families_is_checked_for_their_types_of_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"pools": {"default": {"instanceFamilies": ["g6"]}}}
    [pool] = preflight.gpu_pools(DeploymentSettings(karpenter_gpu=own))
    with mocked_aws(DEPLOYMENT.account):
        offers = preflight._offers(DEPLOYMENT, [pool])
    types = preflight._offered_types(pool, offers)
    assert {"g6.xlarge", "g6.2xlarge", "g6.16xlarge"} <= set(types)
    assert all(kind.startswith("g6.") and offers[kind].gpus == 1 for kind in types)
    assert "g6.48xlarge" in offers  # eight GPUs
    assert "g6.48xlarge" not in types


def _types(pool: dict[str, Any]) -> list[str]:
    requirements = pool["spec"]["template"]["spec"]["requirements"]
    [types] = [each["values"] for each in requirements if each["key"] == "node.kubernetes.io/instance-type"]
    return sorted(types)


def test_the_instance_type_of_the_settings_is_the_node_pools() -> None:
    assert pool_types(DeploymentSettings(instance_type="g6.4xlarge")) == [["g6.4xlarge"]]


@pytest.mark.parametrize(
    "own",
    [
        {"poolDefaults": {"instanceTypes": ["g5.xlarge", "g6.xlarge"]}},
        {"pools": {"default": {"instanceTypes": ["g5.xlarge", "g6.xlarge"]}}},
    ],
)
def test_pools_of_the_settings_win_over_the_instance_type(own: dict[str, Any]) -> None:
    assert pool_types(DeploymentSettings(karpenter_gpu=own)) == [["g5.xlarge", "g6.xlarge"]]


@pytest.mark.parametrize(
    "own",
    [{}, {"poolDefaults": {"instanceTypes": ["g6e.xlarge"]}}, {"pools": {"large": {"instanceTypes": ["g5.16xlarge"]}}}],
)
def test_the_preflight_checks_the_pools_that_are_installed(own: dict[str, Any]) -> None:
    settings = DeploymentSettings(karpenter_gpu=own)
    asked = [sorted(pool["instanceTypes"]) for pool in preflight.gpu_pools(settings)]
    assert sorted(asked) == sorted(pool_types(settings))
