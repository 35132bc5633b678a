"""Waits until the node holds the models, and tells how far it is. The pod's first init container.

The node's model-sync service writes its state beside the models. `ready` means that one whole run has succeeded.
With MODEL_KEYS only these must be there: the service gives a model its name once it is whole.
There is no time limit: a pod that started without models would refuse every workflow that names one.

Environment: MODELS_DIR; MODEL_KEYS, a JSON list of <folder>/<path>, optional.
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
# Says that it still waits, even when nothing changes.
REPEAT_SECONDS = 60.0
STATUS = ".comfyui-model-sync/status.json"
SCHEMA = 1


def read_status(models: Path) -> dict[str, Any] | None:
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


def describe(status: dict[str, Any] | None) -> str:
    """One line on what there is and what is missing."""
    if status is None:
        return "waiting for the model-sync service of this node to begin"
    parts = [f"{status['state'].replace('_', ' ')}"]
    if status.get("missing_files"):
        parts.append(f"{status['missing_files']} files missing ({_size(status['missing_bytes'])})")
    if status.get("skipped_count"):
        named = ", ".join(f"{item['key']} ({item['reason']})" for item in status.get("skipped", [])[:5])
        parts.append(f"{status['skipped_count']} keys left out: {named}")
    if status.get("error"):
        parts.append(f"error: {status['error']}")
    return "; ".join(parts)


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def describe_keys(missing: Sequence[str]) -> str:
    """One line on which of the wanted models are not there."""
    return (
        f"{len(missing)} wanted models missing: {', '.join(missing[:5])}" if missing else "all wanted models are there"
    )


def wait(
    models: Path,
    say: Callable[[str], None] = print,
    sleep: Callable[[float], None] = time.sleep,
    keys: Sequence[str] | None = None,
) -> None:
    """Return once the node is ready, or with keys once these are there; say what is missing whenever that changes."""
    said, said_at = "", 0.0
    while True:
        status = read_status(models)
        line = describe(status)
        if keys is None:
            if status and status["ready"]:
                say(f"models ready: {status['files']} files, {_size(status['bytes'])}; {line}")
                return
        else:
            missing = [key for key in keys if not (models / key).is_file()]
            if not missing:
                say(describe_keys(missing))
                return
            # Other sources than the node's disk have no service that would say anything.
            line = f"{describe_keys(missing)}; {line}" if status else describe_keys(missing)
        if line != said or time.monotonic() - said_at >= REPEAT_SECONDS:
            say(line)
            said, said_at = line, time.monotonic()
        sleep(POLL_SECONDS)


if __name__ == "__main__":
    if "MODELS_DIR" not in os.environ:
        sys.exit("wait_for_models: the variable MODELS_DIR is not set")
    wanted = os.environ.get("MODEL_KEYS")
    wait(Path(os.environ["MODELS_DIR"]), keys=json.loads(wanted) if wanted else None)
