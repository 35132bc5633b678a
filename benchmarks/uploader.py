#!/usr/bin/env python
"""How fast the uploader empties an output folder, beside `aws s3 cp --recursive` of the same files to the same server.

    .venv/bin/python benchmarks/uploader.py               1,000 pictures of 1.5 MB, 10 videos of 100 MB: a few minutes
    .venv/bin/python benchmarks/uploader.py --load file   one video of 2 GB

The server is versitygw (s3_server.py). Both clients are Python processes on the same cores as the server, so only the
ratios within one run are meaningful, not the rates. The uploader receives SIGTERM as soon as it runs, so that it does
not wait for files to become quiet; it also reads the end of every file and keeps its SHA-256, which `aws s3 cp` does
not. Every round measures both once; a line shows medians, `CPU` is the client's user and system time.
`--work /dev/shm` avoids the disk. Prints JSON to stdout, the table to stderr.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import s3_server  # noqa: E402 - found by the line above


@dataclass(frozen=True)
class Load:
    """`count` files of `size` bytes each."""

    name: str
    count: int
    size: int


LOADS = {
    "pictures": Load("pictures", 1_000, 1_500_000),
    "videos": Load("videos", 10, 100 * 10**6),
    "file": Load("file", 1, 2 * 10**9),
}
SCRIPT = ROOT / "charts/comfyui/files/uploader.py"
BUCKET = "outputs"


def fill(folder: Path, load: Load) -> None:
    """Files of random bytes, all different."""
    block = os.urandom(10**6)
    for number in range(load.count):
        with (folder / f"ComfyUI_{number:05}_.bin").open("wb") as file:
            remaining = load.size
            while remaining:
                own = number.to_bytes(8, "little") + remaining.to_bytes(8, "little")
                remaining -= file.write((own + block)[: min(remaining, 10**6)])


@dataclass(frozen=True)
class Measured:
    seconds: float
    cpu: float


@contextmanager
def measuring(found: list[Measured]) -> Iterator[None]:
    """Add the seconds and the CPU time of the processes that start and end inside the block."""
    began, before = time.perf_counter(), os.times()
    yield
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    found.append(Measured(time.perf_counter() - began, cpu))


def start(
    output: Path, state: Path, environment: dict[str, str], *, pod: str = "pod", prefix: str = "", **streams: Any
) -> subprocess.Popen[bytes]:
    """Start the program of the chart on a folder."""
    settings = {
        "OUTPUTS_BUCKET": BUCKET,
        "OUTPUTS_PREFIX": prefix,
        "OUTPUT_DIR": str(output),
        "STATE_DIR": str(state),
        "POD_NAME": pod,
        "KEEP_LOCAL_GIB": "100",
    }
    return subprocess.Popen([sys.executable, SCRIPT], env={**environment, **settings}, **streams)


def uploader(output: Path, work: Path, environment: dict[str, str]) -> None:
    """Run the uploader until everything is in the bucket and it has ended."""
    state = work / "state"
    process = start(output, state, environment, prefix="uploader/", stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()  # "started": from here on it handles the signal
    process.send_signal(signal.SIGTERM)
    process.stdout.read()
    if process.wait():
        raise SystemExit("the uploader failed")
    shutil.rmtree(state)


def aws_s3_cp(output: Path, environment: dict[str, str]) -> None:
    argv = ["aws", "s3", "cp", "--recursive", "--only-show-errors", str(output), f"s3://{BUCKET}/aws/"]
    subprocess.run(argv, env=environment, check=True)


def check_and_empty(environment: dict[str, str], expected: list[str]) -> None:
    """Check that both clients stored every byte, and empty the bucket."""
    s3 = s3_server.client(environment)
    for prefix in ("uploader/", "aws/"):
        found = s3_server.hashes(s3, BUCKET, prefix)
        for key in found:
            s3.delete_object(Bucket=BUCKET, Key=key)
        if sorted(found.values()) != expected:
            raise SystemExit(
                f"{prefix}: {len(found)} objects differ from the {len(expected)} files: the measurement is invalid"
            )


def measure(load: Load, work: Path, rounds: int) -> dict[str, object]:
    output = work / "output"
    output.mkdir()
    fill(output, load)
    expected = sorted(hashlib.file_digest(file.open("rb"), "sha256").hexdigest() for file in output.iterdir())
    found: dict[str, list[Measured]] = {"uploader": [], "aws s3 cp": []}
    (work / "buckets" / BUCKET).mkdir(parents=True)
    with s3_server.serving(work / "server", work / "buckets") as server:
        environment = {**os.environ, **server, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        for number in range(rounds):
            for tool in list(found)[:: 1 if number % 2 else -1]:
                with measuring(found[tool]):
                    if tool == "uploader":
                        uploader(output, work, environment)
                    else:
                        aws_s3_cp(output, environment)
            check_and_empty(environment, expected)
    seconds = {tool: statistics.median(one.seconds for one in runs) for tool, runs in found.items()}
    ratio = seconds["aws s3 cp"] / seconds["uploader"]
    print(f"\n{load.name}: {load.count:,} x {load.size:,} bytes", file=sys.stderr)
    for tool, median in seconds.items():
        rates = f"{load.count / median:8,.1f} files/s {load.count * load.size / median / 1e6:7,.0f} MB/s"
        cpu = statistics.median(one.cpu for one in found[tool])
        print(f"  {tool:10} {median:7.2f} s {rates}   CPU {cpu:6.2f} s", file=sys.stderr)
    print(f"  {ratio:.2f} times the speed of `aws s3 cp`", file=sys.stderr)
    runs = {tool: [vars(one) for one in measured] for tool, measured in found.items()}
    return {"load": vars(load), "runs": runs, "times_the_speed_of_aws_s3_cp": round(ratio, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", choices=list(LOADS), action="append", help="default: pictures and videos")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to use")
    options = parser.parse_args()
    results = []
    for name in options.load or ["pictures", "videos"]:
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            results.append(measure(LOADS[name], Path(folder), options.rounds))
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    print(json.dumps({"machine": machine, "results": results}, indent=2))


if __name__ == "__main__":
    main()
