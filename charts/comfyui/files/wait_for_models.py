"""Waits until the node has the required models, and logs the progress. An init container of the pod.

The node's model-sync service writes its status into the models folder. `ready` means that a complete run has succeeded,
`first_ready` that its first set is on the disk. With MODEL_KEYS this waits for those files only: a model has its name
once it is complete. Models that do not fit on the node's disk will never arrive, so they are named together with what
to do. There is no timeout: a pod that starts without models would refuse every workflow that uses one.

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
# Changed progress is logged this often, and unchanged progress at least every REPEAT_SECONDS.
PROGRESS_SECONDS = 10.0
REPEAT_SECONDS = 60.0
NAMED = 5
STATUS = ".comfyui-model-sync/status.json"
SCHEMA = 1
# What to do about models that do not fit on the disk.
MORE_ROOM = (
    "use a larger instance type; or set modelSync.settings.prefixes in the pool's node class, so that it needs fewer "
    "models; or set models.source to efs or mountpoint"
)

Status = dict[str, Any]


def read_status(models: Path) -> Status | None:
    """The last status of the service; None before its first one.

    Raises:
        SystemExit: the service is newer than this script.
    """
    try:
        status = json.loads((models / STATUS).read_text())
    except FileNotFoundError:
        return None
    if status["schema"] != SCHEMA:
        raise SystemExit(f"{STATUS} has schema {status['schema']}, this chart supports {SCHEMA}: upgrade the chart")
    return dict(status)


class Pace:
    """The speed of the sync, from the bytes that were missing first and are missing now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._first: tuple[float, float] | None = None

    def left(self, status: Status, missing: float) -> str:
        """The estimated time for `missing` bytes, as text to append; empty before anything has arrived."""
        now, total = self._clock(), status["missing_bytes"]
        if self._first is None or total > self._first[1]:
            self._first = now, total
        began, at_first = self._first
        arrived, seconds = at_first - total, now - began
        return f", about {_duration(missing / arrived * seconds)} left" if arrived > 0 and seconds > 0 else ""


def describe(status: Status | None, gate: str, pace: Pace) -> str:
    """One line: what is missing, how long it will take, and what will never arrive."""
    if status is None:
        return "waiting for the model-sync service of this node to start"
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
        parts.append(f"{status['skipped_count']} keys are not models: {_listed(reasons, status['skipped_count'])}")
    if status["error"]:
        parts.append(f"error: {status['error']}")
    return "; ".join(parts)


def describe_keys(missing: Sequence[str], status: Status | None) -> str:
    """Which of the required models are missing, and which of them will never be on this node."""
    lost = [item["key"] for item in (status or {}).get("left_out", []) if item["key"] in missing]
    never = f"; will not arrive, because the disk of this node has no room: {_listed(lost, len(lost))}" if lost else ""
    return f"{len(missing)} required models missing: {_listed(missing, len(missing))}{never}"


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


def is_ready(status: Status | None, gate: str, missing: Sequence[str]) -> bool:
    """Whether the node has all models that the pod waits for."""
    if gate == "keys":
        return not missing
    return bool(status and status["first_ready" if gate == "first" else "ready"])


def wait(
    models: Path,
    gate: str,
    keys: Sequence[str] = (),
    log: Callable[[str], None] = print,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Returns once the node has the models; logs what is missing."""
    pace = Pace(clock)
    logged, logged_state, logged_at = "", "", 0.0
    while True:
        status = read_status(models)
        missing = [key for key in keys if not (models / key).is_file()]
        parts = [describe_keys(missing, status)] if missing else []
        # Sources other than the node's disk have no service that would write a status.
        if status or gate != "keys":
            parts.append(describe(status, gate, pace))
        if is_ready(status, gate, missing):
            total = f": {status['files']} files, {_size(status['bytes'])}" if status else ""
            log("; ".join([f"models ready{total}", *parts]))
            return
        line = "; ".join(parts)
        state = f"{len(missing)} {status and (status['state'], status['error'], status['left_out_count'])}"
        quiet = clock() - logged_at
        if state != logged_state or (line != logged and quiet >= PROGRESS_SECONDS) or quiet >= REPEAT_SECONDS:
            log(line)
            logged, logged_state, logged_at = line, state, clock()
        sleep(POLL_SECONDS)


def main() -> None:
    try:
        models, gate = Path(os.environ["MODELS_DIR"]), os.environ["MODELS_GATE"]
    except KeyError as error:
        sys.exit(f"wait_for_models: the environment variable {error.args[0]} is not set")
    wait(models, gate, json.loads(os.environ.get("MODEL_KEYS", "[]")))


if __name__ == "__main__":
    main()
