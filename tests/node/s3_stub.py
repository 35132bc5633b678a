"""A small S3 server in this process, for the node program's tests: exact keys, fast reads, faults on demand.

It knows ListObjectsV2, HEAD and GET with ranges, path style, and checks no signature. Objects live in memory or, when
they are big, in a file that is sent with sendfile.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.sax.saxutils import escape

BUCKET = "models"
PAGE = 1000


@dataclass
class Object:
    """One stored object; `body` is its bytes or a file that holds them."""

    body: bytes | Path
    etag: str
    modified: datetime
    storage_class: str = "STANDARD"

    @property
    def size(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.stat().st_size


@dataclass
class Fault:
    """What to do instead of the right answer: a status, a pause before it, or fewer bytes than promised."""

    status: int | None = None
    delay: float = 0.0
    truncate_to: int | None = None
    bytes_per_second: int | None = None


@dataclass
class S3Stub:
    """The server; `objects` change through put and delete, `fault` is asked (verb, key) before every answer."""

    objects: dict[str, Object] = field(default_factory=dict)
    fault: Callable[[str, str], Fault | None] = lambda verb, key: None
    calls: Counter[str] = field(default_factory=Counter)
    endpoint: str = ""
    _clock: Iterator[int] = field(default_factory=itertools.count)
    _started: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def put(self, key: str, body: bytes | Path, *, storage_class: str = "STANDARD") -> None:
        """Stores an object. LastModified moves by one second per put, as if the writer took its time."""
        digest = hashlib.md5(body if isinstance(body, bytes) else str(body.stat()).encode()).hexdigest()
        modified = self._started + timedelta(seconds=next(self._clock))
        self.objects[key] = Object(body, f'"{digest}"', modified, storage_class)

    def delete(self, key: str) -> None:
        del self.objects[key]

    def environment(self) -> dict[str, str]:
        """Variables that lead the AWS clients here."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-west-2",
            "AWS_DEFAULT_REGION": "us-west-2",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def serve() -> Iterator[S3Stub]:
    """Runs the server on a free loopback port for the length of the block."""
    stub = S3Stub()

    class Handler(_Handler):
        store = stub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: S3Stub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client that was killed, or has read enough
            super().handle()

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        url = urllib.parse.urlsplit(self.path)
        bucket, _, key = url.path.lstrip("/").partition("/")
        key = urllib.parse.unquote(key)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        verb = "list" if method == "GET" and not key else ("get" if method == "GET" else "head")
        self.store.calls[verb] += 1
        fault = self.store.fault(verb, key) or Fault()
        time.sleep(fault.delay)
        if fault.status:
            return self._error(fault.status, {503: "SlowDown", 403: "AccessDenied"}.get(fault.status, "InternalError"))
        if urllib.parse.unquote(bucket) != BUCKET:
            return self._error(404, "NoSuchBucket")
        if verb == "list":
            return self._send(200, self._listing(query).encode(), {"Content-Type": "application/xml"}, fault)
        if not key:
            return self._send(200, b"", {"x-amz-bucket-region": "us-west-2"}, fault)
        stored = self.store.objects.get(key)
        if stored is None:
            return self._error(404, "NoSuchKey")
        return self._object(method, stored, fault)

    def _listing(self, query: dict[str, str]) -> str:
        quote = urllib.parse.quote if query.get("encoding-type") == "url" else escape
        after = query.get("continuation-token") or query.get("start-after") or ""
        prefix = query.get("prefix", "")
        keys = sorted((k for k in self.store.objects if k.startswith(prefix) and k > after), key=str.encode)
        limit = min(PAGE, int(query.get("max-keys") or PAGE))
        page, rest = keys[:limit], keys[limit:]
        rows = []
        for key in page:
            if stored := self.store.objects.get(key):
                rows.append(
                    f"<Contents><Key>{_xml(quote(key))}</Key><LastModified>{stored.modified:%Y-%m-%dT%H:%M:%S.000Z}"
                    f"</LastModified><ETag>{escape(stored.etag)}</ETag><Size>{stored.size}</Size>"
                    f"<StorageClass>{stored.storage_class}</StorageClass></Contents>"
                )
        more = f"<NextContinuationToken>{_xml(escape(page[-1]))}</NextContinuationToken>" if rest else ""
        encoding = "<EncodingType>url</EncodingType>" if query.get("encoding-type") == "url" else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><KeyCount>{len(page)}</KeyCount><MaxKeys>{limit}</MaxKeys>{encoding}"
            f"<IsTruncated>{'true' if rest else 'false'}</IsTruncated>{more}{''.join(rows)}</ListBucketResult>"
        )

    def _object(self, method: str, stored: Object, fault: Fault) -> None:
        if self.headers.get("If-Match", stored.etag) != stored.etag:
            return self._error(412, "PreconditionFailed")
        size = stored.size
        first, last, status = 0, size - 1, 200
        headers = {
            "ETag": stored.etag,
            "Last-Modified": stored.modified.strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "Accept-Ranges": "bytes",
        }
        if (wanted := self.headers.get("Range", "")).startswith("bytes="):
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last, status = int(start), min(int(end) if end else size - 1, size - 1), 206
            if first >= size:
                return self._error(416, "InvalidRange")
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        length = last - first + 1
        if isinstance(stored.body, bytes):
            return self._send(status, stored.body[first : last + 1], headers, fault)
        self._start(status, headers, length)
        if method == "GET":
            self.wfile.flush()
            with stored.body.open("rb") as file:
                while length and (sent := os.sendfile(self.connection.fileno(), file.fileno(), first, length)):
                    first, length = first + sent, length - sent
        return None

    def _error(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>injected or true</Message></Error>".encode()
        self._send(status, body, {"Content-Type": "application/xml"}, Fault())

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault) -> None:
        self._start(status, headers, len(body))
        if self.command == "HEAD":
            return
        with suppress(BrokenPipeError, ConnectionResetError):
            body = body if fault.truncate_to is None else body[: fault.truncate_to]
            step = max(1, fault.bytes_per_second // 10) if fault.bytes_per_second else len(body) or 1
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                if fault.bytes_per_second:
                    time.sleep(0.1)
        if fault.truncate_to is not None:
            self.close_connection = True

    def _start(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def _xml(text: str) -> str:
    """Control characters as S3 writes them when no encoding was asked for: character references."""
    return "".join(f"&#x{ord(c):x};" if ord(c) < 0x20 else c for c in text)
