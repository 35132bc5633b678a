"""Requests to an emulator: each is named as an AWS call ("ssm.SendCommand"), counted, and can be made to fail.

Both emulator processes put this in front of the emulator, after they have refused requests of web pages. A request that
an SDK repeats is answered again but not executed again.

The service is the one that the request is signed for (`s3`, `ssm`, `ec2`, …). The operation comes from the protocol: a
header (JSON), a form field (query), or method and path, matched against botocore's service models (REST).
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

from botocore.loaders import Loader

_RPC_PATH = re.compile(r"/service/[^/]+/operation/(\w+)")
_AGAIN = re.compile(r"\battempt=([2-9]|\d\d+)\b")
_CALL_ID = "amz-sdk-invocation-id"
_ANSWERS_KEPT = 1000  # an SDK repeats a call within seconds; a large apply makes about 100 calls in that time

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers without the length, body."""


def from_web_page(authority: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser sends this request on behalf of a web page; such a request must be refused.

    The emulators check no signature and run code for every caller (Lambda functions, SSM documents), so any page that
    is open on this machine could use them. `authority` is the emulator's own host:port; another `Host` is a name that
    the page's owner made resolve to this machine (DNS rebinding). Pictures and links come without `Origin`, but with
    `Sec-Fetch-Site`, which is "none" only for an address that a person typed. Header names are lower-case.
    """
    return headers.get("host") != authority or "origin" in headers or headers.get("sec-fetch-site", "none") != "none"


@dataclass(frozen=True)
class Request:
    """The parts of an HTTP request that name an AWS operation. Header names are lower-case; `path` is still encoded."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    form: bytes = b""  # the body, if it is a form

    @property
    def only_reads(self) -> bool:
        return self.method in ("GET", "HEAD")

    @property
    def is_form(self) -> bool:
        return self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")


@dataclass(frozen=True)
class Call:
    """One AWS call. `protocol` is json, query, ec2, rest-json or rest-xml."""

    service: str
    operation: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.service}.{self.operation}"


@dataclass(frozen=True)
class _Route:
    operation: str
    path: re.Pattern[str]
    literals: int  # path segments that are fixed text
    query: Mapping[str, str]  # required; an empty value matches any
    headers: frozenset[str]  # required

    @property
    def specificity(self) -> int:
        return self.literals + len(self.query) + len(self.headers)

    def matches(self, path: str, query: Mapping[str, list[str]], headers: Mapping[str, str]) -> bool:
        return (
            self.path.fullmatch(path) is not None
            and all(key in query and value in ("", query[key][0]) for key, value in self.query.items())
            and all(name in headers for name in self.headers)
        )


@functools.cache
def _routes(service: str) -> tuple[str, dict[str, list[_Route]]]:
    """(protocol, routes by HTTP method, most specific first) of a REST service; ("", {}) if it has no model."""
    loader = Loader()
    if service not in loader.list_available_services("service-2"):
        return "", {}
    model = loader.load_service_model(service, "service-2")
    routes: dict[str, list[_Route]] = {}
    for operation, definition in model["operations"].items():
        if definition.get("deprecated"):  # shares its route with its successor
            continue
        path, _, query = definition["http"]["requestUri"].partition("?")
        required = {key: value for key, _, value in (pair.partition("=") for pair in query.split("&") if pair)}
        headers = set()
        shape = model["shapes"].get(definition.get("input", {}).get("shape"), {})
        for member in shape.get("required", ()):
            location = shape["members"][member]
            if location.get("location") == "querystring":
                required.setdefault(location["locationName"], "")
            elif location.get("location") == "header":
                headers.add(location["locationName"].lower())
        pattern = "".join(
            (".+" if part.endswith("+}") else "[^/]+") if part.startswith("{") else re.escape(part)
            for part in re.split(r"(\{[^}]*\})", path.rstrip("/"))
        )
        literals = sum(1 for segment in path.split("/") if segment and "{" not in segment)
        routes.setdefault(definition["http"]["method"], []).append(
            _Route(operation, re.compile(pattern + "/?"), literals, required, frozenset(headers))
        )
    for candidates in routes.values():
        candidates.sort(key=lambda route: -route.specificity)
    return model["metadata"]["protocol"], routes


def _signed_service(request: Request) -> str:
    """The service in the credential scope (`…/<region>/<service>/aws4_request`); "" for an unsigned request."""
    scope = re.search(r"Credential=[^,\s]*", request.headers.get("authorization", ""))
    text = scope.group() if scope else "".join(parse_qs(request.query).get("X-Amz-Credential", []))
    parts = unquote(text).split("/")
    return parts[-2].lower() if len(parts) >= 3 and parts[-1] == "aws4_request" else ""


def call_of(request: Request) -> Call | None:
    """The AWS call that a request makes; None if it is not signed or matches no operation."""
    service = _signed_service(request)
    if not service:
        return None
    if target := request.headers.get("x-amz-target"):
        return Call(service, target.rpartition(".")[2], "json")
    if rpc := _RPC_PATH.fullmatch(request.path):
        return Call(service, rpc.group(1), "json")
    for fields in (request.form.decode("utf-8", "replace"), request.query):
        if action := parse_qs(fields).get("Action"):
            return Call(service, action[0], "ec2" if service == "ec2" else "query")
    protocol, routes = _routes(service)
    query = parse_qs(request.query, keep_blank_values=True)
    for route in routes.get(request.method, ()):
        if route.matches(request.path, query, request.headers):
            return Call(service, route.operation, protocol)
    return None


@dataclass(frozen=True)
class Fault:
    """The next `times` calls of an operation ("*": any of the service) are answered with this error."""

    service: str
    operation: str
    error: str
    status: int = 400
    times: int = 1
    message: str = "injected by comfyeks local"

    def answer(self, protocol: str) -> Answer:
        """The error in the form that a client of this protocol expects."""
        code, message = escape(self.error), escape(self.message)
        if protocol in ("json", "rest-json"):
            body = json.dumps({"__type": self.error, "message": self.message, "Message": self.message})
            return self.status, {"content-type": "application/json", "x-amzn-errortype": self.error}, body.encode()
        error = f"<Code>{code}</Code><Message>{message}</Message>"
        body = {
            "ec2": f"<Response><Errors><Error>{error}</Error></Errors><RequestID>local</RequestID></Response>",
            "rest-xml": f"<Error>{error}<RequestId>local</RequestId></Error>",
        }.get(protocol, f"<ErrorResponse><Error>{error}</Error><RequestId>local</RequestId></ErrorResponse>")
        return self.status, {"content-type": "text/xml"}, body.encode()


class Traffic:
    """Counts calls, injects faults and remembers answers; safe to use from many threads.

    The AWS SDK for Go can lose an answer that begins to arrive while it still sends its request. That needs a server on
    the same machine and a busy machine: it happened in one of a thousand calls of a Terraform run beside other work.
    The SDK then repeats the call, which would be executed twice: one key too many, or "not found" for a deletion.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._faults: list[Fault] = []
        self._answers: OrderedDict[str, Answer] = OrderedDict()  # by the SDK's id of the call

    def intercept(self, request: Request) -> Answer | None:
        """Count a request; returns its answer if a fault is due for it or it was answered before, else None."""
        call = call_of(request)
        if call is None:
            return None
        with self._lock:
            if again := _AGAIN.search(request.headers.get("amz-sdk-request", "")):
                known = self._answers.get(request.headers.get(_CALL_ID, ""))
                print(f"{call}: attempt {again[1]}{', answered as before' if known else ''}")
                if known:
                    return known
            self._calls[str(call)] += 1
            for index, fault in enumerate(self._faults):
                if fault.service == call.service and fault.operation in (call.operation, "*"):
                    if fault.times > 1:
                        self._faults[index] = replace(fault, times=fault.times - 1)
                    else:
                        del self._faults[index]
                    return fault.answer(call.protocol)
        return None

    def remember(self, request: Request, answer: Answer) -> None:
        """Remember an answer for a repeated request. Errors are not kept: the SDK repeats those calls on purpose."""
        call_id = request.headers.get(_CALL_ID)
        if call_id is None or answer[0] >= 300:
            return
        with self._lock:
            self._answers[call_id] = answer
            if len(self._answers) > _ANSWERS_KEPT:
                self._answers.popitem(last=False)

    def control(self, method: str, path: str, body: bytes) -> tuple[int, Any] | None:
        """(status, JSON answer) of `/_local/faults` and `/_local/calls`, None for any other path."""
        with self._lock:
            if (method, path) == ("GET", "/_local/calls"):
                return 200, dict(sorted(self._calls.items()))
            if (method, path) == ("DELETE", "/_local/faults"):
                self._faults.clear()
                return 200, []
            if (method, path) == ("POST", "/_local/faults"):
                try:
                    faults = json.loads(body)
                    if not isinstance(faults, list):
                        raise TypeError("not a list")
                    self._faults += [Fault(**fault) for fault in faults]
                except (TypeError, ValueError) as error:
                    return 400, {
                        "error": f"faults: expected a list of objects with service, operation, error, …: {error}"
                    }
                return 200, [vars(fault) for fault in self._faults]
        return None
