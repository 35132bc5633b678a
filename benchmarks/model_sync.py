#!/usr/bin/env python
"""How fast the model sync fills an empty disk, beside s5cmd and `aws s3 sync` against the same local server.

    .venv/bin/python benchmarks/model_sync.py           scaled down: 2,000 x 100 KB and 6 x 256 MB, a minute or two
    .venv/bin/python benchmarks/model_sync.py --full    20,000 x 100 KB and 6 x 3 GB (18 GB on the disk at a time)

The server is versitygw (Go, checks every signature, sends files from the page cache), built on demand from
tools/s3server; objects are hard links to one file. Server and clients share this machine's cores and its disk, so
only the ratios within one run are meaningful, not the rates. Every round measures each tool once; a line shows the
median. `CPU` is the client's user and system time, `peak` the sum of the resident memory of all its processes, sampled.
A slow or busy disk hides the differences: `--work /dev/shm` avoids the disk. Prints JSON to stdout,
the table to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.s3_server import REGION, serving  # noqa: E402 - found by the line above
from tests.node.support import ProgramNode  # noqa: E402

BUCKET = "models"


@dataclass(frozen=True)
class Load:
    """`count` objects of `size` bytes each."""

    name: str
    count: int
    size: int


SCALED = (Load("small", 2_000, 100_000), Load("large", 6, 256 * 10**6))
FULL = (Load("small", 20_000, 100_000), Load("large", 6, 3 * 10**9))


@dataclass(frozen=True)
class Measured:
    seconds: float
    cpu: float  # seconds
    peak: int  # bytes


def measure(argv: list[str], env: dict[str, str]) -> Measured:
    """Run a command to its end. Raises CalledProcessError."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(argv, env=env, stdout=output, stderr=output)
        peak = Peak(psutil.Process(process.pid))
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise subprocess.CalledProcessError(process.returncode, argv, output.read()[-2000:])
    return Measured(seconds, usage.ru_utime + usage.ru_stime, max(peak.stop(), usage.ru_maxrss * 1024))


class Peak:
    """Samples the resident memory of a process and its children."""

    def __init__(self, process: psutil.Process):
        self._process, self._bytes, self._over = process, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._over.wait(0.2):
            with suppress(psutil.Error):
                tree = [self._process, *self._process.children(recursive=True)]
                self._bytes = max(self._bytes, sum(process.memory_info().rss for process in tree))

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._bytes


@contextmanager
def local_server(load: Load, home: Path) -> Iterator[dict[str, str]]:
    """Run a server whose bucket has the load; yields the environment for its clients."""
    source, folder = home / "source", home / f"buckets/{BUCKET}/loras"
    block = os.urandom(min(load.size, 10**6))
    with source.open("wb") as file:
        for _ in range(load.size // len(block)):
            file.write(block)
    os.utime(
        source, times=(yesterday := time.time() - 86_400, yesterday)
    )  # s5cmd skips objects that are newer than now
    folder.mkdir(parents=True)
    for number in range(load.count):
        (folder / f"{number:05}.safetensors").hardlink_to(source)
    etag = "0123456789abcdef0123456789abcdef"
    with serving(home / "server", home / "buckets", "--readonly", posix=("--default-etag", etag)) as environment:
        yield environment


def rounds(load: Load, environment: dict[str, str], work: Path, count: int) -> dict[str, list[Measured]]:
    """Measurements by tool: `comfyui-model-sync`, `no change` (its second run), `s5cmd cp`, `aws s3 sync`, `cp`."""
    program = ROOT / "node/comfyui-model-sync"
    found: dict[str, list[Measured]] = {}
    env = {**os.environ, **environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def ours(home: Path) -> Path:
        node = ProgramNode(home, environment, program)
        node.mount_array()
        node.env["COMFYUI_NODE_DISK_BYTES"] = str(10**15)
        node.settings.write_text(f"MODELS_BUCKET={BUCKET}\nAWS_REGION={REGION}\n")
        argv = [sys.executable, str(program), "run"]
        found.setdefault("comfyui-model-sync", []).append(measure(argv, node.env))
        found.setdefault("no change", []).append(measure(argv, node.env))
        return node.models.resolve()

    def plain(name: str, argv: list[str]) -> Callable[[Path], Path]:
        def run(home: Path) -> Path:
            home.mkdir()
            found.setdefault(name, []).append(measure([*argv, f"{home}/"], env))
            return home

        return run

    tools = [
        ours,
        plain("s5cmd cp", ["s5cmd", "--log", "error", "cp", f"s3://{BUCKET}/*"]),
        plain("aws s3 sync", ["aws", "s3", "sync", "--only-show-errors", f"s3://{BUCKET}"]),
    ]
    for number in range(count):
        for tool in tools[number % len(tools) :] + tools[: number % len(tools)]:
            home = work / "target"
            files = [file for file in tool(home).rglob("*.safetensors") if file.stat().st_size == load.size]
            if len(files) != load.count:
                raise SystemExit(
                    f"{len(files)} of {load.count} objects of {load.size} bytes arrived: the measurement is invalid"
                )
            if number == 0 and tool is ours:
                copied = work / "copied"
                found["cp"] = [measure(["cp", "-r", str(files[0].parent), str(copied)], env)]
                shutil.rmtree(copied)
            shutil.rmtree(home)
    return found


def report(load: Load, found: dict[str, list[Measured]]) -> dict[str, object]:
    """Medians, and the sync's speed relative to the faster of the two S3 clients; the table goes to stderr."""
    seconds = {tool: statistics.median(m.seconds for m in measured) for tool, measured in found.items()}
    peaks = {tool: max(m.peak for m in measured) for tool, measured in found.items()}
    total = load.count * load.size
    cpu = {tool: statistics.median(m.cpu for m in measured) for tool, measured in found.items()}
    print(f"\n{load.name}: {load.count:,} x {load.size:,} bytes", file=sys.stderr)
    for tool, value in seconds.items():
        rate = "" if tool == "no change" else f"{load.count / value:9,.0f} files/s {total / value / 1e9:6.2f} GB/s"
        print(
            f"  {tool:20} {value:8.2f} s {rate:30} CPU {cpu[tool]:6.2f} s  peak {peaks[tool] / 2**20:5.0f} MiB",
            file=sys.stderr,
        )
    best = min(seconds["s5cmd cp"], seconds["aws s3 sync"])
    ratio = best / seconds["comfyui-model-sync"]
    print(f"  {ratio:.2f} times the speed of the faster S3 client (goal 0.95)", file=sys.stderr)
    runs = {tool: [round(m.seconds, 3) for m in measured] for tool, measured in found.items()}
    return {
        "load": vars(load),
        "seconds": runs,
        "cpu_seconds": cpu,
        "peak_bytes": peaks,
        "ratio_to_faster_client": round(ratio, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the sizes of the goal instead of scaled-down ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", choices=("small", "large"), help="only one of the two loads")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to fill")
    options = parser.parse_args()
    results = []
    for load in FULL if options.full else SCALED:
        if options.load not in (None, load.name):
            continue
        with (
            tempfile.TemporaryDirectory(dir=options.work) as folder,
            local_server(load, Path(folder)) as environment,
        ):
            found = rounds(load, environment, Path(folder), options.rounds)
        results.append(report(load, found))
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    print(json.dumps({"machine": machine, "results": results}, indent=2))


if __name__ == "__main__":
    main()
