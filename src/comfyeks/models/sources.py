"""Reads a file from a web server in ranges, over several connections, resuming where a connection broke.

Anything that is not the file is an error: sign-in pages, error pages, a wrong length, a file that changes between two
ranges. Tokens are sent only to their host, over TLS, and appear in no message; nor do the signed addresses that hosts
redirect to.
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from comfyeks.errors import OperationError

TOKEN_VARIABLES = {"huggingface.co": "HF_TOKEN", "civitai.com": "CIVITAI_TOKEN"}
_TIMEOUT = (10.0, 60.0)  # seconds to connect, and to the next byte
_ATTEMPTS = 8  # consecutive ones without data, about a minute
_MAX_PAUSE = 30.0
_CHUNK = 1 << 20
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_EXPIRED = (401, 403, 404, 410)  # answers of a signed address that has expired
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Tokens:
    """Tokens of hosts: from the environment, else from a store that is read once, when a host requires a token."""

    def __init__(self, environment: Mapping[str, str], stored: Callable[[], Mapping[str, str]]) -> None:
        self._environment = environment
        self._fetch: Callable[[], Mapping[str, str]] | None = stored
        self._stored: Mapping[str, str] = {}

    def known(self, host: str) -> str | None:
        """The token for a host, without reading the store."""
        variable = TOKEN_VARIABLES.get(host)
        return (self._environment.get(variable) if variable else None) or self._stored.get(host)

    def wanted(self, host: str) -> str | None:
        """The token for a host that requires one; reads the store if needed."""
        if self._fetch is not None and self.known(host) is None:
            self._stored, self._fetch = self._fetch(), None
        return self.known(host)


@dataclass(frozen=True)
class Facts:
    """What the server reports about the file. `size` in bytes; `sha256` only from hosts that have it (Hugging Face)."""

    name: str
    size: int | None
    sha256: str | None
    etag: str | None
    ranges: bool


class _Bearer(requests.auth.AuthBase):
    """Sends a token, or nothing. Being set, it also keeps `requests` from using ~/.netrc."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Source:
    """One file at a URL. Setting `stop` ends reads and pauses in all threads at once.

    Raises OperationError with the reason why the file cannot be read. `retry_pause` is the first pause in seconds.
    """

    def __init__(self, url: str, tokens: Tokens, *, connections: int = 1, retry_pause: float = 0.5) -> None:
        self.url = url
        self.stop = threading.Event()
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._secure = parts.scheme == "https"
        # For messages: without query and user, which may hold secrets.
        self.shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        self._tokens = tokens
        self._token = tokens.known(self._host)
        self._retry_pause = retry_pause
        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=4, pool_maxsize=connections + 1))
        self._resolved: str | None = None
        self.facts = self._probe()

    def read(self, start: int, stop: int) -> bytearray:
        """Return bytes [start, stop). Resumes after the last received byte when a connection breaks."""
        data = bytearray(stop - start)
        self.read_into(memoryview(data), start)
        return data

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill a buffer with the bytes from `start` on."""
        at = 0
        for chunk in self.chunks(start, start + len(buffer)):
            buffer[at : at + len(chunk)] = chunk
            at += len(chunk)

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield bytes [start, stop) as they arrive."""
        at, failures, problem = start, 0, ""
        while at < stop:
            if failures:
                if failures == _ATTEMPTS:
                    raise OperationError(f"{self.shown}: {problem}; gave up after {_ATTEMPTS} attempts at byte {at}")
                self._pause(failures)
            failures += 1
            try:
                with self._get(at, stop) as response:
                    for chunk in self._body(response, at, stop):
                        at += len(chunk)
                        failures = 0
                        yield chunk
                problem = f"the connection ended at byte {at} of {stop}"
            except _TransientError as error:
                problem = str(error)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                problem = f"the connection broke ({type(error).__name__})"

    def _body(self, response: requests.Response, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from `start` on; a server without ranges also sends those before it, which are skipped."""
        skip = 0 if response.status_code == 206 else start
        remaining = stop - start
        while remaining > 0:
            if self.stop.is_set():
                raise OperationError("stopped")
            chunk: bytes = response.raw.read(min(_CHUNK, skip or remaining), decode_content=False)
            if not chunk:
                return
            if skip:
                skip -= len(chunk)
                continue
            remaining -= len(chunk)
            yield chunk

    def _probe(self) -> Facts:
        problem = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._pause(attempt)
            try:
                with self._get(0, 1) as response:
                    return _facts(response, self.url)
            except _TransientError as error:
                problem = str(error)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                problem = f"no connection ({type(error).__name__})"
        raise OperationError(f"{self.shown}: {problem}; gave up after {_ATTEMPTS} attempts")

    def _get(self, start: int, stop: int) -> requests.Response:
        """A response whose body begins at `start`, or at 0 when the server has no ranges."""
        known = self._resolved  # other threads may change it meanwhile
        response = self._request(known or self.url, start, stop)
        if known is not None and response.status_code in _EXPIRED:
            response.close()
            self._resolved = None
            response = self._request(self.url, start, stop)
        if response.status_code in (401, 403) and self._token is None:
            self._token = self._tokens.wanted(self._host)
            if self._token is not None:
                response.close()
                response = self._request(self.url, start, stop)
        try:
            self._check(response, start)
        except BaseException:
            response.close()
            raise
        if response.history:
            self._resolved = response.url
        return response

    def _request(self, url: str, start: int, stop: int) -> requests.Response:
        parts = urlsplit(url)
        at_home = parts.hostname == self._host and (parts.scheme == "https" or self._host in _LOOPBACK)
        return self._session.get(
            url,
            headers={"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"},
            auth=_Bearer(self._token if at_home else None),
            stream=True,
            timeout=_TIMEOUT,
        )

    def _check(self, response: requests.Response, start: int) -> None:
        status = response.status_code
        if self._secure and urlsplit(response.url).scheme != "https":
            raise OperationError(f"{self.shown}: redirects to an http:// address, which is not encrypted")
        if status in _TRANSIENT:
            with contextlib.suppress(ValueError):
                self._pause_seconds(float(response.headers.get("Retry-After", "")))
            raise _TransientError(f"answers {status} {response.reason}")
        if status in (401, 403):
            raise OperationError(f"{self.shown}: answers {status}: {self._about_tokens()}")
        if status not in (200, 206):
            raise OperationError(f"{self.shown}: answers {status} {response.reason}")
        if response.headers.get("Content-Type", "").partition(";")[0].strip().lower().endswith("html"):
            raise OperationError(f"{self.shown}: answers with a web page, not a file{self._signed_out(response)}")
        facts = getattr(self, "facts", None)
        if facts is None:
            return
        now = _facts(response, self.url)
        if (now.size, now.etag) != (facts.size, facts.etag) and None not in (now.size, now.etag):
            raise OperationError(f"{self.shown}: the file changed on the server during the transfer")
        if start and facts.ranges and status != 206:
            raise _TransientError("answered with the whole file instead of a range")

    def _about_tokens(self) -> str:
        variable = TOKEN_VARIABLES.get(self._host)
        place = f"{variable}, or {self._host!r} in the deployment's secret" if variable else "the deployment's secret"
        if self._token is not None:
            return f"the token ({place}) is not valid, or its owner has not accepted the licence on the model's page"
        return f"it wants a token. Accept the licence on the model's page, then set {place} (docs/how-to/models.md)"

    def _signed_out(self, response: requests.Response) -> str:
        where = urlsplit(response.url).hostname
        return f" (redirected to {where}: a sign-in page?)" if where != self._host else ""

    def _pause(self, failures: int) -> None:
        self._pause_seconds(self._retry_pause * 2 ** (failures - 1) * random.uniform(0.5, 1.5))  # noqa: S311

    def _pause_seconds(self, seconds: float) -> None:
        if self.stop.wait(min(seconds, _MAX_PAUSE)):
            raise OperationError("stopped")


class _TransientError(Exception):
    """A failure that may not happen in another attempt."""


def _facts(response: requests.Response, url: str) -> Facts:
    headers = response.headers
    if response.status_code == 206:
        total = re.fullmatch(r"bytes \d+-\d+/(\d+)", headers.get("Content-Range", ""))
        size = int(total[1]) if total else None
    else:
        size = int(headers["Content-Length"]) if headers.get("Content-Length", "").isdigit() else None
    etag = headers.get("ETag")
    # Hugging Face sends the hash of a large file with the redirect to it.
    linked = [hop.headers.get("X-Linked-ETag", "").strip('"') for hop in (*response.history, response)]
    return Facts(
        name=_name(headers.get("Content-Disposition", ""), url),
        size=size,
        sha256=next((value for value in linked if re.fullmatch(r"[0-9a-f]{64}", value)), None),
        etag=etag if etag and not etag.startswith("W/") else None,
        ranges=response.status_code == 206,
    )


def _name(disposition: str, url: str) -> str:
    """The file name that the server sends, else the last part of the URL."""
    message = Message()
    message["Content-Disposition"] = disposition
    sent = message.get_filename()
    return PurePosixPath(sent).name if sent else PurePosixPath(unquote(urlsplit(url).path)).name
