"""What the steps of a run share: the deployment, its settings, and the cluster once there is one."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import ClientError

from comfyeks import image
from comfyeks.addons import checked_context, leads_to, read_kubeconfig
from comfyeks.deployment import Deployment
from comfyeks.errors import Failure
from comfyeks.files import write_atomically
from comfyeks.helm import Helm, Release
from comfyeks.infra import outputs
from comfyeks.infra.variables import Settings
from comfyeks.kubernetes_api import Cluster
from comfyeks.paths import REPO_ROOT
from comfyeks.settings import DeploymentSettings

POOLS_RELEASE, POOLS_NAMESPACE = "karpenter-gpu", "kube-system"


@dataclass
class Work:
    """`flags` are Terraform's, from the command line; `context` is None until there is a kubectl context."""

    deployment: Deployment
    settings: DeploymentSettings
    flags: Settings
    log: Path
    context: str | None
    lock: int | None = None
    wait: bool = True
    pending: dict[str, str] = field(default_factory=dict)  # of Terraform's roots, once asked

    @property
    def release(self) -> str:
        return str(self.settings.terraform.get("comfyui_release", "comfyui"))

    @property
    def namespace(self) -> str:
        return str(self.settings.terraform.get("comfyui_namespace", "comfyui"))

    @property
    def helm(self) -> Helm:
        return Helm(self._context(), self.log, () if self.lock is None else (self.lock,))

    @cached_property
    def cluster(self) -> Cluster:
        return Cluster(self._context())

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """Terraform's, of the platform; asked once, so only after the platform's step."""
        return outputs.platform(self.deployment)

    def _context(self) -> str:
        if self.context is None:
            raise Failure(f"there is no kubectl context for {self.deployment.name} yet")
        return self.context

    def image_tag(self) -> str:
        """The tag of the image that this checkout's image/ makes, unless the settings name one."""
        return self.settings.image_tag or image.tag()

    def pools(self) -> Release:
        """The release of charts/karpenter-gpu."""
        values = self._values("karpenter-gpu", self.settings.karpenter_gpu)
        return Release(POOLS_RELEASE, POOLS_NAMESPACE, "charts/karpenter-gpu", values=values)

    def comfyui(self) -> Release:
        """The release of charts/comfyui. Not waited for: its pods wait for nodes, images and models."""
        kind = REPO_ROOT / "charts" / "comfyui" / "instance-types" / f"{self.settings.instance_type}.yaml"
        return Release(
            self.release,
            self.namespace,
            "charts/comfyui",
            values=(kind, *self._values("comfyui", self.settings.comfyui)),
            sets=(f"image.tag={self.image_tag()}",),
            flags=("--create-namespace",),
            wait=False,
        )

    def _values(self, chart: str, own: dict[str, Any]) -> tuple[Path, ...]:
        """The generated values of a chart, and over them the operator's."""
        generated = self.deployment.dir / f"{chart}.values.yaml"
        if not own:
            return (generated,)
        path = self.deployment.dir / f"{chart}.own.values.yaml"
        write_atomically(path, "# Written from the settings file.\n" + yaml.safe_dump(own, allow_unicode=True))
        return (generated, path)


def cluster_arn(deployment: Deployment) -> str | None:
    """The ARN of the deployment's cluster, None when there is none."""
    eks = boto3.client("eks", region_name=deployment.region)
    try:
        return eks.describe_cluster(name=deployment.name)["cluster"]["arn"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceNotFoundException":
            return None
        raise Failure(f"EKS did not tell whether cluster {deployment.name} exists: {error}") from error


def context_before(deployment: Deployment, wanted: str | None) -> str | None:
    """The kubectl context that leads to the cluster, None when one is yet to be made.

    Raises UserError when the one that is chosen, or current, leads elsewhere though the cluster exists.
    """
    kubeconfig = read_kubeconfig()
    if wanted is not None:
        return checked_context(kubeconfig, wanted, deployment)
    current = kubeconfig["current-context"]
    if current is None or current not in kubeconfig["contexts"]:
        return None
    if leads_to(kubeconfig["contexts"][current], deployment):
        return str(current)
    return checked_context(kubeconfig, None, deployment) if cluster_arn(deployment) else None


def make_context(deployment: Deployment) -> str:
    """Add the cluster to the kubeconfig, as its current context. Raises Failure with the AWS CLI's words."""
    argv = ["aws", "eks", "update-kubeconfig", "--region", deployment.region, "--name", deployment.name]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise Failure("aws is not on PATH: kubectl and helm ask it for the cluster's password") from error
    if done.returncode:
        raise Failure(f"`{' '.join(argv)}` failed: {' '.join(done.stderr.split())}")
    return checked_context(read_kubeconfig(), None, deployment)
