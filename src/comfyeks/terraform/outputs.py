"""Terraform's outputs of a deployment. They are read from the remote state, so any checkout can."""

from __future__ import annotations

from typing import Any

from comfyeks.deployment import Deployment
from comfyeks.errors import UserError
from comfyeks.terraform import state_bucket
from comfyeks.terraform.runner import Root


def platform(deployment: Deployment) -> dict[str, Any]:
    """Name → value of every output of the platform root.

    Raises UserError when there is no platform, OperationError when AWS or Terraform fail.
    """
    missing = UserError(
        f"{deployment.name} does not exist in account {deployment.account}, {deployment.region}: "
        "run `comfyeks infra apply` first, or check --project, --region and the credentials"
    )
    if not state_bucket.exists(deployment):
        raise missing
    root = Root("platform", deployment)
    root.init()
    values = root.outputs()
    if not values:
        raise missing
    return values
