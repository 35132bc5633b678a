"""A small S3 that stores uploads on a disk as fast as Python can, for benchmarks, where emulators would be too slow.

It supports PutObject, HeadObject, multipart uploads and their listings, and no signatures. Objects are at
`<root>/<bucket>/<key>`, parts of unfinished uploads at `<root>/.uploads/<id>/<number>`.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

_CHUNK = 1 << 20
_NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        self.target, self.query = Path(), dict[str, str]()
        super().handle()

    def parse_request(self) -> bool:
        parsed = super().parse_request()
        if parsed:
            parts = urlsplit(self.path)
            self.key = unquote(parts.path).lstrip("/")
            self.target = self.root / self.key
            self.query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        return parsed

    def do_HEAD(self) -> None:
        exists = self.target.is_file()
        self.send_response(200 if exists else 404)
        self.send_header("Content-Length", str(self.target.stat().st_size if exists else 0))
        self.end_headers()

    def do_GET(self) -> None:
        if "uploadId" in self.query:
            parts = sorted(self._upload.iterdir(), key=lambda part: int(part.name))
            listed = "".join(
                f"<Part><PartNumber>{part.name}</PartNumber><Size>{part.stat().st_size}</Size>"
                f'<ETag>"{hashlib.md5(part.read_bytes(), usedforsecurity=False).hexdigest()}"</ETag></Part>'
                for part in parts
            )
            self._xml("ListPartsResult", listed)
        elif "uploads" in self.query:
            found = [path for path in (self.root / ".uploads").glob("*.key") if path.with_suffix("").is_dir()]
            listed = "".join(
                f"<Upload><Key>{path.read_text().partition('/')[2]}</Key><UploadId>{path.stem}</UploadId>"
                "<Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>"
                for path in found
            )
            self._xml("ListMultipartUploadsResult", listed)
        else:
            self._xml("ListBucketResult", "")

    def do_POST(self) -> None:
        self._body(None)
        if "uploads" in self.query:
            upload = uuid.uuid4().hex
            (self.root / ".uploads" / upload).mkdir(parents=True)
            (self.root / ".uploads" / f"{upload}.key").write_text(self.key)
            self._xml("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>")
            return
        self.target.parent.mkdir(parents=True, exist_ok=True)
        with self.target.open("wb") as whole:
            for part in sorted(self._upload.iterdir(), key=lambda part: int(part.name)):
                with part.open("rb") as stream:
                    shutil.copyfileobj(stream, whole, _CHUNK)
                part.unlink()
        self._upload.rmdir()
        self._xml("CompleteMultipartUploadResult", '<ETag>"done-1"</ETag>')

    def do_PUT(self) -> None:
        target = self._upload / self.query["partNumber"] if "uploadId" in self.query else self.target
        target.parent.mkdir(parents=True, exist_ok=True)
        self._body(target)
        self.send_response(200)
        self.send_header("ETag", f'"{uuid.uuid4().hex}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_DELETE(self) -> None:
        shutil.rmtree(self._upload, ignore_errors=True)
        self.send_response(204)
        self.end_headers()

    @property
    def _upload(self) -> Path:
        return self.root / ".uploads" / self.query["uploadId"]

    def _body(self, target: Path | None) -> None:
        if self.headers.get("Expect", "").lower() == "100-continue":
            pass  # the base class has answered it
        with (target or Path("/dev/null")).open("wb") as stream:
            if "aws-chunked" in self.headers.get("Content-Encoding", ""):
                self._aws_chunks(stream)
                return
            remaining = int(self.headers.get("Content-Length", 0))
            while remaining > 0:
                data = self.rfile.read(min(_CHUNK, remaining))
                remaining -= len(data)
                stream.write(data)

    def _aws_chunks(self, stream: object) -> None:
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            stream.write(self.rfile.read(size))  # type: ignore[attr-defined]
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def _xml(self, name: str, inner: str) -> None:
        body = f'<?xml version="1.0"?><{name} {_NAMESPACE}><IsTruncated>false</IsTruncated>{inner}</{name}>'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def server(root: Path) -> ThreadingHTTPServer:
    """A server on a free loopback port, not yet serving."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"root": root}))
    made.daemon_threads = True
    return made
