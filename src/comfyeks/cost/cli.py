"""`comfyeks cost`: what a month costs, line by line, and four ways to have the same GPUs."""

from __future__ import annotations

import json
import sys
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
    region: Annotated[str, typer.Option(envvar="AWS_REGION", help="Whose prices.")] = DEFAULT_REGION,
    instance_type: Annotated[str, typer.Option(help="GPU instance type.")] = REFERENCE.instance_type,
    capacity: Annotated[str, typer.Option(help=f"{' or '.join(CAPACITIES)}.")] = REFERENCE.capacity,
    nodes: Annotated[int, typer.Option(help="GPU nodes.")] = REFERENCE.nodes,
    hours_per_day: Annotated[str, typer.Option(help="Hours of a day on which they run.")] = str(
        REFERENCE.hours_per_day
    ),
    days: Annotated[str, typer.Option(help="Days of the month on which they run.")] = str(REFERENCE.days),
    images: Annotated[int, typer.Option(help="Images of the month, all kept.")] = REFERENCE.images,
    image_mb: Annotated[str, typer.Option("--image-mb", help="Size of one in MB.")] = str(REFERENCE.image_mb),
    seconds_per_image: Annotated[str | None, typer.Option(help="GPU seconds of one image, for scale to zero.")] = None,
    starts: Annotated[int, typer.Option(help="Starts of a node in the month, for scale to zero.")] = REFERENCE.starts,
    idle_minutes: Annotated[
        str, typer.Option(help="Paid minutes of each start without work: boot, and the wait before the node ends.")
    ] = str(REFERENCE.idle_minutes),
    models_gb: Annotated[str, typer.Option("--models-gb", help="GB of models.")] = str(REFERENCE.models_gb),
    registry_gb: Annotated[str, typer.Option("--registry-gb", help="GB of container images.")] = str(
        REFERENCE.registry_gb
    ),
    exposure: Annotated[str, typer.Option(help=f"How people come in: {', '.join(EXPOSURES)}.")] = REFERENCE.exposure,
    transfer_gb: Annotated[str, typer.Option("--transfer-gb", help="GB out to the internet.")] = str(
        REFERENCE.transfer_gb
    ),
    system_type: Annotated[str, typer.Option(help="Instance type of the CPU nodes.")] = REFERENCE.system_type,
    system_capacity: Annotated[
        str, typer.Option(help=f"{' or '.join(SYSTEM_CAPACITIES)}.")
    ] = REFERENCE.system_capacity,
    system_nodes: Annotated[int, typer.Option(help="CPU nodes.")] = REFERENCE.system_nodes,
    nat_gateways: Annotated[int, typer.Option(help="NAT gateways.")] = REFERENCE.nat_gateways,
    nat_gb: Annotated[str, typer.Option("--nat-gb", help="GB through them.")] = str(REFERENCE.nat_gb),
    interface_endpoints: Annotated[
        int, typer.Option(help="VPC endpoints, one for each service in each zone.")
    ] = REFERENCE.interface_endpoints,
    logs_gb: Annotated[str, typer.Option("--logs-gb", help="GB of logs.")] = str(REFERENCE.logs_gb),
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=USD/UNIT", help="A price, such as ec2.g6.xlarge=0.8048/hour; repeat it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a month costs, line by line; then the same month in four ways. Asks AWS nothing.

    Without options: one g5.2xlarge eight hours a day, twenty days, in us-west-2. A price that is not in the table is
    asked for; without a terminal, the answer is an error that names it.
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
    prices = price_table.load(region).plus(dict(price_table.given(text) for text in price or []))
    prices = complete(month, prices)
    ways = plans(usage)
    if as_json:
        out.print_json(json.dumps(as_dict(usage, month, ways, prices)))
        return
    out.print(month_table(month, prices))
    out.print()
    out.print(plans_table(usage, ways, prices))
    of = f" of {days}" if (days := prices.days(month.keys())) else ""
    note(f"USD, list prices of {prices.region}{of}, without tax; your own: --price, {price_table.OWN}")
    note(NOT_COUNTED)


def complete(month: Estimate, prices: Prices) -> Prices:
    """All prices of an estimate; unknown ones are asked for and kept. Raises UserError without a terminal."""
    missing = prices.missing(month.keys())
    if not missing:
        return prices
    if not sys.stdin.isatty():
        wanted = " ".join(f"--price {key.name}=USD/{key.unit}" for key in missing)
        raise UserError(
            f"{len(missing)} price(s) of {prices.region} are not known, and are not guessed; give them: {wanted}"
        )
    note(f"Not in the table for {prices.region}; aws.amazon.com/pricing has them. They are kept in {price_table.OWN}.")
    answers = {key: price_table.amount(typer.prompt(f"USD for {key}", err=True), str(key)) for key in missing}
    price_table.remember(prices.region, answers)
    return prices.plus(answers)


def month_table(month: Estimate, prices: Prices) -> Table:
    table = Table("a month", "how", "USD", box=None, header_style="bold")
    table.columns[2].justify = "right"
    for line in month.lines:
        table.add_row(line.what, line.words(prices), dollars(line.amount(prices)))
    table.add_row("total", "", dollars(month.total(prices)), style="bold", end_section=True)
    table.add_row("", "", "")
    for line in month.left_out:
        table.add_row(line.what, line.words(prices), dollars(line.amount(prices)), style="dim")
    table.add_row("often left out", "", dollars(add(month.left_out, prices)), style="dim")
    table.add_row("with all of it", "", dollars(month.whole(prices)), style="bold")
    return table


def plans_table(usage: Usage, ways: list[Plan], prices: Prices) -> Table:
    table = Table("plan", "a month", "1,000 images", "", box=None, header_style="bold")
    for column in table.columns[1:3]:
        column.justify = "right"
    for plan in ways:
        amounts = plan_amounts(usage, plan, prices)
        month, thousand = (dollars(value) if value is not None else "-" for value in amounts)
        table.add_row(plan.name, month, thousand, _problem(plan, prices))
    return table


def plan_amounts(usage: Usage, plan: Plan, prices: Prices) -> tuple[Decimal | None, Decimal | None]:
    """USD of the whole month and of 1,000 images; None where it cannot be said."""
    if plan.estimate is None or prices.missing(plan.estimate.keys()):
        return None, None
    whole = plan.estimate.whole(prices)
    return whole, None if plan.problem else per_thousand(whole, usage.images)


def _problem(plan: Plan, prices: Prices) -> str:
    missing: list[Key] = prices.missing(plan.estimate.keys()) if plan.estimate else []
    wanted = [f"needs --price {key.name}=USD/{key.unit}" for key in missing]
    return "; ".join([*wanted, *([plan.problem] if plan.problem else [])])


def as_dict(usage: Usage, month: Estimate, ways: list[Plan], prices: Prices) -> dict[str, Any]:
    """Amounts are strings: a JSON number would not be the amount any more."""

    def lines(estimated: Estimate, part: str) -> list[dict[str, str]]:
        return [
            {"what": line.what, "how": line.words(prices), "usd": str(line.amount(prices))}
            for line in getattr(estimated, part)
        ]

    return {
        "region": prices.region,
        "prices": [
            {"price": str(key), "usd": str(prices.of(key)), "from": source.what, "day": source.day}
            for key in sorted(month.keys(), key=str)
            for source in [prices.sources.get(key, price_table.Source("the operator", ""))]
        ],
        "not_counted": NOT_COUNTED,
        "lines": lines(month, "lines"),
        "total_usd": str(month.total(prices)),
        "left_out": lines(month, "left_out"),
        "whole_usd": str(month.whole(prices)),
        "plans": [
            {
                "plan": plan.name,
                "month_usd": None if whole is None else str(whole),
                "thousand_images_usd": None if thousand is None else str(thousand),
                "problem": _problem(plan, prices),
            }
            for plan in ways
            for whole, thousand in [plan_amounts(usage, plan, prices)]
        ],
    }
