"""The estimate equals the reference to the cent, and follows the laws that any bill follows."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from comfyeks.charts.instance_types import read_table
from comfyeks.cli import app
from comfyeks.cost import prices as price_table
from comfyeks.cost.model import HOURS_PER_MONTH, Usage, add, dollars, estimate, plans
from comfyeks.cost.platform import standing_lines
from comfyeks.cost.prices import Key, Prices, load
from comfyeks.deployment import Deployment
from comfyeks.errors import UserError
from comfyeks.settings import DeploymentSettings
from comfyeks.status import cost_so_far
from comfyeks.up.cli import cost_lines

REFERENCE = {
    "EKS control plane": "73.00",
    "GPU nodes, g5.2xlarge on-demand": "193.92",
    "system nodes, t3a.xlarge reserved": "137.68",
    "models in S3": "2.30",
    "outputs in S3": "2.208",
    "images in ECR": "2.00",
    "load balancer": "22.27",
}


@pytest.fixture(autouse=True)
def no_prices_of_this_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(price_table, "OWN", tmp_path / "prices.yaml")


@cache
def table() -> Prices:
    return load("us-west-2", own=Path("none")).plus({Key("spot.g5.2xlarge", "hour"): Decimal("0.5")})


@pytest.mark.parametrize(
    ("exposure", "transfer", "total"),
    [
        ("alb", ("transfer by ALB", "9.00"), "442.378"),
        ("cloudfront", ("transfer by CloudFront", "8.50"), "441.878"),
    ],
)
def test_the_reference_scenario_is_reproduced_to_the_cent(exposure: str, transfer: tuple[str, str], total: str) -> None:
    month = estimate(Usage(exposure=exposure))
    prices = load("us-west-2")
    assert {line.what: dollars(line.amount(prices)) for line in month.lines} == {**REFERENCE, transfer[0]: transfer[1]}
    assert month.total(prices) == Decimal(total)


@pytest.mark.parametrize("region", ["us-west-2", "us-east-1"])
def test_every_price_of_the_table_says_where_it_is_from_and_is_used(region: str) -> None:
    prices = load(region, own=Path("none"))
    assert set(prices.sources) == set(prices.amounts)
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d", source.day) and source.what for source in prices.sources.values())
    usages = [
        Usage(instance_type=kind, system_capacity=system, exposure=exposure, interface_endpoints=1)
        for kind in read_table()
        for system in ("reserved", "on-demand")
        for exposure in ("alb", "cloudfront")
    ]
    assert set(prices.amounts) <= set().union(*(estimate(usage).keys() for usage in usages))


def test_the_answer_names_the_source_of_each_price() -> None:
    arguments = ["cost", "--json", "--region", "us-west-2", "--price", "ec2.g5.2xlarge=1/hour"]
    prices = {entry["price"]: entry for entry in json.loads(CliRunner().invoke(app, arguments).stdout)["prices"]}
    assert prices["ec2.g5.2xlarge per hour"]["from"] == "the operator"
    assert "reference" in prices["eks.cluster per hour"]["from"]


def test_what_cost_tables_often_omit_is_added_after_the_total() -> None:
    month = estimate(Usage())
    names = " ".join(line.what for line in month.often_omitted)
    for expected in ("NAT", "disks", "logs", "requests"):
        assert expected in names
    prices = load("us-west-2")
    assert month.whole(prices) > month.total(prices)


usages = st.builds(
    Usage,
    nodes=st.integers(0, 50),
    hours_per_day=st.integers(0, 24).map(Decimal),
    days=st.integers(0, 31).map(Decimal),
    images=st.integers(0, 10**6),
    models_gb=st.integers(0, 10**5).map(Decimal),
    exposure=st.sampled_from(["alb", "cloudfront", "none"]),
    seconds_per_image=st.one_of(st.none(), st.integers(0, 600).map(Decimal)),
    starts=st.integers(0, 300),
)


@given(usages)
def test_a_total_is_the_sum_of_its_lines_and_never_negative(usage: Usage) -> None:
    month, prices = estimate(usage), table()
    lines = [*month.lines, *month.often_omitted]
    assert all(line.amount(prices) >= 0 for line in lines)
    assert sum(line.amount(prices) for line in lines) == pytest.approx(month.whole(prices))


@given(usages, st.sampled_from(["nodes", "hours_per_day", "models_gb", "images"]))
def test_more_of_anything_never_costs_less(usage: Usage, what: str) -> None:
    more = replace(usage, **{what: getattr(usage, what) + 1})
    if more.hours_per_day > 24:
        return
    prices = table()
    assert estimate(more).whole(prices) >= estimate(usage).whole(prices)


@given(usages)
def test_no_plan_costs_more_than_a_node_that_never_ends(usage: Usage) -> None:
    prices = table()
    always, *others = [plan.estimate.whole(prices) for plan in plans(usage) if plan.estimate]
    assert all(other <= always for other in others)


@given(usages)
def test_gpu_hours_never_exceed_the_month(usage: Usage) -> None:
    assert usage.gpu_hours <= usage.nodes * HOURS_PER_MONTH


@given(usages)
def test_the_gpu_line_is_hours_times_price(usage: Usage) -> None:
    prices = table()
    [line] = [line for line in estimate(usage).lines if line.what.startswith("GPU")]
    assert line.amount(prices) == usage.gpu_hours * Decimal("1.212")


def test_scale_to_zero_pays_for_work_and_for_each_start() -> None:
    usage = Usage(images=3600, seconds_per_image=Decimal(10), starts=20, idle_minutes=Decimal(15))
    [zero] = [plan for plan in plans(usage) if plan.name == "scale to zero"]
    assert zero.estimate
    [line] = [line for line in zero.estimate.lines if line.what.startswith("GPU")]
    assert line.amount(table()) == (10 + 5) * Decimal("1.212")


def test_images_that_do_not_fit_the_hours_have_no_price_per_thousand() -> None:
    usage = Usage(images=10**6, seconds_per_image=Decimal(60))
    assert all("GPU hours" in plan.problem for plan in plans(usage))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--hours-per-day", "25"], "a day has 24 hours"),
        (["--days", "32"], "at most 31 days"),
        (["--nodes=-1"], "--nodes -1"),
        (["--exposure", "door"], "alb, cloudfront, none"),
        (["--price", "g6"], "NAME=USD/UNIT"),
        (["--price", "ec2.g6.xlarge=1/day"], "hour, month, gb, million"),
        (["--images", "1", "--image-mb", "many"], "'many'"),
    ],
)
def test_an_impossible_quantity_is_refused(arguments: list[str], expected: str) -> None:
    result = CliRunner().invoke(app, ["cost", *arguments])
    assert isinstance(result.exception, UserError)
    assert expected in str(result.exception)


def test_an_unknown_price_is_asked_for_and_not_guessed() -> None:
    result = CliRunner().invoke(app, ["cost", "--instance-type", "g4dn.xlarge", "--region", "us-west-2"])
    assert isinstance(result.exception, UserError)
    assert "--price ec2.g4dn.xlarge=USD/hour" in str(result.exception)
    again = CliRunner().invoke(
        app,
        ["cost", "--instance-type", "g4dn.xlarge", "--region", "us-west-2", "--price", "ec2.g4dn.xlarge=2", "--json"],
    )
    gpu = next(line for line in json.loads(again.stdout)["lines"] if line["what"].startswith("GPU"))
    assert gpu["usd"] == "320"


def test_a_region_that_is_not_in_the_table_has_no_prices() -> None:
    assert load("eu-central-1").amounts == {}


def monthly(**variables: Any) -> Decimal:
    """Return what `comfyeks up --plan` says that a deployment with these Terraform variables costs a month."""
    lines = cost_lines(DeploymentSettings(platform=variables), "us-west-2")
    return Decimal(re.findall(r"about ([\d.]+) USD a month", lines[0])[0])


def test_the_plan_counts_what_is_paid_however_the_platform_is_used() -> None:
    gateway = HOURS_PER_MONTH * (Decimal("0.045") + Decimal("0.005"))  # and its public address
    keys_cluster_nodes = 2 + 73 + 2 * HOURS_PER_MONTH * Decimal("0.1504")
    disks, balancer = 2 * 50 * Decimal("0.08"), Decimal("16.43") + HOURS_PER_MONTH * Decimal("0.008")
    always = keys_cluster_nodes + disks + balancer
    assert monthly(nat="none") == monthly(private_subnet_ids=["subnet-1"]) == always
    assert monthly(nat="none", load_balancer=False) == always - balancer
    assert monthly() - monthly(nat="none") == gateway
    assert monthly(nat="per_az") - monthly() == 2 * gateway
    assert monthly(nat="per_az", zones=["us-west-2a", "us-west-2b"]) - monthly() == gateway
    with_endpoints = cost_lines(DeploymentSettings(platform={"interface_endpoints": True}), "us-west-2")
    assert "0.01 USD an hour more for each service in each of 3 zones" in with_endpoints[1]


def test_status_and_the_plan_of_up_have_the_same_price_of_an_hour(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("comfyeks.deployment.STATE", tmp_path)
    monkeypatch.setattr("comfyeks.status.find_cluster", lambda _: {"createdAt": datetime.now(UTC)})
    _, hour = cost_so_far(Deployment(None, "us-west-2", "111122223333"), [])
    [of_plan] = re.findall(r"\(([\d.]+) an hour\)", cost_lines(DeploymentSettings(), "us-west-2")[0])
    assert hour == of_plan
    standing = add(standing_lines(DeploymentSettings()), load("us-west-2")) / HOURS_PER_MONTH
    assert Decimal(hour) == standing.quantize(Decimal("0.001"))


def test_an_answer_is_kept_and_wins_over_the_table(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    price_table.save("us-west-2", {Key("ec2.g5.2xlarge", "hour"): Decimal("0.9")}, own)
    price_table.save("us-west-2", {Key("spot.g5.2xlarge", "hour"): Decimal("0.4")}, own)
    prices = load("us-west-2", own=own)
    assert prices.of(Key("ec2.g5.2xlarge", "hour")) == Decimal("0.9")
    assert prices.of(Key("spot.g5.2xlarge", "hour")) == Decimal("0.4")
    assert prices.of(Key("eks.cluster", "hour")) == Decimal("0.10")
