"""A web server with models and every fault of a source, selected by the first part of the path.

/<fault>/<name>     fault: ok, drop, short, no-range, page, moved, gated, missing, elsewhere, changed, wrong, flaky
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath

TOKEN = "hf_secret_of_the_test"
# Reads bytes [start, stop) of a file; a file of 2 GB need not exist to be served.
Content = Callable[[int, int], bytes]


@dataclass
class Web:
    """`files`: name → (size, content). `log`: (path, status, Authorization) of every request."""

    files: dict[str, tuple[int, Content]] = field(default_factory=dict)
    url: str = ""
    log: list[tuple[str, int, str | None]] = field(default_factory=list)
    sent: int = 0
    # "drop": connections break after so many bytes.
    drop_after: int = 20_000
    # Bytes sent at once.
    chunk: int = 8192
    hits: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, data: bytes) -> None:
        self.files[name] = (len(data), lambda start, stop: data[start:stop])

    def hit(self, what: str) -> int:
        """How often this was called before."""
        with self.lock:
            self.hits[what] = self.hits.get(what, 0) + 1
            return self.hits[what] - 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        """Print nothing for clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        fault, _, rest = self.path.partition("?")[0].lstrip("/").partition("/")
        name = PurePosixPath(rest).name
        authorization = self.headers.get("Authorization")
        answer = self._fault(fault, rest, authorization)
        self.web.log.append((self.path, answer or 206, authorization))
        if answer is None:
            self._file(fault, name)

    def _fault(self, fault: str, rest: str, authorization: str | None) -> int | None:
        """Send an answer that is not the file and return its status; None to send the file."""
        if fault == "page":
            return self._text(200, "<!DOCTYPE html><title>Sign in</title>", "text/html; charset=utf-8")
        if fault == "moved":
            return self._redirect(f"/page/{rest}")
        if fault == "gated" and authorization != f"Bearer {TOKEN}":
            return self._text(401, "Access to this model is restricted", "text/plain")
        if fault in ("elsewhere", "gated"):
            # For clients another host, with a signature that is valid for 5 requests.
            port, signature = self.web.url.rpartition(":")[2], f"s3cr3t-{self.web.hit('signatures')}"
            return self._redirect(f"http://localhost:{port}/signed/{rest}?signature={signature}")
        if fault == "signed" and self.web.hit(self.path.partition("?")[2]) >= 5:
            return self._text(403, "Request has expired", "application/xml")
        if fault == "missing":
            return self._text(404, "Entry not found", "text/plain")
        if fault == "flaky" and self.web.hit("flaky") % 10 == 0:
            return self._text(503, "Slow down", "text/plain")
        return None

    def _text(self, status: int, text: str, kind: str) -> int:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return status

    def _redirect(self, target: str) -> int:
        self.send_response(302)
        self.send_header("Location", target)
        if self.path.startswith("/gated") and (name := PurePosixPath(self.path).name) in self.web.files:
            size, content = self.web.files[name]
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content(0, size)).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()
        return 302

    def _file(self, fault: str, name: str) -> None:
        if name not in self.web.files:
            self._text(404, "Not Found", "text/plain")
            return
        size, content = self.web.files[name]
        start, stop, status = 0, size, 200
        wanted = self.headers.get("Range")
        if wanted and fault != "no-range":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(size, int(last) + 1), 206
        version = self.web.hit("changed") // 5 if fault == "changed" else 0
        self.send_response(status)
        self.send_header("ETag", f'"{name}-{version}"')
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self._body(fault, content, start, stop)

    def _body(self, fault: str, content: Content, start: int, stop: int) -> None:
        at = start
        while at < stop:
            end = min(at + self.web.chunk, stop)
            data = content(at, end)
            if fault == "wrong" and at <= 100_000 < end:
                data = data[:-1] + bytes([data[-1] ^ 1])
            breaks = fault == "drop" and at + len(data) - start > self.web.drop_after
            if breaks or (fault == "short" and end == stop and stop > 4096):
                data = data[: len(data) // 2]
            try:
                self.wfile.write(data)
            except OSError:
                self.close_connection = True
                return
            with self.web.lock:
                self.web.sent += len(data)
            if len(data) < end - at:
                self.close_connection = True
                return
            at = end


@contextmanager
def serving_models() -> Iterator[Web]:
    web = Web()
    handler = type("Handler", (_Handler,), {"web": web})
    server = _Server(("127.0.0.1", 0), handler)
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
