"""`comfyeks cost`: what a month costs, line by line, and four plans for the GPU nodes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any

import typer
from rich.table import Table

from comfyeks.console import note, out
from comfyeks.cost import prices as price_table
from comfyeks.cost.model import (
    CAPACITIES,
    EXPOSURES,
    SYSTEM_CAPACITIES,
    Estimate,
    Line,
    Plan,
    Usage,
    add,
    dollars,
    estimate,
    per_thousand,
    plans,
)
from comfyeks.cost.prices import Key, Prices
from comfyeks.errors import UserError

NOT_COUNTED = (
    "Not counted: requests to KMS, GETs of S3, alarms, data between zones; EFS, WAF and PrivateLink, off by default."
)
REFERENCE = Usage()
DEFAULT_REGION = "us-west-2"


def _decimal(text: str) -> Decimal:
    return price_table.amount(text, "a quantity")


def run(
    region: Annotated[str, typer.Option(envvar="AWS_REGION", help="AWS region of the prices.")] = DEFAULT_REGION,
    instance_type: Annotated[str, typer.Option(help="GPU instance type.")] = REFERENCE.instance_type,
    capacity: Annotated[str, typer.Option(help=f"{' or '.join(CAPACITIES)}.")] = REFERENCE.capacity,
    nodes: Annotated[int, typer.Option(help="GPU nodes.")] = REFERENCE.nodes,
    hours_per_day: Annotated[str, typer.Option(help="Hours a day that the GPU nodes run.")] = str(
        REFERENCE.hours_per_day
    ),
    days: Annotated[str, typer.Option(help="Days a month that the GPU nodes run.")] = str(REFERENCE.days),
    images: Annotated[int, typer.Option(help="Images created in the month, all stored.")] = REFERENCE.images,
    image_mb: Annotated[str, typer.Option("--image-mb", help="Size of an image in MB.")] = str(REFERENCE.image_mb),
    seconds_per_image: Annotated[
        str | None, typer.Option(help="GPU seconds per image, for the plan scale to zero.")
    ] = None,
    starts: Annotated[
        int, typer.Option(help="Node starts in the month, for the plan scale to zero.")
    ] = REFERENCE.starts,
    idle_minutes: Annotated[
        str,
        typer.Option(help="Minutes of each start that are paid without work: boot, and the wait before the node ends."),
    ] = str(REFERENCE.idle_minutes),
    models_gb: Annotated[str, typer.Option("--models-gb", help="GB of models.")] = str(REFERENCE.models_gb),
    registry_gb: Annotated[str, typer.Option("--registry-gb", help="GB of container images.")] = str(
        REFERENCE.registry_gb
    ),
    exposure: Annotated[
        str, typer.Option(help=f"How users reach ComfyUI: {', '.join(EXPOSURES)}.")
    ] = REFERENCE.exposure,
    transfer_gb: Annotated[str, typer.Option("--transfer-gb", help="GB of transfer to the internet.")] = str(
        REFERENCE.transfer_gb
    ),
    system_type: Annotated[str, typer.Option(help="Instance type of the CPU nodes.")] = REFERENCE.system_type,
    system_capacity: Annotated[
        str, typer.Option(help=f"{' or '.join(SYSTEM_CAPACITIES)}.")
    ] = REFERENCE.system_capacity,
    system_nodes: Annotated[int, typer.Option(help="CPU nodes.")] = REFERENCE.system_nodes,
    nat_gateways: Annotated[int, typer.Option(help="NAT gateways.")] = REFERENCE.nat_gateways,
    nat_gb: Annotated[str, typer.Option("--nat-gb", help="GB of data through the NAT gateways.")] = str(
        REFERENCE.nat_gb
    ),
    interface_endpoints: Annotated[
        int, typer.Option(help="Interface endpoints of the VPC: one for each service in each zone.")
    ] = REFERENCE.interface_endpoints,
    logs_gb: Annotated[str, typer.Option("--logs-gb", help="GB of logs.")] = str(REFERENCE.logs_gb),
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=USD/UNIT", help="A price, such as ec2.g6.xlarge=0.8048/hour; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate what a month costs, line by line, and compare four plans for the GPU nodes. Makes no call to AWS.

    Without options: one g5.2xlarge eight hours a day, twenty days, in us-west-2. The command asks for a price that is
    not in its table; without a terminal, it ends with an error that names the price.
    """
    usage = Usage(
        instance_type=instance_type,
        capacity=capacity,
        nodes=nodes,
        hours_per_day=_decimal(hours_per_day),
        days=_decimal(days),
        system_type=system_type,
        system_capacity=system_capacity,
        system_nodes=system_nodes,
        models_gb=_decimal(models_gb),
        images=images,
        image_mb=_decimal(image_mb),
        registry_gb=_decimal(registry_gb),
        exposure=exposure,
        transfer_gb=_decimal(transfer_gb),
        nat_gateways=nat_gateways,
        nat_gb=_decimal(nat_gb),
        interface_endpoints=interface_endpoints,
        logs_gb=_decimal(logs_gb),
        seconds_per_image=None if seconds_per_image is None else _decimal(seconds_per_image),
        starts=starts,
        idle_minutes=_decimal(idle_minutes),
    )
    month = estimate(usage)
    prices = price_table.load(region).plus(dict(price_table.parse(text) for text in price or []))
    prices = complete(month, prices)
    month_plans = plans(usage)
    if as_json:
        out.print_json(json.dumps(as_dict(usage, month, month_plans, prices)))
        return
    out.print(month_table(month, prices))
    out.print()
    out.print(plans_table(usage, month_plans, prices))
    of = f" of {days}" if (days := prices.dates(month.keys())) else ""
    note(f"USD, list prices of {prices.region}{of}, without tax; give your own with --price, or in {price_table.OWN}")
    note(NOT_COUNTED)


def complete(month: Estimate, prices: Prices) -> Prices:
    """Return the prices of an estimate; ask for unknown ones and store them. Raises UserError without a terminal."""
    missing = prices.missing(month.keys())
    if not missing:
        return prices
    if not sys.stdin.isatty():
        wanted = " ".join(f"--price {key.name}=USD/{key.unit}" for key in missing)
        raise UserError(
            f"{len(missing)} price(s) of {prices.region} are not known, and are not guessed; give them: {wanted}"
        )
    note(f"Prices of {prices.region} are missing; look them up at aws.amazon.com/pricing. Stored in {price_table.OWN}.")
    answers = {key: price_table.amount(typer.prompt(f"USD for {key}", err=True), str(key)) for key in missing}
    price_table.save(prices.region, answers)
    return prices.plus(answers)


def month_table(month: Estimate, prices: Prices) -> Table:
    table = Table("a month", "how", "USD", box=None, header_style="bold")
    table.columns[2].justify = "right"
    for line in month.lines:
        table.add_row(line.what, line.formula(prices), dollars(line.amount(prices)))
    table.add_row("total", "", dollars(month.total(prices)), style="bold", end_section=True)
    table.add_row("", "", "")
    for line in month.often_omitted:
        table.add_row(line.what, line.formula(prices), dollars(line.amount(prices)), style="dim")
    table.add_row("often omitted", "", dollars(add(month.often_omitted, prices)), style="dim")
    table.add_row("total with these", "", dollars(month.whole(prices)), style="bold")
    return table


def plans_table(usage: Usage, month_plans: list[Plan], prices: Prices) -> Table:
    table = Table("plan", "a month", "1,000 images", "", box=None, header_style="bold")
    for column in table.columns[1:3]:
        column.justify = "right"
    for plan in month_plans:
        amounts = plan_amounts(usage, plan, prices)
        month, thousand = (dollars(value) if value is not None else "-" for value in amounts)
        table.add_row(plan.name, month, thousand, _problem(plan, prices))
    return table


def plan_amounts(usage: Usage, plan: Plan, prices: Prices) -> tuple[Decimal | None, Decimal | None]:
    """Return USD of the whole month and of 1,000 images; None where it is not known."""
    if plan.estimate is None or prices.missing(plan.estimate.keys()):
        return None, None
    whole = plan.estimate.whole(prices)
    return whole, None if plan.problem else per_thousand(whole, usage.images)


def _problem(plan: Plan, prices: Prices) -> str:
    missing: list[Key] = prices.missing(plan.estimate.keys()) if plan.estimate else []
    wanted = [f"needs --price {key.name}=USD/{key.unit}" for key in missing]
    return "; ".join([*wanted, *([plan.problem] if plan.problem else [])])


def as_dict(usage: Usage, month: Estimate, month_plans: list[Plan], prices: Prices) -> dict[str, Any]:
    """Return what --json prints. Amounts are strings, because a JSON number would be rounded."""

    def lines(part: Sequence[Line]) -> list[dict[str, str]]:
        return [{"what": line.what, "how": line.formula(prices), "usd": str(line.amount(prices))} for line in part]

    return {
        "region": prices.region,
        "prices": [
            {"price": str(key), "usd": str(prices.of(key)), "from": source.what, "day": source.day}
            for key in sorted(month.keys(), key=str)
            for source in [prices.sources.get(key, price_table.Source("the operator", ""))]
        ],
        "not_counted": NOT_COUNTED,
        "lines": lines(month.lines),
        "total_usd": str(month.total(prices)),
        "left_out": lines(month.often_omitted),
        "whole_usd": str(month.whole(prices)),
        "plans": [
            {
                "plan": plan.name,
                "month_usd": None if whole is None else str(whole),
                "thousand_images_usd": None if thousand is None else str(thousand),
                "problem": _problem(plan, prices),
            }
            for plan in month_plans
            for whole, thousand in [plan_amounts(usage, plan, prices)]
        ],
    }
