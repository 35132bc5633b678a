"""Prices per unit in a region, with their sources: the project's table, and prices that the operator added.

A missing price is an error that says how to give it, never a guess from another region.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path

import yaml

from comfyeks.errors import UserError
from comfyeks.files import write_atomically
from comfyeks.paths import STATE

TABLE = Path(__file__).with_name("prices.yaml")
FROM = "from"  # beside the amounts of a price in the table: the name of its source
OWN = STATE / "prices.yaml"  # prices that the operator was asked for, in the table's layout
UNITS = ("hour", "month", "gb", "million")

_GIVEN = re.compile(r"(?P<name>[a-z0-9.-]+)=(?P<amount>[0-9.]+)(?:/(?P<unit>[a-z]+))?")


@dataclass(frozen=True)
class Key:
    """Name of a price and its unit: ("ec2.g5.2xlarge", "hour")."""

    name: str
    unit: str

    def __str__(self) -> str:
        return f"{self.name} per {self.unit}"


@dataclass(frozen=True)
class Source:
    """Where a price was read, and on which day."""

    what: str
    day: str


@dataclass(frozen=True)
class Prices:
    """USD per unit in one region. `sources` has those of the table's prices; the other prices are the operator's."""

    region: str
    amounts: dict[Key, Decimal]
    sources: dict[Key, Source] = field(default_factory=dict)

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        return sorted({key for key in keys if key not in self.amounts}, key=str)

    def of(self, key: Key) -> Decimal:
        """Return a price. Raises UserError, which says how to give it, if it is not known."""
        if key not in self.amounts:
            raise UserError(
                f"the price of {key} in {self.region} is not known, and is not guessed: look it up at "
                f"aws.amazon.com/pricing and write it to {OWN}, for example: "
                f"{{regions: {{{self.region}: {{{key.name}: {{{key.unit}: 1.23}}}}}}}}"
            )
        return self.amounts[key]

    def plus(self, more: dict[Key, Decimal]) -> Prices:
        """Return these prices with those of the operator, which win."""
        sources = {key: source for key, source in self.sources.items() if key not in more}
        return Prices(self.region, self.amounts | more, sources)

    def dates(self, keys: Iterable[Key]) -> str:
        """Return the day of the table's prices, or the first and the last day; empty if all are the operator's."""
        days = sorted({self.sources[key].day for key in keys if key in self.sources})
        return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else ""


def load(region: str, table: Path = TABLE, own: Path | None = None) -> Prices:
    """Return the prices of a region: the operator's win over the table's. A region in neither has none."""
    amounts, sources = _read(table, region)
    prices = Prices(region, amounts, sources)
    own = OWN if own is None else own
    return prices.plus(_read(own, region)[0]) if own.exists() else prices


def save(region: str, more: dict[Key, Decimal], own: Path | None = None) -> Path:
    """Store the operator's prices in this checkout, and return the file."""
    own = OWN if own is None else own
    document = yaml.load(own.read_text(), Loader=yaml.BaseLoader) if own.exists() else {"regions": {}}  # noqa: S506
    prices = document["regions"].setdefault(region, {})
    for key, amount in more.items():
        prices.setdefault(key.name, {})[key.unit] = str(amount)
    write_atomically(own, yaml.safe_dump(document))
    return own


def parse(text: str) -> tuple[Key, Decimal]:
    """Parse a price such as `ec2.g6.xlarge=0.8048/hour`; without a unit, it is per hour. Raises UserError."""
    match = _GIVEN.fullmatch(text.strip())
    unit = (match["unit"] or "hour") if match else ""
    if match is None or unit not in UNITS:
        raise UserError(f"--price {text!r}: expected NAME=USD/UNIT, UNIT one of {', '.join(UNITS)}")
    return Key(match["name"], unit), amount(match["amount"], f"--price {text!r}")


def amount(text: str, where: str) -> Decimal:
    """Parse an amount that a person wrote. Raises UserError, which begins with `where`."""
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise UserError(f"{where}: {text!r} is not a number such as 1.212") from error
    if not value.is_finite() or value < 0:
        raise UserError(f"{where}: {text!r} is not allowed; expected 0 or more")
    return value


def _read(path: Path, region: str) -> tuple[dict[Key, Decimal], dict[Key, Source]]:
    # As text, because a float would round the price.
    document = yaml.load(path.read_text(), Loader=yaml.BaseLoader)  # noqa: S506
    known = {name: Source(**source) for name, source in document.get("sources", {}).items()}
    amounts: dict[Key, Decimal] = {}
    sources: dict[Key, Source] = {}
    for name, entry in document.get("regions", {}).get(region, {}).items():
        for unit, value in entry.items():
            if unit == FROM:
                continue
            if unit not in UNITS:
                raise UserError(
                    f"{path}, {region}, {name}: unit {unit!r} is not known; expected one of {', '.join(UNITS)}"
                )
            key = Key(name, unit)
            amounts[key] = amount(value, f"{path}, {region}, {name}")
            if FROM in entry:
                sources[key] = known[entry[FROM]]
    return amounts, sources
