"""What running instances have cost since the month began."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from comfyeks.cost.prices import Key, Prices


@dataclass(frozen=True)
class Running:
    """An instance that is paid by the hour, and since when."""

    type: str
    capacity: str
    since: datetime


def hours_this_month(since: datetime, now: datetime) -> Decimal:
    """Return the hours from `since`, or from the beginning of the month, until now; never negative."""
    begin = max(since, now.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    return Decimal(max(0, int((now - begin).total_seconds()))) / 3600


def hourly(node: Running, prices: Prices) -> Decimal:
    """Return USD an hour. Spot without a price counts as on-demand, which is the most that it can cost.

    Raises UserError for a type without a price.
    """
    spot = Key(f"spot.{node.type}", "hour")
    if node.capacity == "spot" and spot in prices.amounts:
        return prices.of(spot)
    return prices.of(Key(f"ec2.{node.type}", "hour"))
