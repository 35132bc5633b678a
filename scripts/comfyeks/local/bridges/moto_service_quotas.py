"""moto's Service Quotas."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from comfyeks.local.bridges import bridge

if TYPE_CHECKING:
    from moto.servicequotas.models import ServiceQuotasBackend
    from moto.servicequotas.responses import ServiceQuotasResponse

# (service, quota code): name, value granted to the local account, AWS's default. Values of EC2 are vCPUs.
QUOTAS = {
    ("ec2", "L-DB2E81BA"): ("Running On-Demand G and VT instances", 64.0, 0.0),
    ("ec2", "L-3819A6DF"): ("All G and VT Spot Instance Requests", 64.0, 0.0),
    ("ec2", "L-1216C47A"): ("Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 256.0, 5.0),
}


@bridge(
    "ec2-quotas",
    "moto",
    aws="Answers GetServiceQuota and GetAWSDefaultServiceQuota for every service.",
    gap="Knows VPC quotas only, and answers GetAWSDefaultServiceQuota with HTTP 500.",
    needed_by="the check that an account may run GPU instances at all (Terraform, `comfyeks doctor`)",
)
def ec2_quotas() -> None:
    from moto.servicequotas.exceptions import NoSuchResource
    from moto.servicequotas.models import ServiceQuotasBackend
    from moto.servicequotas.responses import ServiceQuotasResponse

    get_known = ServiceQuotasBackend.get_service_quota

    def get_service_quota(self: ServiceQuotasBackend, service_code: str, quota_code: str) -> dict[str, Any]:
        if (service_code, quota_code) in QUOTAS:
            _, granted, _ = QUOTAS[service_code, quota_code]
            return _quota(self.region_name, self.account_id, service_code, quota_code, granted)
        quota: dict[str, Any] = get_known(self, service_code, quota_code)
        return quota

    def get_aws_default_service_quota(self: ServiceQuotasResponse) -> str:
        request = json.loads(self.body)
        service_code, quota_code = request["ServiceCode"], request["QuotaCode"]
        if (service_code, quota_code) not in QUOTAS:
            raise NoSuchResource
        _, _, default = QUOTAS[service_code, quota_code]
        return json.dumps({"Quota": _quota(self.region, self.current_account, service_code, quota_code, default)})

    ServiceQuotasBackend.get_service_quota = get_service_quota  # type: ignore[method-assign]
    ServiceQuotasResponse.get_aws_default_service_quota = get_aws_default_service_quota  # type: ignore[attr-defined]


def _quota(region: str, account: str, service_code: str, quota_code: str, value: float) -> dict[str, Any]:
    name, _, _ = QUOTAS[service_code, quota_code]
    return {
        "ServiceCode": service_code,
        "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
        "QuotaArn": f"arn:aws:servicequotas:{region}:{account}:{service_code}/{quota_code}",
        "QuotaCode": quota_code,
        "QuotaName": name,
        "Value": value,
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
    }
