"""RunContext: what the steps of a run share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from comfyeks.charts import CHARTS_ROOT
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError
from comfyeks.files import write_atomically
from comfyeks.image import build as image_build
from comfyeks.kubernetes.api import Cluster
from comfyeks.kubernetes.helm import Helm, Release
from comfyeks.settings import DeploymentSettings
from comfyeks.terraform import outputs
from comfyeks.terraform.variables import AccessFlags

POOLS_RELEASE, POOLS_NAMESPACE = "karpenter-gpu", "kube-system"


@dataclass
class RunContext:
    """A deployment with its settings, and its cluster once there is one.

    `flags` are Terraform's, from the command line; `kube_context` is None until there is a kubectl context.
    """

    deployment: Deployment
    settings: DeploymentSettings
    flags: AccessFlags
    log: Path
    kube_context: str | None
    lock: int | None = None  # file descriptor that processes which change something inherit, see engine.alone
    wait: bool = True
    root_changes: dict[str, str] = field(default_factory=dict)  # pending changes of Terraform's roots, once known

    @property
    def release(self) -> str:
        return self.settings.release

    @property
    def namespace(self) -> str:
        return self.settings.namespace

    @property
    def helm(self) -> Helm:
        return Helm(self._required_kube_context(), self.log, () if self.lock is None else (self.lock,))

    @cached_property
    def cluster(self) -> Cluster:
        return Cluster(self._required_kube_context())

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """Terraform's outputs of the platform; read once, so only after the platform's step."""
        return outputs.platform(self.deployment)

    def _required_kube_context(self) -> str:
        if self.kube_context is None:
            raise OperationError(f"there is no kubectl context for {self.deployment.name} yet")
        return self.kube_context

    def image_tag(self) -> str:
        """Return the image tag that the settings name, else the one of the image that this checkout builds."""
        return self.settings.image_tag or image_build.tag()

    def pools(self) -> Release:
        """Return the release of charts/karpenter-gpu."""
        return Release(
            POOLS_RELEASE,
            POOLS_NAMESPACE,
            "charts/karpenter-gpu",
            values=self._values("karpenter-gpu", self.settings.karpenter_gpu),
        )

    def comfyui(self) -> Release:
        """Return the release of charts/comfyui, without waiting: its pods wait for nodes, images and models."""
        return Release(
            self.release,
            self.namespace,
            "charts/comfyui",
            values=self._values("comfyui", self.settings.comfyui),
            sets=(f"image.tag={self.image_tag()}",),
            flags=("--create-namespace",),
            wait=False,
        )

    def _values(self, chart: str, own: dict[str, Any]) -> tuple[Path, ...]:
        """Return a chart's values files, later ones win: of the instance type, from Terraform, of the settings file."""
        of_type = CHARTS_ROOT / chart / "instance-types" / f"{self.settings.instance_type}.yaml"
        files = (of_type, self.deployment.chart_values(chart))
        if not own:
            return files
        path = self.deployment.dir / f"{chart}.own.values.yaml"
        write_atomically(path, "# Written from the settings file.\n" + yaml.safe_dump(own, allow_unicode=True))
        return (*files, path)
