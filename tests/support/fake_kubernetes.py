"""An API server that serves the objects of a test over HTTP, without any behaviour of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

Objects = dict[str, list[dict[str, Any]]]


@contextmanager
def fake_kubernetes(
    objects: Objects, kubeconfig: Path, cluster: str = "comfyui", patches: list[tuple[str, Any]] | None = None
) -> Iterator[str]:
    """Serve lists by their path; `kubeconfig` gets a context for the server. Yields the context's name.

    Every other path is 404, like a kind that the cluster does not have. A list may change while it is served.
    `patches` receives the path and body of every merge patch; the objects do not change.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/version":
                self._answer(200, {"major": "1", "minor": "36"})
            elif path in objects:
                self._answer(200, {"items": objects[path]})
            elif (found := self._named(path)) is not None:
                self._answer(200, found)
            else:
                self._answer(404, {"message": "not found"})

        def do_PATCH(self) -> None:
            assert self.headers["Content-Type"] == "application/merge-patch+json"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if patches is not None:
                patches.append((self.path, body))
            self._answer(200, {})

        def _named(self, path: str) -> dict[str, Any] | None:
            folder, _, name = path.rpartition("/")
            return next((o for o in objects.get(folder, []) if o["metadata"]["name"] == name), None)

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": cluster, "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "me", "user": {}}],
                "contexts": [{"name": "here", "context": {"cluster": cluster, "user": "me"}}],
                "current-context": "here",
            }
        )
    )
    try:
        yield "here"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "comfyui-0", "namespace": "comfyui"}, "status": status}


def unscheduled(message: str) -> dict[str, Any]:
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod(phase="Pending", conditions=[scheduled])
