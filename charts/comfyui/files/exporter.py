"""Prometheus metrics of one pod: ComfyUI's jobs, the models of its node, the files of the uploader.

All values are read when Prometheus scrapes. The metrics of a source that does not respond are left out, because an
unknown value is not zero; comfyui_up shows whether the server responds.

Environment: COMFYUI_URL, MODELS_DIR, UPLOADER_STATE (optional), METRICS_PORT.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import datetime
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BUCKETS = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600)
PAGE = 100
# ComfyUI keeps at most this many jobs in its history, so more need not be kept here.
MAX_JOBS = 20_000
FINISHED = ("completed", "failed", "cancelled")
MODELS_STATUS = ".comfyui-model-sync/status.json"
# A proxy in the environment is for custom nodes, not for the address of this pod.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Sample = tuple[str, Mapping[str, str], float]


class Jobs:
    """Counts each finished job once, although the server returns it as long as it is in its history."""

    def __init__(self, url: str):
        self._url = url
        self._seen: dict[str, None] = {}
        self._counts = {status: [0] * (len(BUCKETS) + 1) for status in FINISHED}
        self._seconds = dict.fromkeys(FINISHED, 0.0)

    def samples(self) -> list[Sample]:
        """Raises OSError, HTTPException, ValueError or KeyError when the server does not respond as expected."""
        found: list[Sample] = [
            ("comfyui_jobs", {"status": status}, self._get(f"status={status}&limit=1")["pagination"]["total"])
            for status in ("pending", "in_progress")
        ]
        self._count()
        for status, counts in self._counts.items():
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                found.append(("comfyui_job_seconds_bucket", {"status": status, "le": bound}, count))
            found.append(("comfyui_job_seconds_count", {"status": status}, counts[-1]))
            found.append(("comfyui_job_seconds_sum", {"status": status}, self._seconds[status]))
        return found

    def _get(self, query: str) -> Any:
        with _OPENER.open(f"{self._url}/api/jobs?{query}", timeout=10) as answer:
            return json.load(answer)

    def _count(self) -> None:
        """Newest first, until a page has only jobs that are counted already."""
        for page in range(MAX_JOBS // PAGE):
            query = f"status={','.join(FINISHED)}&sort_by=created_at&sort_order=desc&limit={PAGE}&offset={page * PAGE}"
            answer = self._get(query)
            fresh = [job for job in answer["jobs"] if job["id"] not in self._seen]
            for job in fresh:
                self._add(job)
            if not fresh or not answer["pagination"]["has_more"]:
                break
        while len(self._seen) > MAX_JOBS:
            del self._seen[next(iter(self._seen))]

    def _add(self, job: Mapping[str, Any]) -> None:
        self._seen[job["id"]] = None
        # In milliseconds; a job that was cancelled before it started has none.
        began, ended = job.get("execution_start_time"), job.get("execution_end_time")
        seconds = max(0.0, (ended - began) / 1000) if began and ended else 0.0
        self._seconds[job["status"]] += seconds
        counts = self._counts[job["status"]]
        for place, bound in enumerate((*BUCKETS, float("inf"))):
            counts[place] += seconds <= bound


def models_samples(models: Path) -> list[Sample]:
    """The status of the node's model-sync service; nothing where there is none."""
    try:
        status = json.loads((models / MODELS_STATUS).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return []
    found: list[Sample] = [
        ("comfyui_models_ready", {}, float(status["ready"])),
        ("comfyui_models_first_ready", {}, float(status["first_ready"])),
        ("comfyui_models_sync_failed", {}, float(status["state"] == "failed")),
        ("comfyui_models_files", {}, status["files"]),
        ("comfyui_models_missing_files", {}, status["missing_files"]),
        ("comfyui_models_missing_bytes", {}, status["missing_bytes"]),
        ("comfyui_models_left_out_files", {}, status["left_out_count"]),
        ("comfyui_models_left_out_bytes", {}, status["left_out_bytes"]),
        ("comfyui_models_skipped", {}, status["skipped_count"]),
    ]
    if status["last_success"]:
        synced = datetime.fromisoformat(status["last_success"]).timestamp()
        found.append(("comfyui_models_synced_timestamp_seconds", {}, synced))
    return found


def uploader_samples(state: Path) -> list[Sample]:
    """The status that the uploader has written."""
    try:
        status = json.loads((state / "status.json").read_text())
    except FileNotFoundError:
        return []
    return [
        ("comfyui_uploader_waiting_files", {}, status["waiting"]),
        ("comfyui_uploader_retrying_files", {}, status["retrying"]),
        ("comfyui_uploader_truncated_files", {}, status["truncated"]),
        ("comfyui_uploader_failed_attempts_total", {}, status["failed_attempts"]),
        ("comfyui_uploader_uploads_total", {}, status["uploads"]),
    ]


HELP = {
    "comfyui_up": ("gauge", "1 if ComfyUI responds."),
    "comfyui_jobs": ("gauge", "Pending and running jobs."),
    "comfyui_job_seconds": ("histogram", "Execution time of finished jobs."),
    "comfyui_models_ready": ("gauge", "1 once a complete sync of this node has succeeded."),
    "comfyui_models_first_ready": ("gauge", "1 while the first set is on this node."),
    "comfyui_models_sync_failed": ("gauge", "1 if the last sync of this node failed."),
    "comfyui_models_files": ("gauge", "Models on this node."),
    "comfyui_models_missing_files": ("gauge", "Models that are not on this node yet."),
    "comfyui_models_missing_bytes": ("gauge", "Size of the models that are not on this node yet."),
    "comfyui_models_left_out_files": ("gauge", "Models left out because they do not fit on this node's disk."),
    "comfyui_models_left_out_bytes": ("gauge", "Size of the models that do not fit on this node's disk."),
    "comfyui_models_skipped": ("gauge", "Keys of the bucket that cannot be models."),
    "comfyui_models_synced_timestamp_seconds": ("gauge", "When this node's models last equalled the bucket."),
    "comfyui_uploader_waiting_files": ("gauge", "Results that are not uploaded yet."),
    "comfyui_uploader_retrying_files": ("gauge", "Results whose upload failed and will be retried."),
    "comfyui_uploader_truncated_files": ("gauge", "Truncated files, which are not uploaded."),
    "comfyui_uploader_failed_attempts_total": ("counter", "Failed attempts to upload a result."),
    "comfyui_uploader_uploads_total": ("counter", "Uploaded results."),
}


class Exporter:
    """All samples of a pod."""

    def __init__(self, url: str, models: Path, uploader: Path | None):
        self._jobs = Jobs(url)
        self._models = models
        self._uploader = uploader
        self._lock = threading.Lock()

    def text(self) -> str:
        """The samples in the text format of Prometheus, version 0.0.4."""
        with self._lock:
            return "".join(f"{line}\n" for line in _lines(list(self._samples())))

    def _samples(self) -> Iterator[Sample]:
        try:
            jobs = self._jobs.samples()
        except (OSError, HTTPException, ValueError, KeyError) as error:
            print(f"ComfyUI does not respond: {error}", file=sys.stderr)
            yield "comfyui_up", {}, 0
        else:
            yield "comfyui_up", {}, 1
            yield from jobs
        for source, folder in ((models_samples, self._models), (uploader_samples, self._uploader)):
            try:
                yield from source(folder) if folder else ()
            except (OSError, ValueError, KeyError) as error:
                print(f"{folder} cannot be read: {error!r}", file=sys.stderr)


def _lines(samples: list[Sample]) -> Iterator[str]:
    for family, (kind, text) in HELP.items():
        own = [sample for sample in samples if _family(sample[0]) == family]
        if own:
            yield f"# HELP {family} {text}"
            yield f"# TYPE {family} {kind}"
        for name, labels, value in own:
            shown = ",".join(f'{label}="{text}"' for label, text in labels.items())
            yield f"{name}{'{' + shown + '}' if shown else ''} {value:.15g}"


def _family(name: str) -> str:
    for suffix in ("_bucket", "_count", "_sum"):
        if name.removesuffix(suffix) in HELP:
            return name.removesuffix(suffix)
    return name


def server(exporter: Exporter, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in ("/metrics", "/healthz"):
                self.send_error(404)
                return
            body = exporter.text().encode() if self.path == "/metrics" else b"ok\n"
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class says so
            """No line for each scrape: they would hide everything else."""

    return ThreadingHTTPServer(("", port), Handler)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    state = os.environ.get("UPLOADER_STATE")
    exporter = Exporter(os.environ["COMFYUI_URL"], Path(os.environ["MODELS_DIR"]), Path(state) if state else None)
    server(exporter, int(os.environ["METRICS_PORT"])).serve_forever()
