"""The estimate: usage of a month, times prices. Lines come first, amounts later, so that the needed prices are known.

All arithmetic is decimal, and nothing is rounded. A month has 730 hours, a GB is 10^9 bytes, as AWS bills.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal

from comfyeks.cost.prices import Key, Prices
from comfyeks.errors import UserError

HOURS_PER_MONTH = Decimal(730)
EXPOSURES = ("alb", "cloudfront", "none")
CAPACITIES = ("on-demand", "spot")
SYSTEM_CAPACITIES = ("reserved", "on-demand")


@dataclass(frozen=True)
class Usage:
    """One month. The defaults are the reference scenario: one artist's GPU during office hours."""

    instance_type: str = "g5.2xlarge"
    capacity: str = "on-demand"
    nodes: int = 1
    hours_per_day: Decimal = Decimal(8)
    days: Decimal = Decimal(20)
    system_type: str = "t3a.xlarge"
    system_capacity: str = "reserved"
    system_nodes: int = 2
    models_gb: Decimal = Decimal(100)
    images: int = 64_000
    image_mb: Decimal = Decimal("1.5")
    registry_gb: Decimal = Decimal(20)
    exposure: str = "alb"
    transfer_gb: Decimal = Decimal(100)
    # What cost tables like the reference omit.
    nat_gateways: int = 1
    nat_gb: Decimal = Decimal(50)
    interface_endpoints: int = 0  # one for each service in each zone
    disk_gib: int = 50  # root volume of every node; AWS bills its GiB as GB
    logs_gb: Decimal = Decimal(5)
    # For scaling to zero: GPU seconds per image, node starts in the month, and idle minutes that each start costs.
    seconds_per_image: Decimal | None = None
    starts: int = 60
    idle_minutes: Decimal = Decimal(15)

    def check(self) -> None:
        """Raise UserError naming the first value that is impossible."""
        for name, value in vars(self).items():
            if isinstance(value, (int, Decimal)) and value < 0:
                raise UserError(f"--{name.replace('_', '-')} {value}: expected 0 or more")
        if self.hours_per_day > 24:
            raise UserError(f"--hours-per-day {self.hours_per_day}: a day has 24 hours")
        if self.days > 31:
            raise UserError(f"--days {self.days}: a month has at most 31 days")
        for name, value, allowed in (
            ("exposure", self.exposure, EXPOSURES),
            ("capacity", self.capacity, CAPACITIES),
            ("system-capacity", self.system_capacity, SYSTEM_CAPACITIES),
        ):
            if value not in allowed:
                raise UserError(f"--{name} {value!r}: expected one of {', '.join(allowed)}")

    @property
    def gpu_hours(self) -> Decimal:
        """Paid hours of all GPU nodes together; for each node never more than the month has."""
        return self.nodes * min(self.hours_per_day * self.days, HOURS_PER_MONTH)

    @property
    def busy_hours(self) -> Decimal | None:
        """GPU hours that the images need; None if `seconds_per_image` is not given."""
        return None if self.seconds_per_image is None else self.images * self.seconds_per_image / 3600


@dataclass(frozen=True)
class Term:
    """A price times quantities, each with its unit as shown to people."""

    price: Key
    quantities: tuple[tuple[Decimal | int, str], ...] = ()

    def amount(self, prices: Prices) -> Decimal:
        result = prices.of(self.price)
        for quantity, _ in self.quantities:
            result *= quantity
        return result

    def formula(self, prices: Prices) -> str:
        unit = {"hour": "h", "month": "month", "gb": "GB", "million": "million"}[self.price.unit]
        counts = [f"{number(quantity)}{f' {what}' if what else ''}" for quantity, what in self.quantities]
        return " × ".join([*counts, f"{number(prices.of(self.price))} $/{unit}"])


@dataclass(frozen=True)
class Line:
    """An item of the bill. `fixed`: paid while the platform exists, however it is used."""

    what: str
    terms: tuple[Term, ...]
    fixed: bool = False

    def amount(self, prices: Prices) -> Decimal:
        return sum((term.amount(prices) for term in self.terms), Decimal(0))

    def formula(self, prices: Prices) -> str:
        return " + ".join(term.formula(prices) for term in self.terms)


@dataclass(frozen=True)
class Estimate:
    """`lines` are what cost tables commonly count, `often_omitted` what they omit although it is paid."""

    lines: tuple[Line, ...]
    often_omitted: tuple[Line, ...]

    def keys(self) -> set[Key]:
        return {term.price for line in (*self.lines, *self.often_omitted) for term in line.terms}

    def total(self, prices: Prices) -> Decimal:
        return add(self.lines, prices)

    def whole(self, prices: Prices) -> Decimal:
        return self.total(prices) + add(self.often_omitted, prices)


def add(lines: Iterable[Line], prices: Prices) -> Decimal:
    return sum((line.amount(prices) for line in lines), Decimal(0))


def estimate(usage: Usage, gpu_hours: Decimal | None = None) -> Estimate:
    """Return the estimate of a month. `gpu_hours`, of all nodes together, replaces the hours of the usage.

    Raises UserError if the usage is impossible.
    """
    usage.check()
    if gpu_hours is None and usage.hours_per_day * usage.days <= HOURS_PER_MONTH:
        gpu_hours = usage.gpu_hours
        time: tuple[tuple[Decimal | int, str], ...] = (
            (usage.nodes, ""), (usage.hours_per_day, "h"), (usage.days, "d"),
        )  # fmt: skip
    else:
        gpu_hours = usage.gpu_hours if gpu_hours is None else gpu_hours
        time = ((gpu_hours, "h"),)
    gpu = Key(f"{'ec2' if usage.capacity == 'on-demand' else 'spot'}.{usage.instance_type}", "hour")
    lines = [
        Line("EKS control plane", (_hourly("eks.cluster"),), fixed=True),
        Line(f"GPU nodes, {usage.instance_type} {usage.capacity}", (Term(gpu, time),)),
        Line(f"system nodes, {usage.system_type} {usage.system_capacity}", (_system(usage),), fixed=True),
        Line("models in S3", (Term(Key("s3.storage", "gb"), ((usage.models_gb, "GB"),)),)),
        Line(
            "outputs in S3",
            (Term(Key("s3.storage", "gb"), ((usage.images, "images"), (usage.image_mb / 1000, "GB"))),),
        ),
        Line("images in ECR", (Term(Key("ecr.storage", "gb"), ((usage.registry_gb, "GB"),)),)),
    ]
    if usage.exposure != "none":
        balancer = (Term(Key("alb", "month")), Term(Key("alb.capacity-unit", "hour"), ((HOURS_PER_MONTH, "h"),)))
        transfer = Term(Key(f"transfer.{usage.exposure}", "gb"), ((usage.transfer_gb, "GB"),))
        lines += [
            Line("load balancer", balancer, fixed=True),
            Line(f"transfer by {'CloudFront' if usage.exposure == 'cloudfront' else 'ALB'}", (transfer,)),
        ]
    return Estimate(tuple(lines), tuple(_often_omitted(usage, gpu_hours)))


def _hourly(name: str, count: int = 1) -> Term:
    return Term(Key(name, "hour"), (((count, ""),) if count != 1 else ()) + ((HOURS_PER_MONTH, "h"),))


def _system(usage: Usage) -> Term:
    if usage.system_capacity == "reserved":
        return Term(Key(f"reserved.{usage.system_type}", "month"), ((usage.system_nodes, ""),))
    return _hourly(f"ec2.{usage.system_type}", usage.system_nodes)


def _often_omitted(usage: Usage, gpu_hours: Decimal) -> list[Line]:
    gp3 = Key("ebs.gp3", "gb")
    system_disks = Term(gp3, ((usage.system_nodes, ""), (usage.disk_gib, "GB")))
    gpu_disks = Term(gp3, ((usage.disk_gib, "GB"), (gpu_hours / HOURS_PER_MONTH, "months")))
    puts = Decimal(usage.images) / 10**6
    endpoints = Line("interface endpoints", (_hourly("endpoint.interface", usage.interface_endpoints),), fixed=True)
    return [
        Line("NAT gateway", (_hourly("nat.gateway", usage.nat_gateways),), fixed=True),
        Line("data through NAT", (Term(Key("nat.data", "gb"), ((usage.nat_gb, "GB"),)),)),
        Line("public IPv4 of NAT", (_hourly("ipv4.address", usage.nat_gateways),), fixed=True),
        *([endpoints] if usage.interface_endpoints else []),
        Line("root disks of system nodes", (system_disks,), fixed=True),
        Line("root disks of GPU nodes", (gpu_disks,)),
        Line("KMS keys of cluster and messages", (Term(Key("kms.key", "month"), ((2, "keys"),)),), fixed=True),
        Line("logs", (Term(Key("logs.ingested", "gb"), ((usage.logs_gb, "GB"),)),)),
        Line("S3 requests, one PUT an image", (Term(Key("s3.put", "million"), ((puts, "million"),)),)),
    ]


@dataclass(frozen=True)
class Plan:
    """How long GPU nodes run, and at which price. `estimate` is None if `problem` says why there is none."""

    name: str
    estimate: Estimate | None
    problem: str = ""


def plans(usage: Usage) -> list[Plan]:
    """Return the month under four plans: always on, always on with spot, on a schedule, only while there is work."""
    always = usage.nodes * HOURS_PER_MONTH
    on_demand = replace(usage, capacity="on-demand")
    found = [
        Plan("on-demand, always on", estimate(on_demand, always), _too_few(usage, always)),
        Plan("spot, always on", estimate(replace(usage, capacity="spot"), always), _too_few(usage, always)),
        Plan("schedule", estimate(on_demand, usage.gpu_hours), _too_few(usage, usage.gpu_hours)),
    ]
    busy = usage.busy_hours
    if busy is None:
        return [*found, Plan("scale to zero", None, "needs --seconds-per-image")]
    if busy > always:
        return [*found, Plan("scale to zero", None, _too_few(usage, always))]
    hours = min(always, busy + usage.starts * usage.idle_minutes / 60)
    return [*found, Plan("scale to zero", estimate(on_demand, hours))]


def _too_few(usage: Usage, hours: Decimal) -> str:
    busy = usage.busy_hours
    if busy is None or busy <= hours:
        return ""
    return f"the images need {number(busy.quantize(Decimal(1)))} GPU hours, this plan has {number(hours)}"


def per_thousand(total: Decimal, images: int) -> Decimal | None:
    return total / images * 1000 if images else None


def number(value: Decimal | int) -> str:
    """Format for people, with at most six decimal places: 64,000 · 1.212 · 0.219178."""
    text = f"{Decimal(value).quantize(Decimal('0.000001')):,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def dollars(value: Decimal) -> str:
    """Format USD with two decimal places, or three if needed: 193.92 · 2.208 · 442.378."""
    cents, mills = value.quantize(Decimal("0.01")), value.quantize(Decimal("0.001"))
    return f"{cents:,f}" if cents == mills else f"{mills:,f}"
