"""What AWS would refuse later, checked before the first change: GPU types, zones, quotas, spot role, network.

`comfyeks up`, `comfyeks infra apply` and `comfyeks doctor` make the same checks. What makes every GPU node impossible
is an error; what makes some impossible, or expensive, is a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from threading import Lock
from typing import Any

import boto3
import yaml
from botocore.exceptions import ClientError

from comfyeks.aws_account import ON_DEMAND_QUOTA, SPOT_QUOTA, SPOT_ROLE
from comfyeks.charts import CHARTS_ROOT
from comfyeks.charts.instance_types import instance_type
from comfyeks.console import note
from comfyeks.deployment import Deployment
from comfyeks.errors import UserError
from comfyeks.findings import ERROR, OK, WARNING, Check, Finding, examine_all
from comfyeks.settings import DeploymentSettings

_SPOT_ROLE_CHECK = "spot role"
QUOTAS = {"on-demand": ON_DEMAND_QUOTA, "spot": SPOT_QUOTA}
Pool = dict[str, Any]  # an entry of `pools` in charts/karpenter-gpu, its defaults filled in


def checks(deployment: Deployment, settings: DeploymentSettings) -> list[Check]:
    """Return all checks of the account, by name. Raises UserError for an unknown instance type."""
    pools = list(gpu_pools(settings))
    pods = int(settings.comfyui.get("replicas") or 1)
    subnets = list(settings.platform.get("private_subnet_ids", ()))
    offers = _once(partial(_offers, deployment, pools))
    found: list[Check] = [
        ("zones", partial(_zones, deployment, pools, offers)),
        ("quota", partial(_quotas, deployment, pools, offers, pods)),
    ]
    if any("spot" in pool["capacityTypes"] for pool in pools):
        found.append((_SPOT_ROLE_CHECK, partial(_spot_role, deployment)))
    if subnets:
        found.append(("network", partial(_network, deployment, subnets)))
    return found


def require(deployment: Deployment, settings: DeploymentSettings, more: Sequence[Check] = ()) -> None:
    """Run all checks and `more`, print warnings, and create the account's role for spot if it is missing.

    Raises UserError naming every error, with nothing changed yet.
    """
    findings = examine_all([*more, *checks(deployment, settings)])
    warnings = [finding for finding in findings if finding.severity == WARNING]
    for finding in warnings:
        if finding.check != _SPOT_ROLE_CHECK:
            note(f"warning: {_sentence(finding, '; ')}")
    if errors := [_sentence(finding, ": ") for finding in findings if finding.severity == ERROR]:
        raise UserError("nothing was changed. " + "\n".join(errors))
    if any(finding.check == _SPOT_ROLE_CHECK for finding in warnings):
        _create_spot_role(deployment)


def gpu_pools(settings: DeploymentSettings) -> Iterator[Pool]:
    """Yield the node pools that `comfyeks up` installs, as Helm merges them from chart, instance type and settings."""
    chart: dict[str, Any] = yaml.safe_load((CHARTS_ROOT / "karpenter-gpu" / "values.yaml").read_text())
    own, of_type = settings.karpenter_gpu, instance_type(settings.instance_type).karpenter_values()
    defaults = chart["poolDefaults"] | of_type["poolDefaults"] | (own.get("poolDefaults") or {})
    for pool in (chart["pools"] | (own.get("pools") or {})).values():
        if pool is not None:  # removed by the operator
            yield defaults | pool


@dataclass(frozen=True)
class Offer:
    """An instance type of the region."""

    zones: frozenset[str]
    vcpus: int
    gpus: int


Offers = dict[str, Offer]  # by instance type


def _zones(deployment: Deployment, pools: list[Pool], ask: Callable[[], Offers]) -> Iterator[Finding]:
    """Zones that offer a pool's types, against the zones of the cluster's subnets once there are some."""
    ec2 = boto3.client("ec2", region_name=deployment.region)
    offers = ask()
    discovery = [{"Name": "tag:karpenter.sh/discovery", "Values": [deployment.name]}]
    subnets = ec2.describe_subnets(Filters=discovery)["Subnets"]  # type: ignore[arg-type]
    cluster = {subnet["AvailabilityZone"] for subnet in subnets}
    for pool in pools:
        names = ", ".join(_asked(pool))
        offering = set().union(*(offers[kind].zones for kind in _offered_types(pool, offers)))
        if not offering:
            yield Finding(
                "zones",
                ERROR,
                f"no zone of {deployment.region} offers {names}",
                f"choose other instance types (instance-type in {deployment.settings_file}) or another region",
            )
            continue
        if missing := [] if pool["instanceFamilies"] else [kind for kind in _asked(pool) if kind not in offers]:
            where = f"{deployment.region} does not offer {', '.join(missing)}"
            yield Finding("zones", WARNING, where, "none needed: Karpenter uses the pool's other types")
        both = sorted(offering & cluster) if cluster else sorted(offering)
        if not both:
            yield Finding(
                "zones",
                ERROR,
                f"{names}: offered in {', '.join(sorted(offering))}, but the cluster's subnets are in "
                f"{', '.join(sorted(cluster))}",
                "choose another instance-type in the settings file, or add a subnet in one of those zones",
            )
        elif len(both) == 1:
            yield Finding(
                "zones",
                WARNING,
                f"only {both[0]} offers {names}: little choice for spot",
                "add types: karpenter-gpu: poolDefaults: instanceTypes in the settings file",
            )
        else:
            yield Finding("zones", OK, f"{names}: offered in {', '.join(both)}")


def _asked(pool: Pool) -> list[str]:
    """What a pool asks for: types, or families such as g6.*."""
    return sorted({f"{family}.*" for family in pool["instanceFamilies"]} or set(pool["instanceTypes"]))


def _offered_types(pool: Pool, offers: Offers) -> list[str]:
    """The types of the region that Karpenter would start for a pool."""
    if not pool["instanceFamilies"]:
        return [kind for kind in pool["instanceTypes"] if kind in offers]
    families, gpus = set(pool["instanceFamilies"]), pool["instanceGpus"]
    return [kind for kind, offer in offers.items() if kind.partition(".")[0] in families and offer.gpus == gpus]


def _once(ask: Callable[[], Offers]) -> Callable[[], Offers]:
    """The same for checks that run at once: the first one asks, the others wait for its answer."""
    lock, cached = Lock(), cache(ask)

    def answer() -> Offers:
        with lock:
            return cached()

    return answer


def _offers(deployment: Deployment, pools: list[Pool]) -> Offers:
    """What the region offers of all that the pools ask for, by instance type."""
    ec2 = boto3.client("ec2", region_name=deployment.region)
    families = {family for pool in pools for family in pool["instanceFamilies"]}
    types = sorted({kind for pool in pools if not pool["instanceFamilies"] for kind in pool["instanceTypes"]})
    named: list[Any] = [] if families else [{"Name": "instance-type", "Values": types}]
    zones: dict[str, set[str]] = {}
    for page in ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone", Filters=named
    ):
        for offer in page["InstanceTypeOfferings"]:
            if offer["InstanceType"] in types or offer["InstanceType"].partition(".")[0] in families:
                zones.setdefault(offer["InstanceType"], set()).add(offer["Location"])
    names: list[Any] = sorted(zones)
    found: Offers = {}
    # No more than 100 names in a request: docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html
    for start in range(0, len(zones), 100):
        for kind in ec2.describe_instance_types(InstanceTypes=names[start : start + 100])["InstanceTypes"]:
            name, gpus = kind["InstanceType"], kind.get("GpuInfo", {}).get("Gpus", [])
            count = sum(gpu["Count"] for gpu in gpus)
            found[name] = Offer(frozenset(zones[name]), kind["VCpuInfo"]["DefaultVCpus"], count)
    return found


def _quotas(deployment: Deployment, pools: list[Pool], ask: Callable[[], Offers], pods: int) -> Iterator[Finding]:
    """vCPUs of GPU nodes that the account may run, on-demand and spot, against what the pods need."""
    offers = ask()
    vcpus = {kind: offers[kind].vcpus for pool in pools for kind in _offered_types(pool, offers)}
    if not vcpus:  # the check of the zones has the error
        return
    smallest = min(vcpus, key=lambda kind: (vcpus[kind], kind))
    need, wanted = vcpus[smallest] * pods, max(vcpus.values()) * pods
    quotas = boto3.client("service-quotas", region_name=deployment.region)
    used = {capacity for pool in pools for capacity in pool["capacityTypes"]}
    allowed = {
        quota: int(quotas.get_service_quota(ServiceCode="ec2", QuotaCode=quota[0])["Quota"]["Value"])
        for capacity, quota in QUOTAS.items()
        if capacity in used
    }
    severity = WARNING if max(allowed.values(), default=0) >= need else ERROR  # with one of them, nodes can start
    for (code, name), limit in allowed.items():
        message = f"{name}: {limit} vCPUs, {pods} × {smallest} needs {need}"
        if limit >= need:
            yield Finding("quota", OK, message)
            continue
        yield Finding(
            "quota",
            severity,
            message,
            f"aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {code} "
            f"--desired-value {wanted} --region {deployment.region}",
        )


def _spot_role(deployment: Deployment) -> Iterator[Finding]:
    """Look for the role that EC2 needs for spot; an account that never used spot has none."""
    iam = boto3.client("iam", region_name=deployment.region)
    try:
        iam.get_role(RoleName=SPOT_ROLE)
    except iam.exceptions.NoSuchEntityException:
        yield Finding(
            _SPOT_ROLE_CHECK,
            WARNING,
            f"the account has no {SPOT_ROLE}: no spot node can start",
            "`comfyeks up` creates it, or: aws iam create-service-linked-role --aws-service-name spot.amazonaws.com",
        )
        return
    yield Finding(_SPOT_ROLE_CHECK, OK, f"{SPOT_ROLE} exists")


def _create_spot_role(deployment: Deployment) -> None:
    iam = boto3.client("iam", region_name=deployment.region)
    try:
        iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")
        note(f"created the account's {SPOT_ROLE}, without which no spot node starts")
    except iam.exceptions.InvalidInputException:  # somebody created it meanwhile
        return
    except ClientError as error:
        note(f"warning: {SPOT_ROLE} could not be created, so no spot node can start: {error}")


def _network(deployment: Deployment, subnet_ids: list[str]) -> Iterator[Finding]:
    """Look for what an existing network lacks. Its routes are its owner's: nothing here is an error."""
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
            yield Finding(
                "network",
                WARNING,
                f"{subnet['SubnetId']} has no S3 gateway endpoint: models go through NAT, which is paid per gigabyte",
                "add a gateway endpoint for S3 to its route table",
            )
        if not any(route.get("DestinationCidrBlock") == "0.0.0.0/0" for route in routes):
            yield Finding(
                "network",
                WARNING,
                f"{subnet['SubnetId']} has no route to the internet",
                'add one, or set nat: "none" in the settings if that is intended',
            )


def _sentence(finding: Finding, between: str) -> str:
    return f"{finding.message}{between}{finding.fix}" if finding.fix else finding.message
