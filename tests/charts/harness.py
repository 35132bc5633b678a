"""Helpers of the chart tests: scenarios, rendered charts, pods, refusals."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from comfyeks.charts import CHARTS, CHARTS_ROOT
from comfyeks.charts import render as rendering
from comfyeks.charts.render import Rendered, RenderError, render
from comfyeks.paths import REPO_ROOT
from tests.support.modules import load

Container = dict[str, Any]

# (chart, scenario) → its values file. ci/ holds a file for each feature that changes what is rendered.
SCENARIOS = {
    (chart, file.name.removesuffix("-values.yaml")): file
    for chart in CHARTS
    for file in sorted((CHARTS_ROOT / chart / "ci").glob("*-values.yaml"))
}
INSTANCE_TYPES = {
    (chart, file.stem): file for chart in CHARTS for file in sorted((CHARTS_ROOT / chart / "instance-types").glob("*"))
}

each_scenario = pytest.mark.parametrize(
    ("chart", "scenario"), list(SCENARIOS), ids=["-".join(key) for key in SCENARIOS]
)
each_workload = pytest.mark.parametrize("scenario", [scenario for chart, scenario in SCENARIOS if chart == "comfyui"])


def scenario_of(chart: str, scenario: str, **kwargs: Any) -> Rendered:
    return render(chart, files=[SCENARIOS[chart, scenario]], **kwargs)


def comfyui(values: dict[str, Any] | None = None, **kwargs: Any) -> Rendered:
    """The workload as `make infra` configures it, with these values over it."""
    return render("comfyui", values, [SCENARIOS["comfyui", "minimal"]], **kwargs)


def node_pools(values: dict[str, Any] | None = None, **kwargs: Any) -> Rendered:
    """The node pools as `make infra` configures them, with these values over it."""
    return render("karpenter-gpu", values, [SCENARIOS["karpenter-gpu", "minimal"]], **kwargs)


def helm(*arguments: str | Path, stdin: str = "") -> str:
    """Run helm; returns its output, and fails the test if helm fails."""
    done = rendering.helm(*arguments, stdin=stdin)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def refused(*texts: str) -> Iterator[None]:
    """The chart does not render, and the message has all of `texts`."""
    with pytest.raises(RenderError) as caught:
        yield
    message = " ".join(caught.value.stderr.split())
    for text in texts:
        assert text in message


class Pod:
    """The pod of a rendered Deployment."""

    def __init__(self, rendered: Rendered):
        [self.deployment] = rendered.of_kind("Deployment")
        self.template: dict[str, Any] = self.deployment["spec"]["template"]
        self.spec: dict[str, Any] = self.template["spec"]

    @property
    def containers(self) -> list[Container]:
        """Every container, including init containers."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def names(self) -> list[str]:
        return [container["name"] for container in self.containers]

    def container(self, name: str) -> Container:
        [found] = [container for container in self.containers if container["name"] == name]
        return found

    @property
    def comfyui(self) -> Container:
        return self.container("comfyui")

    def env(self, container: str) -> dict[str, Any]:
        items = self.container(container)["env"]
        assert len(items) == len({item["name"] for item in items}), "a variable is set twice"
        return {item["name"]: item.get("value", item.get("valueFrom")) for item in items}

    def mounts(self, container: str) -> dict[str, str]:
        """Mount path → name of the volume."""
        return {mount["mountPath"]: mount["name"] for mount in self.container(container)["volumeMounts"]}

    def volume(self, name: str) -> dict[str, Any]:
        [found] = [volume for volume in self.spec["volumes"] if volume["name"] == name]
        return found

    def tolerates(self, key: str) -> bool:
        return any(toleration["key"] == key for toleration in self.spec.get("tolerations", []))


def pod_script(name: str) -> ModuleType:
    """A script of the pod as a module of its own, so that a test may change its constants."""
    return _as_module(CHARTS_ROOT / "comfyui" / "files" / f"{name}.py")


def node_program() -> ModuleType:
    """The model-sync program of the GPU nodes."""
    return _as_module(REPO_ROOT / "node" / "comfyui-model-sync")


def _as_module(path: Path) -> ModuleType:
    return load(path, f"charts_{path.stem.replace('-', '_')}")


def need_tool(name: str) -> str:
    """Path of a program; skips without it, unless REQUIRE_TOOLS (a comma-separated list) names it."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        if name in os.environ.get("REQUIRE_TOOLS", "").split(","):
            pytest.fail(f"{name} is not on PATH, and REQUIRE_TOOLS names it")
        pytest.skip(f"{name} is not on PATH")
    return found
