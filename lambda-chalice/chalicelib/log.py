"""One JSON object a line on stdout, which Lambda hands to CloudWatch Logs."""

from __future__ import annotations

import json
from typing import Any, Literal


def write(level: Literal["INFO", "WARNING", "ERROR"], event: str, **fields: Any) -> None:
    # ASCII only: a key from a bucket must not talk to the terminal of whoever reads the log.
    print(json.dumps({"level": level, "event": event, **fields}), flush=True)
