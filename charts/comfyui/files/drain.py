"""preStop hook of the ComfyUI container: delays SIGTERM until its jobs are done, or DRAIN_SECONDS have passed.

Environment: COMFYUI_URL, DRAIN_SECONDS. Always exits with 0: after a failed hook the jobs would be killed at once.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException

POLL_SECONDS = 1.0
# This runs before load balancers and kube-proxy have removed the pod: a prompt may still arrive.
ROUTING_SECONDS = 5.0


def queue_remaining(url: str) -> int | None:
    """Number of running and pending jobs; None when the server does not respond (it may be busy, or gone)."""
    try:
        with urllib.request.urlopen(f"{url}/prompt", timeout=10) as answer:  # noqa: S310 - http to this pod
            return int(json.load(answer)["exec_info"]["queue_remaining"])
    except ConnectionRefusedError:
        return 0
    except (OSError, HTTPException, ValueError, KeyError) as error:
        return 0 if isinstance(getattr(error, "reason", None), ConnectionRefusedError) else None


def drain(remaining: Callable[[], int | None], seconds: float, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Waits for an empty queue; False on timeout. It must stay empty for as long as a late prompt may take."""
    began = time.monotonic()
    idle_since: float | None = None
    while (now := time.monotonic()) - began < seconds:
        if remaining() == 0:
            idle_since = now if idle_since is None else idle_since
            if now - idle_since >= ROUTING_SECONDS:
                return True
        else:
            idle_since = None
        sleep(min(POLL_SECONDS, seconds))
    return False


if __name__ == "__main__":
    url = os.environ["COMFYUI_URL"]
    drain(lambda: queue_remaining(url), float(os.environ["DRAIN_SECONDS"]))
