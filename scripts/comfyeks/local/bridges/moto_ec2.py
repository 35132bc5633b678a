"""moto's EC2, and the public AMI parameters that lead to its images."""

from __future__ import annotations

import hashlib
import re
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from comfyeks.local.bridges import bridge

if TYPE_CHECKING:
    from moto.ec2.models.launch_templates import LaunchTemplate
    from moto.ssm.models import ParameterDict

# What "recommended" resolves to; any other release of the form vYYYYMMDD exists too.
RECOMMENDED_RELEASE = "20261101"
_EKS_AMI_PARAMETER = re.compile(
    r"/aws/service/eks/optimized-ami/(?P<kubernetes>1\.\d+)/amazon-linux-2023/(?P<arch>x86_64|arm64)/"
    r"(?P<variant>standard|nvidia|neuron)/"
    r"(?:recommended|amazon-eks-node-al2023-(?P=arch)-(?P=variant)-(?P=kubernetes)-v(?P<release>\d{8}))/"
    r"(?P<leaf>image_id|image_name|release_version)"
)


@bridge(
    "eks-ami-parameters",
    "moto",
    aws="Publishes SSM parameters for every EKS-optimized AMI, and the AMIs themselves.",
    gap="Knows neither, and refuses to store parameters below /aws/.",
    needed_by="launching nodes (local nodes, Karpenter, Terraform look the image up)",
)
def eks_ami_parameters() -> None:
    from moto.ssm.models import Parameter, ParameterDict

    load_others = ParameterDict._check_loading_status

    def check_loading_status(self: ParameterDict, key: str) -> None:
        load_others(self, key)
        if (found := _EKS_AMI_PARAMETER.fullmatch(key or "")) and not dict.__contains__(self, key):
            image_id, image_name, release = _eks_image(self.account_id, self.region_name, found)
            value = {"image_id": image_id, "image_name": image_name, "release_version": release}[found["leaf"]]
            parameter = Parameter(  # type: ignore[abstract]
                account_id=self.account_id,
                name=key,
                value=value,
                parameter_type="String",
                description=None,
                allowed_pattern=None,
                keyid=None,
                last_modified_date=_release_date(found),
                version=1,
                data_type="aws:ec2:image" if found["leaf"] == "image_id" else "text",
            )
            dict.__setitem__(self, key, [parameter])

    ParameterDict._check_loading_status = check_loading_status  # type: ignore[method-assign]


def _release_date(found: re.Match[str]) -> Any:
    from datetime import UTC, datetime

    return datetime.strptime(found["release"] or RECOMMENDED_RELEASE, "%Y%m%d").replace(tzinfo=UTC)


def _eks_image(account: str, region: str, found: re.Match[str]) -> tuple[str, str, str]:
    """(id, name, release version) of an EKS-optimized AMI, registered in EC2 at its first use."""
    from moto.ec2.models import ec2_backends
    from moto.ec2.models.amis import Ami

    release = found["release"] or RECOMMENDED_RELEASE
    name = f"amazon-eks-node-al2023-{found['arch']}-{found['variant']}-{found['kubernetes']}-v{release}"
    image_id = f"ami-{hashlib.sha256(f'{region}/{name}'.encode()).hexdigest()[:17]}"
    backend = ec2_backends[account][region]
    if image_id not in backend.amis:
        backend.amis[image_id] = Ami(
            backend,
            image_id,
            name=name,
            description=f"EKS-optimized Amazon Linux 2023 ({found['variant']}), local stand-in",
            owner_id="602401143452",  # EKS's own account in most regions
            owner_alias="amazon",
            public=True,
            virtualization_type="hvm",
            architecture=found["arch"],
            creation_date=_release_date(found),
            image_location=f"amazon/{name}",
            hypervisor="xen",
            root_device_type="ebs",
            root_device_name="/dev/xvda",
            region_name=region,
        )
    return image_id, name, f"{found['kubernetes']}.0-{release}"


@bridge(
    "launch-template-own-tags",
    "moto",
    aws="Tags given to a launch template itself are no part of the launch template's data.",
    gap="They appear as a tag specification of the data, so Terraform plans to remove them forever.",
    needed_by="a second `make infra` without changes",
)
def launch_template_own_tags() -> None:
    from moto.ec2.models.launch_templates import LaunchTemplateVersion

    create = LaunchTemplateVersion.__init__

    def init(
        self: LaunchTemplateVersion, template: LaunchTemplate, number: int, data: dict[str, Any], description: str
    ) -> None:
        create(self, template, number, data, description)
        if "TagSpecifications" in self.data:
            kept = [spec for spec in self.data["TagSpecifications"] if spec.get("ResourceType") != "launch-template"]
            self.data["TagSpecifications"] = kept

    LaunchTemplateVersion.__init__ = init  # type: ignore[method-assign]


@bridge(
    "fleet-security-groups",
    "moto",
    aws="Instances of a fleet get the security groups of the launch template, also those of its network interfaces.",
    gap="They get the default group unless the template uses the EC2-Classic field; Karpenter then sees endless drift.",
    needed_by="Karpenter (sets groups on the network interface)",
)
def fleet_security_groups() -> None:
    from moto.ec2.models.launch_templates import LaunchTemplateVersion

    create = LaunchTemplateVersion.__init__

    def init(
        self: LaunchTemplateVersion, template: LaunchTemplate, number: int, data: dict[str, Any], description: str
    ) -> None:
        create(self, template, number, data, description)
        interfaces = self.data.get("NetworkInterfaces", [])
        groups = [*self.data.get("SecurityGroupIds", []), *(g for each in interfaces for g in each.get("Groups", []))]
        if groups:
            self.data.setdefault("GroupSet", groups)  # where moto's fleets look; no field of any answer

    LaunchTemplateVersion.__init__ = init  # type: ignore[method-assign]


@bridge(
    "fleet-launch-template-tags",
    "moto",
    aws="An instance of a fleet carries the tags aws:ec2launchtemplate:id and :version of the template it came from.",
    gap="Only instances of RunInstances do, so nothing leads from a fleet's instance to its template.",
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
    aws="CreateFleet takes the pools that have capacity; where none has, it succeeds with errors and no instances.",
    gap="Every pool always has capacity.",
    needed_by="the local cluster: spot that has run out, instance types that are not to be had (`/_local/shortages`)",
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


class Shortages:
    """Capacity that EC2 does not have: pairs of a lifecycle (spot, on-demand or *) and an instance type (a pattern: g6.*)."""

    def __init__(self) -> None:
        self._pairs: list[tuple[str, str]] = []

    def set(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = [(str(lifecycle), str(instance_type)) for lifecycle, instance_type in pairs]

    def hits(self, lifecycle: str, instance_type: str) -> bool:
        return any(a in ("*", lifecycle) and fnmatch(instance_type, b) for a, b in self._pairs)


shortages = Shortages()
