"""The screen of `comfyeks status`, from the answers of AWS and the cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from rich.console import Console

from comfyeks.cost.prices import Key, Prices
from comfyeks.cost.running import Running, hourly, hours_this_month
from comfyeks.dev.pictures import STATUS
from comfyeks.status import Status, screen

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PRICES = Prices("us-west-2", {Key("ec2.g5.2xlarge", "hour"): Decimal(2)})


def shown(status: Status) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(screen(status))
    return capture.get()


def test_the_screen_has_nodes_pods_queues_address_and_cost() -> None:
    printed = shown(STATUS)
    for word in ("spot", "3 h 12 min", "41 models", "it waits for the node's models", "https://", "214.06 USD"):
        assert word in printed


def test_what_is_not_known_is_named_and_the_rest_is_shown() -> None:
    printed = shown(Status("comfyui", "1", "us-west-2", problems=["pods: no kubectl context is chosen"]))
    assert "not known: pods: no kubectl context is chosen" in printed
    assert "no GPU node runs" in printed


def test_hours_of_this_month_begin_with_the_month() -> None:
    assert hours_this_month(datetime(2026, 10, 1, tzinfo=UTC), NOW) == 20 * 24 + 12
    assert hours_this_month(datetime(2026, 11, 21, 10, 30, tzinfo=UTC), NOW) == Decimal("1.5")
    assert hours_this_month(datetime(2026, 11, 22, tzinfo=UTC), NOW) == 0


def test_spot_without_a_price_counts_as_on_demand() -> None:
    spot = Running("g5.2xlarge", "spot", NOW)
    assert hourly(spot, PRICES) == 2
    assert hourly(spot, PRICES.plus({Key("spot.g5.2xlarge", "hour"): Decimal("0.5")})) == Decimal("0.5")
