"""Waits until the node holds the models that must be there, and tells how far it is. The pod's first init container.

The node's model-sync service writes its state beside the models. `ready` means that one whole run has succeeded,
`first_ready` that its FIRST_SET is there. With MODEL_KEYS only those must be there: the service gives a model its name
once it is whole. What the node's disk has no room for never comes, so it is named with the way out.
There is no time limit: a pod that started without models would refuse every workflow that names one.

Environment: MODELS_DIR; MODELS_GATE: all, first or keys; MODEL_KEYS, a JSON list of <folder>/<path>, for keys.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

POLL_SECONDS = 2.0
# Progress is said this often; that it still waits, even when nothing changes.
PROGRESS_SECONDS = 10.0
REPEAT_SECONDS = 60.0
NAMED = 5
STATUS = ".comfyui-model-sync/status.json"
SCHEMA = 1
# What can be done about models that the disk has no room for.
MORE_ROOM = (
    "take a larger instance type; or give the pool PREFIXES, so that it takes fewer models; "
    "or serve them all with models.source efs or mountpoint"
)

Status = dict[str, Any]


def read_status(models: Path) -> Status | None:
    """The service's last word, None before its first one.

    Raises:
        SystemExit: the service is newer than this script.
    """
    try:
        status = json.loads((models / STATUS).read_text())
    except FileNotFoundError:
        return None
    if status["schema"] != SCHEMA:
        raise SystemExit(f"{STATUS} has schema {status['schema']}, this chart knows {SCHEMA}: upgrade the chart")
    return dict(status)


class Pace:
    """How fast bytes arrive, from what was missing at the first look and is missing now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def left(self, status: Status, missing: float) -> str:
        """How long `missing` bytes will take, as words to put behind them; empty before anything has arrived."""
        now, total = self._clock(), status["missing_bytes"]
        if self._first is None or total > self._first[1]:
            self._first = now, total
        began, at_first = self._first
        arrived, seconds = at_first - total, now - began
        return f", about {_duration(missing / arrived * seconds)} left" if arrived > 0 and seconds > 0 else ""


def describe(status: Status | None, gate: str, pace: Pace) -> str:
    """One line on what is missing, how long it will take, and what will never come."""
    if status is None:
        return "waiting for the model-sync service of this node to begin"
    parts = [status["state"].replace("_", " ")]
    if gate == "first" and status["first_missing_files"]:
        missing = status["first_missing_bytes"]
        parts.append(f"first set: {_files(status['first_missing_files'], missing)}{pace.left(status, missing)}")
    if status["missing_files"]:
        missing = status["missing_bytes"]
        parts.append(f"{_files(status['missing_files'], missing)}{pace.left(status, missing)}")
    if status["left_out_count"]:
        named = _listed([item["key"] for item in status["left_out"]], status["left_out_count"])
        size = _size(status["left_out_bytes"])
        parts.append(f"no room on the disk for {status['left_out_count']} models ({size}): {named}; {MORE_ROOM}")
    if status["skipped_count"]:
        reasons = [f"{item['key']} ({item['reason']})" for item in status["skipped"]]
        parts.append(f"{status['skipped_count']} keys are no models: {_listed(reasons, status['skipped_count'])}")
    if status["error"]:
        parts.append(f"error: {status['error']}")
    return "; ".join(parts)


def describe_keys(missing: Sequence[str], status: Status | None) -> str:
    """Which of the wanted models are not there, and which of them this node will never have."""
    lost = [item["key"] for item in (status or {}).get("left_out", []) if item["key"] in missing]
    never = f"; never on this node, whose disk has no room: {_listed(lost, len(lost))}" if lost else ""
    return f"{len(missing)} wanted models missing: {_listed(missing, len(missing))}{never}"


def _files(count: int, size: float) -> str:
    return f"{count} files missing ({_size(size)})"


def _listed(names: Sequence[str], count: int) -> str:
    more = count - len(names[:NAMED])
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def opened(status: Status | None, gate: str, missing: Sequence[str]) -> bool:
    """Is everything there that the gate waits for?"""
    if gate == "keys":
        return not missing
    return bool(status and status["first_ready" if gate == "first" else "ready"])


def wait(
    models: Path,
    gate: str,
    keys: Sequence[str] = (),
    say: Callable[[str], None] = print,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Return once the gate is open; meanwhile say what is missing."""
    pace = Pace(clock)
    said, said_state, said_at = "", "", 0.0
    while True:
        status = read_status(models)
        missing = [key for key in keys if not (models / key).is_file()]
        parts = [describe_keys(missing, status)] if missing else []
        # Other sources than the node's disk have no service that would say anything.
        if status or gate != "keys":
            parts.append(describe(status, gate, pace))
        if opened(status, gate, missing):
            held = f": {status['files']} files, {_size(status['bytes'])}" if status else ""
            say("; ".join([f"models ready{held}", *parts]))
            return
        line = "; ".join(parts)
        state = f"{len(missing)} {status and (status['state'], status['error'], status['left_out_count'])}"
        quiet = clock() - said_at
        if state != said_state or (line != said and quiet >= PROGRESS_SECONDS) or quiet >= REPEAT_SECONDS:
            say(line)
            said, said_state, said_at = line, state, clock()
        sleep(POLL_SECONDS)


def main() -> None:
    try:
        models, gate = Path(os.environ["MODELS_DIR"]), os.environ["MODELS_GATE"]
    except KeyError as error:
        sys.exit(f"wait_for_models: the variable {error.args[0]} is not set")
    wait(models, gate, json.loads(os.environ.get("MODEL_KEYS", "[]")))


if __name__ == "__main__":
    main()
