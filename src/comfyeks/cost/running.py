"""What instances that run have cost since the month began."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from comfyeks.cost.prices import Key, Prices


@dataclass(frozen=True)
class Running:
    """Something that is paid for by the hour since a moment."""

    type: str
    capacity: str
    since: datetime


def hours_this_month(since: datetime, now: datetime) -> Decimal:
    """Hours from a moment, but not from before the month began, until now; never negative."""
    begin = max(since, now.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    return Decimal(max(0, int((now - begin).total_seconds()))) / 3600


def hourly(node: Running, prices: Prices) -> Decimal:
    """USD an hour. Spot that nobody priced counts as on-demand, which is the most that it can cost.

    Raises UserError for a type without a price.
    """
    spot = Key(f"spot.{node.type}", "hour")
    if node.capacity == "spot" and spot in prices.amounts:
        return prices.of(spot)
    return prices.of(Key(f"ec2.{node.type}", "hour"))
