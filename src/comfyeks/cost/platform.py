"""What a deployment costs while it exists, however it is used: one sum for `up --plan` and `status`.

`comfyeks cost` adds the same lines (comfyeks.cost.model) to those that depend on use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfyeks.cost.model import Line, Usage, estimate
from comfyeks.settings import DeploymentSettings

ZONES = 3  # how many the platform uses, unless its variable `zones` names some


def usage_of(settings: DeploymentSettings) -> Usage:
    """Return the usage of a platform with these settings; what depends on use is that of the reference scenario."""
    variables = settings.platform
    return Usage(
        instance_type=settings.instance_type,
        system_type=variables.get("system_node_types", ["t3a.xlarge"])[0],
        system_capacity="on-demand",
        system_nodes=variables.get("system_node_count", 2),
        exposure=_exposure(variables),
        nat_gateways=_nat_gateways(variables),
        disk_gib=variables.get("system_node_disk_gib", 50),
    )


def standing_lines(settings: DeploymentSettings) -> list[Line]:
    """Return everything that is paid by the hour or the month while no GPU node runs."""
    month = estimate(usage_of(settings))
    return [line for line in (*month.lines, *month.often_omitted) if line.fixed]


def zone_count(variables: Mapping[str, Any]) -> int:
    """Return the number of zones that the platform spans, from its Terraform variables."""
    return len(variables.get("zones", [])) or ZONES


def _exposure(variables: Mapping[str, Any]) -> str:
    if not variables.get("load_balancer", True):
        return "none"
    return "cloudfront" if variables.get("cloudfront") else "alb"


def _nat_gateways(variables: Mapping[str, Any]) -> int:
    """Return the platform's own NAT gateways: in an existing network, the route to the internet is its owner's."""
    if variables.get("private_subnet_ids"):
        return 0
    return {"none": 0, "per_az": zone_count(variables)}.get(variables.get("nat", "one"), 1)
