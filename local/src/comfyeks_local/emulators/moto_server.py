"""The moto process of the local AWS: EC2, IAM, SSM, and the channel of the SSM agents.

    python -m comfyeks_local.emulators.moto_server --fd N    # N: a listening TCP socket, inherited from the supervisor

Besides AWS, under `/_local/`:

    GET  health                          {"part", "bridges"}
    GET  ssm/next?instance=<id>&wait=<s> 200 {"command_id", "document", "parameters"} | 204 after `wait` seconds
    POST ssm/result                      {"command_id", "instance_id", "status", "response_code", "stdout", "stderr"}
                                         200 | 400 (malformed) | 409 (not in progress on that instance)
    PUT  shortages                       [[lifecycle, instance type], …], "*" and patterns: what EC2 has no capacity for
    GET  calls, POST/DELETE faults       see comfyeks_local.emulators.traffic
"""

from __future__ import annotations

import argparse
import io
import json
import socket
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
from werkzeug.test import run_wsgi_app

from comfyeks_local.emulators import bridges
from comfyeks_local.emulators.run_command import RefusedError, RunCommand
from comfyeks_local.emulators.traffic import Request, Traffic, from_web_page

MAX_WAIT = 60.0  # seconds of one long poll

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]


class Application:
    """moto as a WSGI application, with this project's additions in front of it. `authority` is its host:port."""

    def __init__(self, moto: WsgiApp, authority: str, run_command: RunCommand, applied: list[str]) -> None:
        self._moto = moto
        self._authority = authority
        self._run_command = run_command
        self._applied = applied
        self._traffic = Traffic()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        headers = _headers(environ)
        if from_web_page(self._authority, headers):
            return _respond(start_response, HTTPStatus.FORBIDDEN, {}, b"")
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path.startswith("/_local/"):
            status, answer = self._local(method, path, environ)
            body = b"" if answer is None else json.dumps(answer).encode()
            return _respond(start_response, status, {"content-type": "application/json"}, body)
        raw_uri: str = environ.get("RAW_URI") or path
        request = Request(
            method=method,
            path=raw_uri.partition("?")[0],
            query=environ.get("QUERY_STRING", ""),
            headers=headers,
        )
        if request.is_form:
            form = _body(environ)
            environ["wsgi.input"] = io.BytesIO(form)
            request = Request(request.method, request.path, request.query, request.headers, form)
        if (answer := self._traffic.intercept(request)) is not None:
            return _respond(start_response, *answer)
        if request.only_reads:
            return self._moto(environ, start_response)
        parts, status_line, answered = run_wsgi_app(self._moto, environ, buffered=True)
        headers = {name: value for name, value in answered if name.lower() != "content-length"}
        answer = int(status_line.partition(" ")[0]), headers, b"".join(parts)
        self._traffic.remember(request, answer)
        return _respond(start_response, *answer)

    def _local(self, method: str, path: str, environ: Environ) -> tuple[int, Any]:
        if (method, path) == ("GET", "/_local/health"):
            return HTTPStatus.OK, {"part": "moto", "bridges": self._applied}
        if (method, path) == ("GET", "/_local/ssm/next"):
            gone = partial(_has_hung_up, environ["werkzeug.socket"])
            return self._next(parse_qs(environ.get("QUERY_STRING", "")), gone)
        if (method, path) == ("POST", "/_local/ssm/result"):
            return self._result(_body(environ))
        if (method, path) == ("PUT", "/_local/shortages"):
            return self._set_shortages(_body(environ))
        answer = self._traffic.control(method, path, _body(environ))
        return answer or (HTTPStatus.NOT_FOUND, {"error": f"no {method} {path}"})

    def _next(self, query: dict[str, list[str]], gone: Callable[[], bool]) -> tuple[int, Any]:
        try:
            instance, wait = query["instance"][0], float(query.get("wait", ["0"])[0])
        except (KeyError, ValueError):
            return HTTPStatus.BAD_REQUEST, {"error": "query: instance=<id>&wait=<seconds>"}
        command = self._run_command.next(instance, min(wait, MAX_WAIT), gone)
        if command is None:
            return HTTPStatus.NO_CONTENT, None
        return HTTPStatus.OK, {
            "command_id": command.id,
            "document": command.document_name,
            "parameters": command.parameters,
        }

    def _result(self, body: bytes) -> tuple[int, Any]:
        try:
            result = json.loads(body)
            self._run_command.report(
                result["command_id"],
                result["instance_id"],
                result["status"],
                int(result["response_code"]),
                result["stdout"],
                result["stderr"],
            )
        except (KeyError, TypeError, ValueError) as error:
            return HTTPStatus.BAD_REQUEST, {"error": f"malformed result: {error!r}"}
        except RefusedError as refused:
            status = HTTPStatus.BAD_REQUEST if refused.code == "ValidationException" else HTTPStatus.CONFLICT
            return status, {"error": refused.message}
        return HTTPStatus.OK, {}

    @staticmethod
    def _set_shortages(body: bytes) -> tuple[int, Any]:
        from comfyeks_local.emulators.bridges.moto_fleets import shortages

        try:
            pairs = [(lifecycle, instance_type) for lifecycle, instance_type in json.loads(body)]
        except (TypeError, ValueError) as error:
            return HTTPStatus.BAD_REQUEST, {
                "error": f"shortages: expected a list of [lifecycle, instance type]: {error}"
            }
        shortages.set(pairs)
        return HTTPStatus.OK, pairs


def _has_hung_up(client: socket.socket) -> bool:
    """Whether the client of a request has closed its connection."""
    try:
        return not client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _headers(environ: Environ) -> dict[str, str]:
    headers = {key[5:].replace("_", "-").lower(): value for key, value in environ.items() if key.startswith("HTTP_")}
    headers["content-type"] = environ.get("CONTENT_TYPE", "")
    return headers


def _body(environ: Environ) -> bytes:
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return body


def _respond(start_response: StartResponse, status: int, headers: dict[str, str], body: bytes) -> list[bytes]:
    phrase = f"{int(status)} {HTTPStatus(status).phrase}"
    start_response(phrase, [*headers.items(), ("content-length", str(len(body)))])
    return [body]


def main() -> None:
    parser = argparse.ArgumentParser(description="The moto process of the local AWS.")
    parser.add_argument("--fd", type=int, required=True, help="inherited listening socket")
    fd: int = parser.parse_args().fd
    applied = bridges.apply_all("moto")
    from comfyeks_local.emulators.bridges.moto_ssm import run_command

    with socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM) as inherited:
        host, port = inherited.getsockname()
    moto = DomainDispatcherApplication(create_backend_app)
    application = Application(moto, f"{host}:{port}", run_command, applied)
    make_server(host, port, application, threaded=True, request_handler=MotoRequestHandler, fd=fd).serve_forever()


if __name__ == "__main__":
    main()
