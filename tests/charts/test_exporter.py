"""The exporter, with a server that answers like ComfyUI, and files like those of the node and the uploader."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.charts.harness import pod_script

exporter = pod_script("exporter")


class ComfyUI:
    """The jobs of a server, paged and filtered as its API does."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.requests = 0
        jobs = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                jobs.requests += 1
                query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
                wanted = [job for job in jobs.jobs if job["status"] in query["status"].split(",")]
                wanted.sort(key=lambda job: job["create_time"], reverse=True)
                offset, limit = int(query.get("offset", 0)), int(query["limit"])
                page = {"total": len(wanted), "has_more": offset + limit < len(wanted)}
                body = json.dumps({"jobs": wanted[offset : offset + limit], "pagination": page}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def add(self, status: str, seconds: float | None = None) -> None:
        job: dict[str, Any] = {"id": str(len(self.jobs)), "status": status, "create_time": len(self.jobs)}
        if seconds is not None:
            job |= {"execution_start_time": 1_000, "execution_end_time": 1_000 + int(seconds * 1000)}
        self.jobs.append(job)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def comfyui() -> Iterator[ComfyUI]:
    made = ComfyUI()
    yield made
    made.stop()


def samples(text: str) -> dict[str, float]:
    return {
        name: float(value)
        for line in text.splitlines()
        if not line.startswith("#")
        for name, _, value in [line.rpartition(" ")]
    }


def made(comfyui: ComfyUI, folder: Path) -> Any:
    return exporter.Exporter(comfyui.url, folder / "models", folder / "uploader")


def test_pending_and_running_jobs_are_counted(comfyui: ComfyUI, tmp_path: Path) -> None:
    for status in ("pending", "pending", "in_progress"):
        comfyui.add(status)
    found = samples(made(comfyui, tmp_path).text())
    assert found["comfyui_up"] == 1
    assert found['comfyui_jobs{status="pending"}'] == 2
    assert found['comfyui_jobs{status="in_progress"}'] == 1


def test_each_finished_job_counts_once_in_its_time(comfyui: ComfyUI, tmp_path: Path) -> None:
    source = made(comfyui, tmp_path)
    for seconds in (0.5, 5, 5000):
        comfyui.add("completed", seconds)
    comfyui.add("cancelled")
    source.text()
    comfyui.add("failed", 20)
    found = samples(source.text())

    def bucket(status: str, bound: str) -> float:
        return found[f'comfyui_job_seconds_bucket{{status="{status}",le="{bound}"}}']

    assert [bucket("completed", bound) for bound in ("1", "5", "3600", "+Inf")] == [1, 2, 2, 3]
    assert found['comfyui_job_seconds_sum{status="completed"}'] == 5005.5
    assert found['comfyui_job_seconds_count{status="failed"}'] == bucket("failed", "30") == 1
    assert found['comfyui_job_seconds_count{status="cancelled"}'] == 1


def test_many_jobs_are_read_in_pages_and_known_ones_only_once(comfyui: ComfyUI, tmp_path: Path) -> None:
    for _ in range(250):
        comfyui.add("completed", 1)
    source = made(comfyui, tmp_path)
    assert samples(source.text())['comfyui_job_seconds_count{status="completed"}'] == 250
    comfyui.requests = 0
    assert samples(source.text())['comfyui_job_seconds_count{status="completed"}'] == 250
    assert comfyui.requests == 3


def test_jobs_that_the_server_forgets_stay_counted(comfyui: ComfyUI, tmp_path: Path) -> None:
    comfyui.add("completed", 1)
    source = made(comfyui, tmp_path)
    source.text()
    comfyui.jobs.clear()
    assert samples(source.text())['comfyui_job_seconds_count{status="completed"}'] == 1


STATUS = {
    "schema": 1,
    "state": "failed",
    "ready": True,
    "first_ready": False,
    "last_success": "2026-11-21T08:00:00Z",
    "files": 7,
    "missing_files": 3,
    "missing_bytes": 12_345_678_901,
    "left_out_count": 1,
    "left_out_bytes": 5,
    "skipped_count": 2,
}


def test_the_nodes_models_are_reported_even_while_the_server_is_down(comfyui: ComfyUI, tmp_path: Path) -> None:
    source = made(comfyui, tmp_path)
    comfyui.stop()
    status = tmp_path / "models" / ".comfyui-model-sync" / "status.json"
    status.parent.mkdir(parents=True)
    status.write_text(json.dumps(STATUS))
    found = samples(source.text())
    assert found == {
        "comfyui_up": 0,
        "comfyui_models_ready": 1,
        "comfyui_models_first_ready": 0,
        "comfyui_models_sync_failed": 1,
        "comfyui_models_files": 7,
        "comfyui_models_missing_files": 3,
        "comfyui_models_missing_bytes": 12_345_678_901,
        "comfyui_models_left_out_files": 1,
        "comfyui_models_left_out_bytes": 5,
        "comfyui_models_skipped": 2,
        "comfyui_models_synced_timestamp_seconds": 1_795_248_000,
    }


def test_an_unreadable_status_omits_its_metrics(comfyui: ComfyUI, tmp_path: Path) -> None:
    status = tmp_path / "models" / ".comfyui-model-sync" / "status.json"
    status.parent.mkdir(parents=True)
    status.write_text("{")
    found = samples(made(comfyui, tmp_path).text())
    assert found["comfyui_up"] == 1
    assert not [name for name in found if name.startswith("comfyui_models")]


def test_the_uploaders_pending_files_are_reported(comfyui: ComfyUI, tmp_path: Path) -> None:
    (tmp_path / "uploader").mkdir()
    facts = {"waiting": 4, "retrying": 3, "truncated": 2, "failed_attempts": 9, "uploads": 100}
    (tmp_path / "uploader" / "status.json").write_text(json.dumps(facts))
    found = samples(made(comfyui, tmp_path).text())
    assert {name: value for name, value in found.items() if "uploader" in name} == {
        "comfyui_uploader_waiting_files": 4,
        "comfyui_uploader_retrying_files": 3,
        "comfyui_uploader_truncated_files": 2,
        "comfyui_uploader_failed_attempts_total": 9,
        "comfyui_uploader_uploads_total": 100,
    }


def test_every_sample_is_of_a_family_with_type_and_help(comfyui: ComfyUI, tmp_path: Path) -> None:
    comfyui.add("completed", 1)
    text = made(comfyui, tmp_path).text()
    described = re.findall(r"# TYPE (\w+) ", text)
    assert described == re.findall(r"# HELP (\w+) \w", text)
    assert len(described) == len(set(described))
    assert all(any(name.startswith(family) for family in described) for name in samples(text))


def test_it_serves_metrics_and_its_own_health_and_nothing_else(comfyui: ComfyUI, tmp_path: Path) -> None:
    server = exporter.server(made(comfyui, tmp_path), 0)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        at = f"http://127.0.0.1:{server.server_port}"
        with urllib.request.urlopen(f"{at}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert b"comfyui_up 1" in answer.read()
        comfyui.requests = 0
        with urllib.request.urlopen(f"{at}/healthz") as answer:
            assert answer.status == 200
        assert comfyui.requests == 0
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{at}/etc/passwd")
    finally:
        server.shutdown()
        server.server_close()
