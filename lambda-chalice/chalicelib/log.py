"""Logs one JSON object per line on stdout, which Lambda sends to CloudWatch Logs."""

from __future__ import annotations

import json
from typing import Any, Literal


def write(level: Literal["INFO", "WARNING", "ERROR"], event: str, **fields: Any) -> None:
    # ASCII only: a key must not send control sequences to the terminal of a person who reads the log.
    print(json.dumps({"level": level, "event": event, **fields}), flush=True)
