#!/usr/bin/env python
"""How fast the model sync fills an empty disk, beside plain s5cmd and `aws s3 sync` against the same local server.

    .venv/bin/python benchmarks/model_sync.py                 scaled down: 2,000 x 100 KB and 6 x 64 MB, a minute or two
    .venv/bin/python benchmarks/model_sync.py --full          20,000 x 100 KB and 6 x 3 GB (18 GB twice on the disk)

Server and clients share this machine's cores, and the built-in server is Python: what counts is the ratio within one
run, not the rates. Every round measures all tools once, in turns; a line shows the median. `peak` is the largest
resident memory of one process of a tool, never less than this script's own. Every run of the sync begins with the AWS
CLI's listing, about a second whatever the size: that is what scaled-down loads show of it. A disk that is slow or in
use by others drowns the differences: `--work /dev/shm` takes it out. Prints JSON to stdout, the table to stderr.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from comfyeks.infra import s5cmd as s5cmd_binary  # noqa: E402 - the tests' server is found by the line above
from tests.node import s3_stub  # noqa: E402
from tests.node.support import ProgramNode  # noqa: E402


@dataclass(frozen=True)
class Load:
    """`count` objects of `size` bytes each."""

    name: str
    count: int
    size: int


SCALED = (Load("small", 2_000, 100_000), Load("large", 6, 64 * 10**6))
FULL = (Load("small", 20_000, 100_000), Load("large", 6, 3 * 10**9))


@dataclass(frozen=True)
class Measured:
    seconds: float
    peak: int  # bytes


def measure(argv: list[str], env: dict[str, str]) -> Measured:
    """Runs a command to its end. Raises CalledProcessError."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(argv, env=env, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begun
        if process.returncode:
            output.seek(0)
            raise subprocess.CalledProcessError(process.returncode, argv, output.read()[-2000:])
    return Measured(seconds, usage.ru_maxrss * 1024)


def _server(load: Load, source: Path, pipe: Connection) -> None:
    with s3_stub.serve() as stub:
        stub._started -= timedelta(days=1)  # s5cmd's own listing leaves out what is newer than the clock
        for number in range(load.count):
            stub.put(f"models/{number:05}.safetensors", source)
        pipe.send(stub.environment())
        pipe.recv()


@contextmanager
def local_server(load: Load, source: Path) -> Iterator[dict[str, str]]:
    """The tests' S3 server in a process of its own, with every object's bytes from one file; its environment."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_server, args=(load, source, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()  # ends its recv
        process.terminate()
        process.join()


def rounds(load: Load, environment: dict[str, str], bucket: str, work: Path, count: int) -> dict[str, list[Measured]]:
    """Measurements by tool: `comfyui-model-sync`, `no change` (its second run), `s5cmd cp`, `aws s3 sync`, `cp`."""
    s5cmd = s5cmd_binary.prepare()
    program = ROOT / "node/comfyui-model-sync"
    found: dict[str, list[Measured]] = {}
    env = {**os.environ, **environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    region = environment["AWS_REGION"]

    def ours(home: Path) -> Path:
        node = ProgramNode(home, environment, program, s5cmd)
        node.mount_array()
        node.env.update(COMFYUI_NODE_DISK_BYTES=str(10**15), AWS_MAX_ATTEMPTS="3")
        node.settings.write_text(f"MODELS_BUCKET={bucket}\nAWS_REGION={region}\n")
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
        plain("s5cmd cp", [str(s5cmd), "--log", "error", "cp", f"s3://{bucket}/*"]),
        plain("aws s3 sync", ["aws", "s3", "sync", "--only-show-errors", f"s3://{bucket}"]),
    ]
    for number in range(count):
        for tool in tools[number % len(tools) :] + tools[: number % len(tools)]:
            home = work / "target"
            files = [file for file in tool(home).rglob("*.safetensors") if file.stat().st_size == load.size]
            if len(files) != load.count:
                raise SystemExit(
                    f"{len(files)} of {load.count} objects of {load.size} bytes arrived: the numbers are void"
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
    print(f"\n{load.name}: {load.count:,} x {load.size:,} bytes", file=sys.stderr)
    for tool, value in seconds.items():
        rate = "" if tool == "no change" else f"{load.count / value:9,.0f} files/s {total / value / 1e9:6.2f} GB/s"
        print(f"  {tool:20} {value:8.2f} s {rate:30} peak {peaks[tool] / 2**20:5.0f} MiB", file=sys.stderr)
    best = min(seconds["s5cmd cp"], seconds["aws s3 sync"])
    ratio = best / seconds["comfyui-model-sync"]
    print(f"  {ratio:.2f} times the speed of the faster S3 client (goal 0.95)", file=sys.stderr)
    runs = {tool: [round(m.seconds, 3) for m in measured] for tool, measured in found.items()}
    return {"load": vars(load), "seconds": runs, "peak_bytes": peaks, "ratio_to_faster_client": round(ratio, 3)}


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
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            source = Path(folder) / "source"
            block = os.urandom(min(load.size, 10**6))
            with source.open("wb") as file:
                for _ in range(load.size // len(block)):
                    file.write(block)
            with local_server(load, source) as environment:
                found = rounds(load, environment, s3_stub.BUCKET, Path(folder), options.rounds)
        results.append(report(load, found))
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    print(json.dumps({"machine": machine, "results": results}, indent=2))


if __name__ == "__main__":
    main()
