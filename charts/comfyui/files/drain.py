"""preStop of the ComfyUI container: holds back SIGTERM until its jobs are done, or DRAIN_SECONDS have gone.

Environment: COMFYUI_URL, DRAIN_SECONDS. Always ends with status 0: a failed hook would end the jobs at once.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException

POLL_SECONDS = 1.0
# Load balancers and kube-proxy learn that the pod goes while this already runs: a prompt may still come.
ROUTING_SECONDS = 5.0


def queue_remaining(url: str) -> int | None:
    """Running and waiting jobs; None when the server does not answer (it may be busy, it may be gone)."""
    try:
        with urllib.request.urlopen(f"{url}/prompt", timeout=10) as answer:  # noqa: S310 - http to this pod
            return int(json.load(answer)["exec_info"]["queue_remaining"])
    except ConnectionRefusedError:
        return 0
    except (OSError, HTTPException, ValueError, KeyError) as error:
        return 0 if isinstance(getattr(error, "reason", None), ConnectionRefusedError) else None


def drain(remaining: Callable[[], int | None], seconds: float, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Was the queue empty before the time was up? It must be so for as long as a late prompt may take to arrive."""
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
