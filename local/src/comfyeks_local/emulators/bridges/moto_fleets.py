"""Bridges for fleets, which moto serves: Karpenter launches instances with CreateFleet."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from comfyeks_local.emulators.bridges import bridge


class Shortages:
    """What EC2 has no capacity for: pairs of a lifecycle (spot, on-demand or *) and an instance type or pattern."""

    def __init__(self) -> None:
        self._pairs: list[tuple[str, str]] = []

    def set(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = list(pairs)

    def hits(self, lifecycle: str, instance_type: str) -> bool:
        return any(wanted in ("*", lifecycle) and fnmatch(instance_type, kind) for wanted, kind in self._pairs)


# The shortages of this process; `comfyeks_local.emulators.moto_server` sets them.
shortages = Shortages()


@bridge(
    "fleet-launch-template-tags",
    "moto",
    aws="An instance of a fleet carries the tags aws:ec2launchtemplate:id and :version of the template it came from.",
    gap="Only instances of RunInstances do, so the template of a fleet's instance cannot be found.",
    needed_by="the local cluster (role of an instance), tests of the launch template",
)
def fleet_launch_template_tags() -> None:
    from moto.ec2.models.spot_requests import SpotFleetLaunchSpec

    create = SpotFleetLaunchSpec.__init__

    def init(self: SpotFleetLaunchSpec, *arguments: Any, **options: Any) -> None:
        template = options.get("launch_template_spec") or {}
        if "LaunchTemplateId" in template:
            tags = options["tag_specifications"]
            tags["instance"] = tags.get("instance", {}) | {
                "aws:ec2launchtemplate:id": template["LaunchTemplateId"],
                "aws:ec2launchtemplate:version": str(template.get("Version", "1")),
            }
        create(self, *arguments, **options)

    SpotFleetLaunchSpec.__init__ = init  # type: ignore[method-assign]


@bridge(
    "fleet-capacity",
    "moto",
    aws="CreateFleet uses pools that have capacity; if none has, it succeeds, with errors and without instances.",
    gap="Every pool always has capacity.",
    needed_by="the local cluster: no spot capacity, unavailable instance types (`/_local/shortages`)",
)
def fleet_capacity() -> None:
    from moto.core.responses import ActionResult
    from moto.ec2.models.fleets import Fleet
    from moto.ec2.responses.fleets import Fleets

    choose, respond = Fleet.get_launch_spec_counts, Fleets.create_fleet

    def get_launch_spec_counts(self: Fleet, weight_to_add: float) -> Any:
        lifecycle = self.target_capacity_specification.get("DefaultTargetCapacityType") or "on-demand"
        everything = self.launch_specs
        self.launch_specs = [spec for spec in everything if not shortages.hits(lifecycle, spec.instance_type)]
        try:
            return choose(self, weight_to_add) if self.launch_specs else ({}, weight_to_add)
        finally:
            self.launch_specs = everything

    def create_fleet(self: Fleets) -> ActionResult:
        answer = respond(self)
        result: dict[str, Any] = answer.result  # type: ignore[assignment]
        fleet = self.ec2_backend.get_fleet(result["FleetId"])
        lifecycle = fleet.target_capacity_specification.get("DefaultTargetCapacityType") or "on-demand"
        result["Errors"] = [
            {
                "ErrorCode": "InsufficientInstanceCapacity",
                "ErrorMessage": f"There is no {lifecycle} capacity available that matches your request.",
                "Lifecycle": lifecycle,
                "LaunchTemplateAndOverrides": {
                    "LaunchTemplateSpecification": spec.launch_template_spec,
                    "Overrides": spec.overrides or {},
                },
            }
            for spec in fleet.launch_specs
            if shortages.hits(lifecycle, spec.instance_type)
        ]
        return answer

    Fleet.get_launch_spec_counts = get_launch_spec_counts  # type: ignore[method-assign]
    Fleets.create_fleet = create_fleet  # type: ignore[method-assign]
