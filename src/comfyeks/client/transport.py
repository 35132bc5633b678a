"""Requests to one server, with its cookies, retries and a time limit, and its websocket."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
import websocket
from requests.cookies import get_cookie_header
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from comfyeks.client.errors import ClientError, JobTimeoutError, UnreachableError
from comfyeks.errors import UserError

ATTEMPTS = 3
GATEWAY_ERRORS = (502, 503, 504)
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 60.0


@dataclass(frozen=True)
class _Limit:
    """A time limit of `seconds` that ends at `deadline` (time.monotonic)."""

    seconds: float
    deadline: float


class Transport:
    """The connection of one ComfyClient, which documents the arguments."""

    def __init__(self, url: str, session: requests.Session | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--url {url!r}: must be an http:// or https:// address, for example http://127.0.0.1:8848")
        self.url = url.rstrip("/")
        self.session = session or requests.Session()
        self._own_headers: dict[str, Any] = dict(self.session.headers) if session is not None else {}
        self._limit: _Limit | None = None

    @contextmanager
    def time_limit(self, seconds: float | None) -> Iterator[None]:
        """Limit the time of all requests in the block: JobTimeoutError after `seconds`. None adds no limit."""
        outer = self._limit
        if seconds is not None:
            self._limit = _Limit(seconds, time.monotonic() + seconds)
        try:
            yield
        finally:
            self._limit = outer

    def time_left(self, problem: str = "") -> float:
        """Seconds until the time limit, infinity without one. Raises JobTimeoutError when it has passed."""
        if self._limit is None:
            return math.inf
        left = self._limit.deadline - time.monotonic()
        if left <= 0:
            raise JobTimeoutError(f"timed out after {self._limit.seconds:g} s", problem)
        return left

    def pause(self, seconds: float, problem: str = "") -> None:
        """Sleep, but not beyond the time limit. Raises JobTimeoutError when it has passed."""
        time.sleep(min(seconds, self.time_left(problem)))
        self.time_left(problem)

    def _timeout(self, read: float, problem: str = "") -> Any:
        """The timeout for `requests`. Raises JobTimeoutError when the time limit has passed."""
        left = self.time_left(problem)
        total = None if left == math.inf else left
        return urllib3.Timeout(total=total, connect=min(_CONNECT_SECONDS, left), read=min(read, left))

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request that may be repeated safely.

        Raises UnreachableError when no server answered in three attempts.
        """
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self.pause(0.2 * 2**attempt, problem)
            try:
                response = self.session.request(
                    method,
                    f"{self.url}/api{path}",
                    timeout=self._timeout(_READ_SECONDS, problem),
                    allow_redirects=False,
                    **options,
                )
            except requests.exceptions.ReadTimeout:
                problem = f"no answer from {self.url}"
                continue
            except requests.exceptions.RequestException as error:
                problem = f"no connection to {self.url}: {root_cause(error)}"
                continue
            if response.status_code in GATEWAY_ERRORS:
                problem = f"{self.url} answered {response.status_code}: {reason(response)}"
                continue
            if response.is_redirect or response.status_code == 401:
                where = urlsplit(response.headers.get("Location", "")).hostname
                raise ClientError(
                    f"{self.url} wants a sign-in ({response.status_code}{f', to {where}' if where else ''}): "
                    "from a program, use the internal address or --port-forward"
                )
            return response
        self.time_left(problem)
        raise UnreachableError(problem)

    def post_once(self, path: str, body: dict[str, Any], seconds: float) -> requests.Response:
        """Send a request that must not be repeated, within `seconds`. Exceptions of `requests` pass through."""
        timeout = self._timeout(seconds)
        return self.session.post(f"{self.url}/api{path}", json=body, timeout=timeout, allow_redirects=False)

    def connect_websocket(self, client_id: str) -> websocket.WebSocket:
        """Open the server's event socket, with the cookies and headers of the requests."""
        scheme, rest = self.url.split("://", 1)
        request = requests.Request("GET", f"{self.url}/ws").prepare()
        limit = self._limit
        left = math.inf if limit is None else max(0.1, limit.deadline - time.monotonic())
        verify = self.session.verify
        authorities = (
            verify if isinstance(verify, str) else os.environ.get("REQUESTS_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
        )
        return websocket.create_connection(
            f"{'wss' if scheme == 'https' else 'ws'}://{rest}/ws?clientId={client_id}",
            timeout=min(_CONNECT_SECONDS, left),
            header=[
                f"{key}: {value}"
                for key, value in self._own_headers.items()
                if key.lower() not in ("accept", "accept-encoding", "connection", "user-agent")
            ],
            cookie=get_cookie_header(self.session.cookies, request),  # type: ignore[no-untyped-call]
            suppress_origin=True,  # the server rejects an Origin that differs from Host, which a proxy may change
            sslopt={"ca_certs": authorities} if verify else {"cert_reqs": 0, "check_hostname": False},
            enable_multithread=True,
        )


def json_of(response: requests.Response) -> Any:
    """The JSON body of a response, or None when it is not JSON."""
    try:
        return response.json()
    except requests.exceptions.JSONDecodeError:
        return None


def reason(response: requests.Response) -> str:
    """The explanation in a response, on one line."""
    body = json_of(response)
    if isinstance(body, dict):
        error = body.get("error", body)
        return str(error.get("message", error)) if isinstance(error, dict) else str(error)
    text = "" if "html" in response.headers.get("Content-Type", "") else response.text.strip().partition("\n")[0]
    return text[:200] or response.reason or "no explanation"


def was_never_sent(error: requests.exceptions.ConnectionError) -> bool:
    """Whether the request cannot have reached the server, because there was no connection."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    cause = error.args[0] if error.args else None
    why = getattr(cause, "reason", None)
    return isinstance(why, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)


def root_cause(error: BaseException) -> str:
    """The innermost reason in requests' chain of wrappers."""
    while True:
        inner = next(
            (arg for arg in (getattr(error, "reason", None), *error.args) if isinstance(arg, BaseException)), None
        )
        if inner is None:
            text = getattr(error, "strerror", None) or str(error).rpartition(": ")[2] or type(error).__name__
            return re.sub(r"^\[Errno -?\d+\] ", "", text)
        error = inner
