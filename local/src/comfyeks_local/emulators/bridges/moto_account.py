"""Bridges for what a new account already has: quotas, and the roles that services create for themselves."""

from __future__ import annotations

from typing import Any

from comfyeks_local.emulators.bridges import bridge

# Code → name and vCPUs of an account that may run some GPU nodes.
GPU_QUOTAS = {
    "L-DB2E81BA": ("Running On-Demand G and VT instances", 64.0),
    "L-3819A6DF": ("All G and VT Spot Instance Requests", 64.0),
}


@bridge(
    "gpu-quotas",
    "moto",
    aws="Returns how many vCPUs of GPU instances an account may run.",
    gap="Has only the quotas of VPC.",
    needed_by="the checks before the first apply, `comfyeks doctor`",
)
def gpu_quotas() -> None:
    from moto.servicequotas.models import ServiceQuotasBackend

    get = ServiceQuotasBackend.get_service_quota

    def get_service_quota(self: ServiceQuotasBackend, service_code: str, quota_code: str) -> dict[str, Any]:
        if service_code != "ec2" or quota_code not in GPU_QUOTAS:
            found: dict[str, Any] = get(self, service_code, quota_code)
            return found
        name, vcpus = GPU_QUOTAS[quota_code]
        return {
            "ServiceCode": "ec2",
            "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
            "QuotaArn": f"arn:aws:servicequotas:{self.region_name}:{self.account_id}:ec2/{quota_code}",
            "QuotaCode": quota_code,
            "QuotaName": name,
            "Value": vcpus,
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
        }

    ServiceQuotasBackend.get_service_quota = get_service_quota  # type: ignore[method-assign]


@bridge(
    "spot-role-name",
    "moto",
    aws="Names the service-linked role for spot AWSServiceRoleForEC2Spot.",
    gap="Names it AWSServiceRoleForspot.",
    needed_by="the checks before the first apply, which create the role if it is missing",
)
def spot_role_name() -> None:
    from moto.iam import models

    models.SERVICE_NAME_CONVERSION["spot"] = "EC2Spot"
