#!/usr/bin/env python
"""Time from a pending pod to the first image on a node that does not exist yet, by phase, as a chart.

    .venv/bin/python benchmarks/cold_node.py
    .venv/bin/python benchmarks/cold_node.py --models 120 --first-set 7 --network 1.25

Measured here, with the real program against a local S3 server: the seconds of a sync apart from the transfer (start,
listing, comparing) and the seconds that each file adds. Everything else is an assumption about AWS and can be given as
an option. It is compared with a simple and common design: fetching all models in the user data, before the node joins.

Image pull and sync run at the same time and share the network; unpacking limits the pull. Karpenter deletes a node that
has not joined within 15 minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.node import s3_stub  # noqa: E402 - found by the line above
from tests.node.support import ProgramNode  # noqa: E402

FILES = 500  # of the measured run
WIDTH = 60  # columns of the chart
REGISTRATION_LIMIT = 15 * 60  # seconds; Karpenter's


@dataclass(frozen=True)
class Phase:
    name: str
    begin: float  # seconds since the pod was pending
    end: float


@dataclass(frozen=True)
class Cost:
    """Seconds of a sync apart from the transfer, and seconds that each file adds."""

    run: float
    file: float


@dataclass(frozen=True)
class Assumptions:
    """Seconds, bytes, bytes per second."""

    launch: float
    join: float
    image: float
    unpack: float
    models: float
    first_set: float
    files: int
    network: float
    server: float


def measure() -> Cost:
    """Run the program on an empty and on a full bucket. The files are small, so that the transfer takes no time."""
    with tempfile.TemporaryDirectory() as folder, s3_stub.serve() as s3:
        node = ProgramNode(Path(folder) / "node", s3.environment(), ROOT / "node/comfyui-model-sync")
        node.mount_array()
        begun = time.perf_counter()
        node.run()
        fixed = time.perf_counter() - begun
        for number in range(FILES):
            s3.put(f"loras/{number}", b"x" * 1_000)
        begun = time.perf_counter()
        node.run()
        return Cost(fixed, max(0.0, time.perf_counter() - begun - fixed) / FILES)


def joins_first(given: Assumptions, cost: Cost) -> Iterator[Phase]:
    """This design: the node joins, then image and models are fetched together; pods start with the first set."""
    joined = given.launch + given.join
    pulled = joined + given.image / given.unpack
    yield Phase("launch", 0, given.launch)
    yield Phase("join", given.launch, joined)
    yield Phase("image pull", joined, pulled)
    files = max(1, round(given.files * given.first_set / given.models))
    first = fetched(given.first_set, files, given, cost, pulled - joined) + joined
    whole = fetched(given.models, given.files, given, cost, pulled - joined) + joined
    yield Phase("models: first set", joined, first)
    yield Phase("models: all", first, whole)
    start = max(pulled, first)
    yield Phase("server start", start, start + given.server)


def fetched(size: float, files: int, given: Assumptions, cost: Cost, pull: float) -> float:
    """Seconds until `size` bytes are fetched, if an image pull of `pull` seconds uses part of the network."""
    beside = (given.network - given.unpack) * pull  # bytes that arrive during the pull
    seconds = size / (given.network - given.unpack) if size <= beside else pull + (size - beside) / given.network
    return cost.run + max(seconds, files * cost.file)


def syncs_first(given: Assumptions, cost: Cost) -> Iterator[Phase]:
    """The other design: all models in the user data, then the node joins and pulls the image."""
    whole = given.launch + cost.run + max(given.models / given.network, given.files * cost.file)
    joined = whole + given.join
    pulled = joined + given.image / given.unpack
    yield Phase("launch", 0, given.launch)
    yield Phase("models: all", given.launch, whole)
    yield Phase("join", whole, joined)
    yield Phase("image pull", joined, pulled)
    yield Phase("server start", pulled, pulled + given.server)


def chart(title: str, phases: list[Phase], scale: float) -> str:
    """Bars on a common time axis; the first image is possible when the server has started."""
    ready = phases[-1].end
    lines = [f"{title}: first image possible after {ready:,.0f} s"]
    for phase in phases:
        begin, end = round(phase.begin / scale), round(phase.end / scale)
        bar = " " * begin + "█" * max(1, end - begin)
        lines.append(f"  {phase.name:18} {bar:{WIDTH}} {phase.begin:6,.0f} –{phase.end:6,.0f} s")
    joined = next(phase.end for phase in phases if phase.name == "join")
    if joined > REGISTRATION_LIMIT:
        lines.append(f"  joins after {joined:,.0f} s: Karpenter gives up on a node after {REGISTRATION_LIMIT} s")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launch", type=float, default=50, help="s, pending pod to user data (default %(default)s)")
    parser.add_argument("--join", type=float, default=25, help="s, user data to a ready node (default %(default)s)")
    parser.add_argument("--image", type=float, default=18, help="GB, unpacked (default %(default)s)")
    parser.add_argument("--unpack", type=float, default=0.15, help="GB/s, pull and unpack (default %(default)s)")
    parser.add_argument("--models", type=float, default=250, help="GB, all models (default %(default)s)")
    parser.add_argument("--first-set", type=float, default=12, help="GB, what pods wait for (default %(default)s)")
    parser.add_argument("--files", type=int, default=200, help="models (default %(default)s)")
    parser.add_argument("--network", type=float, default=0.6, help="GB/s to the disk (default %(default)s)")
    parser.add_argument("--server", type=float, default=25, help="s, container start to ready (default %(default)s)")
    options = parser.parse_args()
    if not options.unpack < options.network or not 0 < options.first_set <= options.models:
        parser.error("--unpack must be below --network, and --first-set between 0 and --models")
    sizes = {name: getattr(options, name) * 1e9 for name in ("image", "unpack", "models", "first_set", "network")}
    rest = {name: getattr(options, name) for name in ("launch", "join", "files", "server")}
    given, cost = Assumptions(**sizes, **rest), measure()
    print(f"measured: {cost.run:.2f} s for each sync, {cost.file * 1e3:.2f} ms for each file")
    print(
        f"assumed: launch {given.launch:.0f} s, join {given.join:.0f} s, image {options.image:g} GB at "
        f"{options.unpack:g} GB/s, {given.files} models of {options.models:g} GB with a first set of "
        f"{options.first_set:g} GB, {options.network:g} GB/s to the disk, server {given.server:.0f} s\n"
    )
    ours, theirs = list(joins_first(given, cost)), list(syncs_first(given, cost))
    scale = max(phase.end for phase in [*ours, *theirs]) / WIDTH
    print(chart("joins first", ours, scale), chart("syncs everything before it joins", theirs, scale), sep="\n\n")


if __name__ == "__main__":
    main()
