"""Bridges for EC2, which moto serves, and for the public SSM parameters that name its AMIs."""

from __future__ import annotations

import functools
import hashlib
import re
from inspect import signature
from typing import TYPE_CHECKING, Any

from comfyeks_local.emulators.bridges import bridge

if TYPE_CHECKING:
    from moto.ec2.models.launch_templates import LaunchTemplate
    from moto.ssm.models import ParameterDict

# What "recommended" resolves to; any other release of the form vYYYYMMDD exists too.
RECOMMENDED_RELEASE = "20261101"
# The services of a region that nodes and controllers need.
INTERFACE_SERVICES = (
    "ec2",
    "ecr.api",
    "ecr.dkr",
    "eks",
    "eks-auth",
    "elasticfilesystem",
    "elasticloadbalancing",
    "logs",
    "sqs",
    "ssm",
    "ssmmessages",
    "sts",
)
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
    gap="Has neither, and refuses to store parameters below /aws/.",
    needed_by="launching nodes (local nodes, Karpenter and Terraform look up the AMI)",
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
    aws="The tags of a launch template itself are not part of the launch template's data.",
    gap="They appear as a tag specification of the data, so every plan of Terraform removes them.",
    needed_by="a second `comfyeks infra apply` without changes",
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
    "launch-template-changed-tags",
    "moto",
    aws="Describing a launch template shows tags that were added later.",
    gap="Always shows the tags of its creation.",
    needed_by="changed tags (`tags`) of a running platform",
)
def launch_template_changed_tags() -> None:
    from moto.ec2.models.launch_templates import LaunchTemplate

    LaunchTemplate.tags = property(LaunchTemplate.get_tags, lambda self, at_creation: None)  # type: ignore[assignment]


@bridge(
    "fleet-security-groups",
    "moto",
    aws="Instances of a fleet get the security groups of the launch template, also those of its network interfaces.",
    gap="They get the default group unless the template uses the EC2-Classic field; Karpenter then always sees drift.",
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
    "security-group-rule-descriptions",
    "moto",
    aws="A security group rule keeps its description, whether it refers to addresses, another group or a prefix list.",
    gap="Rules that refer to a group or a prefix list drop it, so every plan of Terraform sets it again.",
    needed_by="a second `comfyeks infra apply` without changes",
)
def security_group_rule_descriptions() -> None:
    from moto.ec2.models.security_groups import SecurityGroupRule

    create, of_addresses = SecurityGroupRule.__init__, vars(SecurityGroupRule)["description"].fget

    def init(self: SecurityGroupRule, *args: Any, **kwargs: Any) -> None:
        create(self, *args, **kwargs)
        peer = signature(create).bind(self, *args, **kwargs).arguments
        named = peer.get("source_group") or peer.get("prefix_list_id") or {}
        self.__dict__["given_description"] = named.get("Description")

    def description(self: SecurityGroupRule) -> str | None:
        # moto stores a changed description of any rule where it stores the description of addresses.
        return of_addresses(self) or self.__dict__.get("given_description")

    SecurityGroupRule.__init__ = init  # type: ignore[method-assign]
    SecurityGroupRule.description = property(description)  # type: ignore[method-assign,assignment]


@bridge(
    "vpc-endpoint-services",
    "moto",
    aws="Lists every service that has an interface endpoint in the region.",
    gap="First answers 500, because it imports libraries of other services that are not installed; then omits several.",
    needed_by="interface endpoints (`interface_endpoints = true`)",
)
def vpc_endpoint_services() -> None:
    from moto.core.base_backend import BaseBackend
    from moto.ec2.models.vpcs import VPCBackend

    @functools.cache
    def services(account_id: str, region: str) -> list[dict[str, Any]]:
        zones = [f"{region}{letter}" for letter in "abc"]
        return [
            service
            for name in INTERFACE_SERVICES
            for service in BaseBackend.default_vpc_endpoint_service_factory(region, zones, name)
        ]

    VPCBackend._collect_default_endpoint_services = staticmethod(services)  # type: ignore[method-assign]
