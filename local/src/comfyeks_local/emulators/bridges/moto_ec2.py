"""moto's EC2, and the public AMI parameters that lead to its images."""

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
# What nodes and controllers need of a region's services.
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
    "launch-template-changed-tags",
    "moto",
    aws="Tags that are put on a launch template later show when it is described.",
    gap="Shows those of its creation for ever.",
    needed_by="a change of the tags (`tags`) on a platform that is up",
)
def launch_template_changed_tags() -> None:
    from moto.ec2.models.launch_templates import LaunchTemplate

    LaunchTemplate.tags = property(LaunchTemplate.get_tags, lambda self, at_creation: None)  # type: ignore[assignment]


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
    "security-group-rule-descriptions",
    "moto",
    aws="A security group rule keeps its description, whatever it names: addresses, another group or a prefix list.",
    gap="Rules that name a group or a prefix list forget it, so Terraform plans to set it forever.",
    needed_by="a second `make infra` without changes",
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
        # A later change of any rule's description is kept where moto keeps the one of addresses.
        return of_addresses(self) or self.__dict__.get("given_description")

    SecurityGroupRule.__init__ = init  # type: ignore[method-assign]
    SecurityGroupRule.description = property(description)  # type: ignore[method-assign,assignment]


@bridge(
    "vpc-endpoint-services",
    "moto",
    aws="Names every service that has an interface endpoint in the region.",
    gap="Answers 500 at first, for want of libraries of services that we do not ask it for, then leaves out several.",
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
