"""The part of kubelet's API that `kubectl logs` uses: the output of a container, served to the API server only."""

from __future__ import annotations

import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from comfyeks.files import write_atomically
from comfyeks_local.cluster import certificates
from comfyeks_local.cluster.control_plane import HOST

_NAME = r"([a-z0-9][a-z0-9.-]*)"
_PATH = re.compile(rf"/containerLogs/{_NAME}/{_NAME}/{_NAME}")


class LogServer:
    """Serves the logs below `pods` on `port` to clients with a certificate of `authority` (PEM), without following."""

    def __init__(self, pods: Path, authority: str, home: Path) -> None:
        """`home` is the folder for its own certificate."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = urlsplit(self.path)
                found = _PATH.fullmatch(address.path)
                log = pods / f"{found[1]}_{found[2]}" / "log" / f"{found[3]}.log" if found else None
                if log is None or not log.is_file():
                    self.send_error(404, "there is no such container on this node")
                    return
                content = log.read_bytes()
                if tail := parse_qs(address.query).get("tailLines"):
                    lines = content.splitlines(keepends=True)
                    content = b"".join(lines[max(0, len(lines) - int(tail[0])) :])
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        own = certificates.issue(certificates.authority(), "kubelet", hosts=[HOST])
        pair = home / "kubelet.pem"
        write_atomically(pair, (own.certificate + own.key).decode(), mode=0o600)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair)
        context.verify_mode = ssl.CERT_REQUIRED  # without an authority no client is accepted
        if authority:
            context.load_verify_locations(cadata=authority)
        server = ThreadingHTTPServer((HOST, 0), Handler)
        # The handshake runs in the thread of its connection, so that a silent client does not block the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
