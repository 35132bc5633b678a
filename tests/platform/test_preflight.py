"""What an account or a network lacks is reported before anything is created."""

from __future__ import annotations

from collections.abc import Callable

import boto3
import pytest
from moto.iam.models import SERVICE_NAME_CONVERSION
from moto.servicequotas.models import ServiceQuotasBackend

from comfyeks.aws_account import ON_DEMAND_QUOTA, SPOT_QUOTA, SPOT_ROLE
from comfyeks.deployment import Deployment
from comfyeks.errors import UserError
from comfyeks.platform import preflight
from tests.support.deployment import REGION

Quotas = Callable[[int, int], None]


@pytest.fixture
def quotas(aws: None, monkeypatch: pytest.MonkeyPatch) -> Quotas:
    """`quotas(on_demand, spot)`: vCPUs of GPU nodes that the account may run."""
    monkeypatch.setitem(SERVICE_NAME_CONVERSION, "spot", "EC2Spot")

    def allow(on_demand: int, spot: int) -> None:
        vcpus = {ON_DEMAND_QUOTA[0]: on_demand, SPOT_QUOTA[0]: spot}
        monkeypatch.setattr(
            ServiceQuotasBackend,
            "get_service_quota",
            lambda self, service_code, quota_code: {"QuotaCode": quota_code, "Value": float(vcpus[quota_code])},
        )

    return allow


def write_settings(deployment: Deployment, text: str) -> None:
    path = deployment.settings_file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def check(deployment: Deployment) -> None:
    preflight.require(deployment, deployment.settings())


def test_enough_of_both_reports_nothing_but_the_creation_of_the_spot_role(
    quotas: Quotas, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    quotas(8, 8)
    check(deployment)
    assert capsys.readouterr().err.splitlines() == [
        f"created the account's {SPOT_ROLE}, without which no spot node starts"
    ]


def test_no_quota_at_all_is_refused_with_the_commands_that_ask_for_more(quotas: Quotas, deployment: Deployment) -> None:
    quotas(7, 0)
    with pytest.raises(UserError, match="nothing was changed") as refusal:
        check(deployment)
    for code, _ in (ON_DEMAND_QUOTA, SPOT_QUOTA):
        assert f"--quota-code {code} --desired-value 8" in str(refusal.value)


def test_quota_of_one_kind_is_enough_and_the_other_is_named(
    quotas: Quotas, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    quotas(8, 0)
    check(deployment)
    assert f"{SPOT_QUOTA[1]}: 0 vCPUs" in capsys.readouterr().err


def test_pools_without_spot_need_the_on_demand_quota_and_no_role(
    quotas: Quotas, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    write_settings(deployment, "karpenter-gpu: {poolDefaults: {capacityTypes: [on-demand]}}")
    quotas(0, 64)
    with pytest.raises(UserError, match="On-Demand"):
        check(deployment)
    quotas(64, 0)
    check(deployment)
    assert capsys.readouterr().err == ""


def test_quota_is_compared_with_the_chosen_types(quotas: Quotas, deployment: Deployment) -> None:
    write_settings(deployment, "karpenter-gpu: {poolDefaults: {instanceTypes: [g5.8xlarge]}}")
    quotas(31, 31)
    with pytest.raises(UserError, match="needs 32"):
        check(deployment)


def test_types_that_no_zone_offers_are_refused_by_name(quotas: Quotas, deployment: Deployment) -> None:
    write_settings(deployment, "karpenter-gpu: {poolDefaults: {instanceTypes: [g99.xlarge]}}")
    quotas(64, 64)
    with pytest.raises(UserError, match=rf"no zone of {REGION} offers g99.xlarge"):
        check(deployment)


def test_a_type_that_is_not_offered_beside_others_is_named(
    quotas: Quotas, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    write_settings(deployment, "karpenter-gpu: {pools: {default: {instanceTypes: [g99.xlarge, g5.xlarge]}}}")
    quotas(64, 64)
    check(deployment)
    assert f"{REGION} does not offer g99.xlarge" in capsys.readouterr().err


def test_an_existing_spot_role_is_not_changed(
    quotas: Quotas, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    boto3.client("iam").create_role(RoleName=SPOT_ROLE, AssumeRolePolicyDocument="{}", Path="/")
    quotas(64, 64)
    check(deployment)
    assert capsys.readouterr().err == ""


def test_network_without_s3_endpoint_or_internet_route_is_named(
    quotas: Quotas, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    quotas(64, 64)
    ec2 = boto3.client("ec2", region_name=REGION)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    write_settings(deployment, f"platform: {{private_subnet_ids: [{subnet}]}}")
    check(deployment)
    printed = capsys.readouterr().err
    assert f"{subnet} has no S3 gateway endpoint" in printed
    assert f"{subnet} has no route to the internet" in printed
    [table] = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    ec2.create_vpc_endpoint(
        VpcId=vpc,
        ServiceName=f"com.amazonaws.{REGION}.s3",
        VpcEndpointType="Gateway",
        RouteTableIds=[table["RouteTableId"]],
    )
    check(deployment)
    assert "subnet-" not in capsys.readouterr().err
