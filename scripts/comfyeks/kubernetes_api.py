"""The cluster's API, as plain dictionaries: enough to ask what is there and to remove what `down` removes."""

from __future__ import annotations

import json
import os
from typing import Any

from kubernetes import config
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from comfyeks.errors import Failure, UserError

Object = dict[str, Any]

CONNECT_SECONDS, READ_SECONDS = 10, 30


class Cluster:
    """The API server behind a kubectl context. Every method raises Failure when it does not answer, or says no."""

    def __init__(self, context: str) -> None:
        """Raises UserError when the kubeconfig has no such context or cannot be used."""
        self.context = context
        files = os.environ.get("KUBECONFIG")  # the library looks only once, when it is imported
        try:
            self._client: Any = config.new_client_from_config(files, context)  # type: ignore[no-untyped-call]
        except (ConfigException, OSError) as error:
            raise UserError(f"kubectl context {context!r} cannot be used: {error}") from error

    def get(self, path: str) -> Object | None:
        """The object or list at an API path such as /api/v1/nodes; None when there is none, or no such kind."""
        return self._call("GET", path)

    def list(self, path: str) -> list[Object]:
        """The objects of a list; empty when the cluster does not know the kind."""
        return list((self.get(path) or {}).get("items", []))

    def delete(self, path: str) -> bool:
        """Ask for the end of an object, its finalizers first; whether there was one."""
        return self._call("DELETE", path, body={"propagationPolicy": "Background"}) is not None

    def version(self) -> str:
        """Kubernetes version, such as 1.36."""
        found = self._call("GET", "/version") or {}
        return f"{found.get('major', '?')}.{str(found.get('minor', '?')).rstrip('+')}"

    def _call(self, method: str, path: str, body: Object | None = None) -> Object | None:
        resource, _, query = path.partition("?")
        pairs = [tuple(pair.split("=", 1)) for pair in query.split("&") if pair]
        request = self._client.param_serialize(
            method=method,
            resource_path=resource,
            query_params=pairs,
            header_params={"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = self._client.call_api(*request, _request_timeout=(CONNECT_SECONDS, READ_SECONDS))
            content = answer.read()
        except (HTTPError, OSError) as error:
            raise Failure(f"the Kubernetes API of context {self.context} does not answer: {error}") from error
        except ApiException as error:  # credentials plugins fail like this
            raise Failure(f"the Kubernetes API of context {self.context}: {error.reason}") from error
        if answer.status == 404:
            return None
        if answer.status >= 400:
            raise Failure(f"{method} {resource} in context {self.context}: {answer.status} {_message(content)}")
        return dict(json.loads(content))


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")[:200]


def condition(thing: Object, kind: str) -> Object:
    """A condition of an object's status by its type; empty when it has none."""
    conditions = thing.get("status", {}).get("conditions", [])
    return next((dict(entry) for entry in conditions if entry.get("type") == kind), {})
