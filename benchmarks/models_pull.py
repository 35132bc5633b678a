#!/usr/bin/env python
"""`comfyeks models pull` at full size: correctness under faults, speed beside `curl | aws s3 cp`, memory.

    .venv/bin/python benchmarks/models_pull.py            3 files of 2 GB through faulty connections; a few minutes
    .venv/bin/python benchmarks/models_pull.py --size 256 the same with 256 MB

Source, S3 and clients share this machine's cores, and the servers are Python: only the ratios within one run are
meaningful, and on a busy machine only that of the CPU time, which includes the start of the programs.
`peak` is the largest resident memory of the process. Prints JSON to stdout and its progress to stderr.
"""

from __future__ import annotations

import argparse
import hashlib
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.models.web import serving_models  # noqa: E402 - the tests' servers are found by the line above
from tests.support import s3_disk  # noqa: E402

BUCKET = "models"
HEADER_BYTES = 4096
# Fault → text in the refusal; None if the file must arrive.
FAULTS = {
    "drop": None,
    "elsewhere": None,
    "flaky": None,
    "page": "answers with a web page",
    "moved": "answers with a web page",
    "missing": "answers 404",
    "gated": "answers 401: it wants a token",
    "wrong": "its sha256 is",
    "short": "gave up after",
}
BLOCK = 64 << 20


class Weights:
    """The content of a safetensors file of `size` bytes, generated on demand: the same block, numbered."""

    def __init__(self, size: int) -> None:
        self.size = size
        data = size - 8 - HEADER_BYTES
        header = json.dumps({"weight": {"dtype": "U8", "shape": [data], "data_offsets": [0, data]}})
        self._head = HEADER_BYTES.to_bytes(8, "little") + header.ljust(HEADER_BYTES).encode()
        self._block = os.urandom(BLOCK)

    def __call__(self, start: int, stop: int) -> bytes:
        found = bytearray(self._head[start:stop])
        at = start + len(found)
        while at < stop:
            inside = at % BLOCK
            end = min(stop, at - inside + BLOCK)
            found += self._block[inside : inside + end - at]
            at = end
        return bytes(found)

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for start in range(0, self.size, BLOCK):
            digest.update(self(start, min(start + BLOCK, self.size)))
        return digest.hexdigest()


def _source(sizes: dict[str, int], pipe: Connection) -> None:
    with serving_models() as web:
        web.drop_after, web.chunk = 5 << 20, 1 << 20
        hashes = {}
        for name, size in sizes.items():
            weights = Weights(size)
            web.files[name] = (size, weights)
            hashes[name] = weights.sha256()
        pipe.send((web.url, hashes))
        pipe.recv()


def _s3(root: Path, pipe: Connection) -> None:
    server = s3_disk.server(root)
    pipe.send(f"http://127.0.0.1:{server.server_address[1]}")
    server.serve_forever()


@contextmanager
def running(target: object, *arguments: object) -> Iterator[object]:
    """Run a server in its own process; yields the first object that it sends."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=target, args=(*arguments, theirs), daemon=True)  # type: ignore[arg-type]
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join(10)


@dataclass
class Measured:
    code: int
    seconds: float
    cpu_seconds: float  # with its children's
    peak_mb: float
    output: str


def measure(argv: list[str], env: dict[str, str]) -> Measured:
    """Run a command; its exit code, times and the peak of its process."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        process = subprocess.Popen(argv, env=env, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        output.seek(0)
        cpu = usage.ru_utime + usage.ru_stime
        return Measured(os.waitstatus_to_exitcode(status), seconds, cpu, usage.ru_maxrss / 1024, output.read().strip())


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--size", type=int, default=2000, help="MB of each file")
    options.add_argument("--rounds", type=int, default=3, help="of the comparison")
    options.add_argument("--work", type=Path, help="where the S3 server keeps its objects")
    chosen = options.parse_args()
    size = chosen.size * 1000 * 1000
    names = {"big.safetensors": size, "small.safetensors": min(size // 8, 256 << 20)}
    work = Path(tempfile.mkdtemp(prefix="models-pull-", dir=chosen.work))
    try:
        with running(_source, names) as (url, hashes), running(_s3, work) as s3:  # type: ignore[misc]
            report = compare(str(url), dict(hashes), str(s3), work, names, chosen.rounds)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(report, indent=2))
    if report["wrong"]:
        sys.exit(1)


def stored_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def compare(
    url: str, hashes: dict[str, str], s3: str, work: Path, sizes: dict[str, int], rounds: int
) -> dict[str, object]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    env |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-west-2"}
    env |= {
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_ENDPOINT_URL": s3,
        "PATH": f"{Path(sys.executable).parent}:{env['PATH']}",
    }
    name, wrong, faults = "big.safetensors", [], {}
    key = work / BUCKET / "checkpoints" / name

    def pull(fault: str, name: str = name) -> Measured:
        arguments = [
            f"{url}/{fault}/{name}",
            "--to",
            "checkpoints",
            "--sha256",
            hashes[name],
            "--bucket",
            BUCKET,
            "--force",
        ]
        return measure([sys.executable, "-m", "comfyeks", "models", "pull", *arguments], env)

    def remaining_files() -> list[str]:
        return [str(path.relative_to(work)) for path in work.rglob("*") if path.is_file() and path.suffix != ".key"]

    for fault, refusal in FAULTS.items():
        found = pull(fault)
        if refusal is None:
            right = found.code == 0 and stored_sha256(key) == hashes[name]
            key.unlink(missing_ok=True)
        else:
            right = found.code == 1 and refusal in found.output and not key.exists()
            # After connections that end early the good parts are kept, so that a later attempt can resume.
            right = right and (fault == "short" or remaining_files() == [])
            shutil.rmtree(work / ".uploads", ignore_errors=True)
        faults[fault] = {"as it should be": right, "seconds": round(found.seconds, 1), "peak_mb": round(found.peak_mb)}
        last_line = found.output.splitlines()[-1] if found.output else ""
        print(
            f"{fault:10} {'ok' if right else 'WRONG'}  {found.seconds:6.1f} s  {found.peak_mb:5.0f} MB  {last_line}",
            file=sys.stderr,
        )
        if not right:
            wrong.append(fault)

    small = pull("ok", "small.safetensors")
    runs: dict[str, list[Measured]] = {"pull": [], "curl | aws s3 cp": []}
    peak = 0.0
    for _ in range(rounds):
        ours = pull("ok")
        peak = max(peak, ours.peak_mb)
        pipe = f"curl -sfL {url}/ok/{name} | aws s3 cp --quiet - s3://{BUCKET}/checkpoints/{name}"
        theirs = measure(["bash", "-o", "pipefail", "-c", pipe], env)
        for tool, run in (("pull", ours), ("curl | aws s3 cp", theirs)):
            print(f"{tool:18} {run.seconds:6.1f} s  CPU {run.cpu_seconds:5.1f} s", run.output, file=sys.stderr)
            if run.code:
                wrong.append(tool)
            runs[tool].append(run)
    median = {tool: statistics.median(run.seconds for run in some) for tool, some in runs.items()}
    cpu = {tool: statistics.median(run.cpu_seconds for run in some) for tool, some in runs.items()}
    return {
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "file_mb": round(sizes[name] / 1e6),
        "faults": faults,
        "wrong": wrong,
        "seconds": {tool: round(seconds, 1) for tool, seconds in median.items()},
        "throughput_ratio_to_curl_aws": round(median["curl | aws s3 cp"] / median["pull"], 2),
        "cpu_seconds": {tool: round(seconds, 1) for tool, seconds in cpu.items()},
        "cpu_ratio_to_curl_aws": round(cpu["curl | aws s3 cp"] / cpu["pull"], 2),
        "peak_mb": {
            f"{round(sizes['small.safetensors'] / 1e6)} MB file": round(small.peak_mb),
            f"{round(sizes[name] / 1e6)} MB file": round(peak),
        },
    }


if __name__ == "__main__":
    main()
