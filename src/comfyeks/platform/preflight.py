"""Before money is spent: can GPU nodes start in this account and region, and does an existing network serve them?

What makes every GPU node impossible is refused; what makes some of them impossible, or dear, is a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import boto3
import yaml
from botocore.exceptions import ClientError

from comfyeks.aws_account import ON_DEMAND_QUOTA, SPOT_QUOTA, SPOT_ROLE
from comfyeks.charts import CHARTS_ROOT
from comfyeks.console import note
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError, UserError

QUOTAS = {"on-demand": ON_DEMAND_QUOTA, "spot": SPOT_QUOTA}
DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}


def check(deployment: Deployment, private_subnet_ids: Iterable[str] = ()) -> None:
    """Note what is missing.

    Raises UserError when no GPU node could ever start, OperationError when AWS does not answer.
    """
    pools = list(_pools(deployment.settings().karpenter_gpu))
    try:
        vcpus, zones = _offered(deployment, {kind for pool in pools for kind in pool["instanceTypes"]})
        for pool in pools:
            _check_types(deployment, pool["instanceTypes"], zones)
        _check_quotas(deployment, pools, vcpus)
        if any("spot" in pool["capacityTypes"] for pool in pools):
            ensure_spot_role(deployment)
        for warning in _network(deployment, list(private_subnet_ids)):
            note(warning)
    except ClientError as error:
        if error.response["Error"]["Code"] not in DENIED:
            raise OperationError(f"the checks before the first apply failed: {error}") from error
        note(f"not all checks before the first apply could be made, the credentials may not ask: {error}")


def ensure_spot_role(deployment: Deployment) -> None:
    """Make the role that EC2 needs for spot, which an account that never used spot lacks. Raises ClientError."""
    iam = boto3.client("iam", region_name=deployment.region)
    try:
        iam.get_role(RoleName=SPOT_ROLE)
    except iam.exceptions.NoSuchEntityException:
        try:
            iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")
            note(f"made the account's {SPOT_ROLE}, without which no spot node starts")
        except iam.exceptions.InvalidInputException:  # somebody made it meanwhile
            return


def _pools(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The chart's pools with their defaults filled in, as Helm would from the operator's values."""
    chart: dict[str, Any] = yaml.safe_load((CHARTS_ROOT / "karpenter-gpu" / "values.yaml").read_text())
    defaults = chart["poolDefaults"] | (given.get("poolDefaults") or {})
    for pool in (chart["pools"] | (given.get("pools") or {})).values():
        if pool is not None:  # removed by the operator
            yield defaults | pool


def _offered(deployment: Deployment, types: set[str]) -> tuple[dict[str, int], dict[str, set[str]]]:
    """vCPUs, and the zones that offer it, of every type that the region knows."""
    ec2 = boto3.client("ec2", region_name=deployment.region)
    zones: dict[str, set[str]] = {}
    for page in ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": sorted(types)}]
    ):
        for offer in page["InstanceTypeOfferings"]:
            zones.setdefault(offer["InstanceType"], set()).add(offer["Location"])
    vcpus: dict[str, int] = {}
    if zones:
        for answer in ec2.get_paginator("describe_instance_types").paginate(InstanceTypes=sorted(zones)):  # type: ignore[arg-type]
            vcpus |= {kind["InstanceType"]: kind["VCpuInfo"]["DefaultVCpus"] for kind in answer["InstanceTypes"]}
    return vcpus, zones


def _check_types(deployment: Deployment, types: list[str], zones: dict[str, set[str]]) -> None:
    missing = sorted(set(types) - zones.keys())
    if len(missing) == len(set(types)):
        raise UserError(
            f"no zone of {deployment.region} offers {', '.join(missing)}: choose other instance types "
            f"(karpenter-gpu: poolDefaults: instanceTypes in {deployment.settings_file}) or another region"
        )
    if missing:
        note(f"{deployment.region} does not offer {', '.join(missing)}: Karpenter takes the others")


def _check_quotas(deployment: Deployment, pools: list[dict[str, Any]], vcpus: dict[str, int]) -> None:
    client = boto3.client("service-quotas", region_name=deployment.region)
    wanted = sorted({capacity for pool in pools for capacity in pool["capacityTypes"]})
    smallest = min(vcpus.values())
    short = {}
    for capacity in wanted:
        code, name = QUOTAS[capacity]
        allowed = int(client.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])
        if allowed < smallest:
            short[capacity] = (
                f"{name} allows {allowed} vCPUs, the smallest type of the pools has {smallest}: "
                f"aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {code} "
                f"--desired-value {max(vcpus.values())} --region {deployment.region}"
            )
    if len(short) == len(wanted):
        raise UserError(
            "no GPU node could start in this account yet; ask for more, then apply again (or --skip-checks):\n"
            + "\n".join(short.values())
        )
    for text in short.values():
        note(text)


def _network(deployment: Deployment, subnet_ids: list[str]) -> Iterator[str]:
    """What an existing network lacks. Its routes are its owner's: nothing here is refused."""
    if not subnet_ids:
        return
    ec2 = boto3.client("ec2", region_name=deployment.region)
    for subnet in ec2.describe_subnets(SubnetIds=subnet_ids)["Subnets"]:
        of_subnet = [{"Name": "association.subnet-id", "Values": [subnet["SubnetId"]]}]
        main = [
            {"Name": "vpc-id", "Values": [subnet["VpcId"]]},
            {"Name": "association.main", "Values": ["true"]},
        ]
        tables = (
            ec2.describe_route_tables(Filters=of_subnet)["RouteTables"]  # type: ignore[arg-type]
            or ec2.describe_route_tables(Filters=main)["RouteTables"]  # type: ignore[arg-type]
        )
        routes = [route for table in tables for route in table["Routes"]]
        if not any(route.get("GatewayId", "").startswith("vpce-") for route in routes):
            yield f"{subnet['SubnetId']} has no S3 gateway endpoint: models go through NAT and are paid per gigabyte"
        if not any(route.get("DestinationCidrBlock") == "0.0.0.0/0" for route in routes):
            yield f"{subnet['SubnetId']} has no way to the internet: nat = none says that this is meant"
