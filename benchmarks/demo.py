#!/usr/bin/env python
"""How long `comfyeks demo` takes, step by step, and whether it passes every time.

    .venv/bin/python benchmarks/demo.py                 ten runs with the local cluster (half an hour)
    .venv/bin/python benchmarks/demo.py --runs 3 --no-cluster

The runs are sequential, in this checkout, whose local AWS must be down. A failed run is counted, the end of its output
is shown, and the next one begins. Prints JSON to stdout; one line for each run and the table to stderr. Exits with 1
unless every run passed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMELINE = ROOT / ".comfyeks" / "demo" / "timeline.json"


@dataclass
class Run:
    """`steps` are seconds by title; `end` is the end of the output of a failed run."""

    passed: bool
    seconds: float
    peak_memory_mib: int
    load: float
    steps: dict[str, float] = field(default_factory=dict)
    end: str = ""


def run(form: str) -> Run:
    TIMELINE.unlink(missing_ok=True)
    begun, load = time.monotonic(), os.getloadavg()[0]
    argv = [sys.executable, "-m", "comfyeks", "demo", form]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    passed, seconds = done.returncode == 0, time.monotonic() - begun
    if not TIMELINE.exists():
        return Run(False, seconds, 0, load, end=done.stderr[-3000:])
    timeline = json.loads(TIMELINE.read_text())
    steps = {step["title"]: step["end"] - step["begin"] for step in timeline["steps"] if not step["failed"]}
    peak = round(timeline["peak_memory_bytes"] / 2**20)
    return Run(passed, seconds, peak, load, steps, "" if passed else done.stderr[-3000:])


def table(runs: list[Run]) -> str:
    """Minimum, median and maximum seconds of the runs that passed."""
    good = [run for run in runs if run.passed]
    if not good:
        return "none passed"
    lines = [f"{'min':>7} {'median':>7} {'max':>7}  seconds of"]
    columns = {title: [run.steps[title] for run in good] for title in good[0].steps}
    for title, seconds in {**columns, "the whole command": [run.seconds for run in good]}.items():
        lines.append(f"{min(seconds):7.1f} {statistics.median(seconds):7.1f} {max(seconds):7.1f}  {title}")
    return "\n".join([*lines, f"peak memory of all processes: {max(run.peak_memory_mib for run in good)} MiB"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--no-cluster", dest="form", action="store_const", const="--no-cluster", default="--cluster")
    options = parser.parse_args()
    runs: list[Run] = []
    for number in range(1, options.runs + 1):
        runs.append(run(options.form))
        last = runs[-1]
        result = "passed" if last.passed else f"FAILED\n{last.end}"
        note(
            f"{number} of {options.runs}: {last.seconds:.0f} s, {last.peak_memory_mib} MiB, "
            f"load before {last.load:.0f}, {result}"
        )
    passed = sum(run.passed for run in runs)
    note(f"\n{passed} of {len(runs)} passed\n{table(runs)}")
    print(json.dumps([asdict(run) for run in runs], indent=2))
    sys.exit(0 if passed == len(runs) else 1)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
