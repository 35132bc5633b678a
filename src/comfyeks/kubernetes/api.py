"""The API of a cluster, as plain dictionaries, by path (`Cluster`) or by kind and name (`Api`).

cluster = Cluster("a-context")
cluster.list("/apis/karpenter.sh/v1/nodepools")
Api(cluster).patch("Pod", "comfyui", "comfyui-0", {"status": …}, subresource="status")
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from comfyeks.errors import OperationError, UserError

Object = dict[str, Any]

CONNECT_SECONDS, READ_SECONDS = 10, 30
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
FIELD_MANAGER = "comfyeks"
# Kinds that are not in v1.
_GROUPS = {
    "Deployment": "apps/v1",
    "ReplicaSet": "apps/v1",
    "CSINode": "storage.k8s.io/v1",
    "CSIDriver": "storage.k8s.io/v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "Lease": "coordination.k8s.io/v1",
    "CustomResourceDefinition": "apiextensions.k8s.io/v1",
    "NodePool": "karpenter.sh/v1",
    "NodeClaim": "karpenter.sh/v1",
    "EC2NodeClass": "karpenter.k8s.aws/v1",
    "ScaledObject": "keda.sh/v1alpha1",
}


class UnreachableError(OperationError):
    """The API server cannot be reached, or does not answer in time."""


class RefusedError(OperationError):
    """The API server refused the request. `message` is its own text."""

    def __init__(self, text: str, message: str) -> None:
        super().__init__(text)
        self.message = message


class NotFoundError(RefusedError):
    """The object does not exist, or the cluster does not know its kind."""


class ConflictError(RefusedError):
    """The object exists already, or was changed in the meantime."""


_REFUSALS = {404: NotFoundError, 409: ConflictError}


class Cluster:
    """The API server behind a kubectl context. Methods raise UnreachableError and RefusedError unless noted."""

    def __init__(self, context: str | None = None, kubeconfig: Path | None = None) -> None:
        """`context`: None for the current one. `kubeconfig`: instead of the user's, of a cluster on this machine.

        Raises UserError when the kubeconfig has no such context or cannot be used.
        """
        self.where = f"context {context}" if context else str(kubeconfig)
        files = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG")  # the library looks only at its import
        try:
            self._client: Any = config.new_client_from_config(files, context)  # type: ignore[no-untyped-call]
        except (ConfigException, OSError) as error:
            raise UserError(f"kubectl {self.where} cannot be used: {error}") from error
        if kubeconfig:
            self._client.configuration.proxy = None  # loopback, whatever the user's environment says
            self._client.rest_client = type(self._client.rest_client)(self._client.configuration)

    def get(self, path: str) -> Object | None:
        """Return the object or list at an API path such as /api/v1/nodes; None if it or its kind does not exist."""
        try:
            return dict(json.loads(self.request("GET", path)))
        except NotFoundError:
            return None

    def list(self, path: str) -> list[Object]:
        """Return the objects of a list; empty if the cluster does not know the kind."""
        return list((self.get(path) or {}).get("items", []))

    def post(self, path: str, body: Object) -> Object:
        """Create an object. Raises ConflictError if it exists already."""
        return dict(json.loads(self.request("POST", path, body)))

    def patch(self, path: str, body: Mapping[str, Any], kind: str = MERGE) -> Object:
        """Change an object by a merge patch, or by another `kind` of patch. Raises NotFoundError."""
        return dict(json.loads(self.request("PATCH", path, body, kind)))

    def delete(self, path: str, grace_seconds: int | None = None) -> bool:
        """Request the deletion of an object or list, which ends after its finalizers; return whether it existed."""
        grace = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        try:
            self.request("DELETE", path, {"propagationPolicy": "Background", **grace})
        except NotFoundError:
            return False
        return True

    def log(self, namespace: str, pod: str, container: str, lines: int) -> str:
        """Return the last lines that a container wrote. Raises RefusedError also if its node does not return them."""
        path = f"{path_of('Pod', namespace, pod)}/log?container={container}&tailLines={lines}"
        return self.request("GET", path)

    def version(self) -> str:
        """Return the Kubernetes version, such as 1.36."""
        found = self.get("/version") or {}
        return f"{found.get('major', '?')}.{str(found.get('minor', '?')).rstrip('+')}"

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, content_type: str = "application/json"
    ) -> str:
        """Send a request and return the text of the answer."""
        resource, _, query = path.partition("?")
        request = self._client.param_serialize(
            method=method,
            resource_path=resource,
            query_params=[tuple(pair.split("=", 1)) for pair in query.split("&") if pair],
            header_params={"Accept": "application/json, */*", "Content-Type": content_type},  # a log is not JSON
            # The library serializes a body only if its content type names JSON.
            body=dict(body) if body is not None and content_type != APPLY else json.dumps(body) if body else None,
            auth_settings=["BearerToken"],
        )
        try:
            answer = self._client.call_api(*request, _request_timeout=(CONNECT_SECONDS, READ_SECONDS))
            content: bytes = answer.read()
        except (HTTPError, OSError) as error:
            why = getattr(error, "reason", None) or error  # without the text about retries
            raise UnreachableError(f"the Kubernetes API of {self.where} does not answer: {why}") from error
        except ApiException as error:  # credentials plugins fail like this
            raise UnreachableError(f"the Kubernetes API of {self.where}: {error.reason}") from error
        if answer.status >= 400:
            message = _message(content)
            refusal = _REFUSALS.get(answer.status, RefusedError)
            raise refusal(f"{method} {resource} in {self.where}: {answer.status} {message}", message)
        return content.decode()


class Api:
    """Objects of a cluster by kind and name. A kind that is neither in v1 nor in `_GROUPS` needs its `apiVersion`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def get(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """Return the object, None if it does not exist."""
        return self.cluster.get(path_of(kind, namespace, name))

    def list(self, kind: str, namespace: str | None = None, **selectors: str) -> list[Object]:
        """Return all objects of a kind (`labelSelector`, `fieldSelector`); none if the cluster does not know it."""
        query = "&".join(f"{name}={value}" for name, value in selectors.items())
        return self.cluster.list(f"{path_of(kind, namespace)}?{query}")

    def create(self, item: Object) -> Object:
        """Create an object. Raises ConflictError if it exists already."""
        return self.cluster.post(
            path_of(item["kind"], item["metadata"].get("namespace"), None, item["apiVersion"]), item
        )

    def apply(self, item: Object, *, dry_run: bool = False) -> Object:
        """Apply an object on the server's side; with `dry_run` only have the API server validate it."""
        metadata = item["metadata"]
        path = path_of(item["kind"], metadata.get("namespace"), metadata["name"], item["apiVersion"])
        query = f"?fieldManager={FIELD_MANAGER}&force=true" + ("&dryRun=All" if dry_run else "")
        return self.cluster.patch(path + query, item, APPLY)

    def patch(
        self, kind: str, namespace: str | None, name: str, body: Mapping[str, Any], subresource: str | None = None
    ) -> Object:
        """Change an object by a merge patch. Raises NotFoundError."""
        return self.cluster.patch(path_of(kind, namespace, name) + (f"/{subresource}" if subresource else ""), body)

    def delete(self, kind: str, namespace: str | None, name: str, grace_seconds: int | None = None) -> bool:
        """Request the deletion of an object; return whether it existed."""
        return self.cluster.delete(path_of(kind, namespace, name), grace_seconds)


def path_of(kind: str, namespace: str | None = None, name: str | None = None, api_version: str | None = None) -> str:
    """Return the API path of a kind's objects, or of that one; without `namespace` in all namespaces.

    >>> path_of("NodePool", name="gpu")
    '/apis/karpenter.sh/v1/nodepools/gpu'
    """
    version = api_version or _GROUPS.get(kind, "v1")
    folder = ["apis" if "/" in version else "api", version, *(["namespaces", namespace] if namespace else [])]
    return "/" + "/".join([*folder, _plural(kind), *([name] if name else [])])


def _plural(kind: str) -> str:
    """Return the plural as the API spells it: pods, policies, classes; Endpoints is one already."""
    low = kind.lower()
    if low.endswith("y"):
        return low.removesuffix("y") + "ies"
    return low + ("es" if low.endswith("ss") else "" if low.endswith("s") else "s")


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors="replace")[:200]


def condition(item: Mapping[str, Any], kind: str) -> Object:
    """Return a condition of an object's status by its type; empty if it has none."""
    conditions = item.get("status", {}).get("conditions") or []
    return next((dict(entry) for entry in conditions if entry.get("type") == kind), {})


def is_true(item: Mapping[str, Any], kind: str) -> bool:
    """Return whether a condition of an object is true."""
    return condition(item, kind).get("status") == "True"
