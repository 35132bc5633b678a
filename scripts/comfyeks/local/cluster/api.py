"""The API server as this package sees it: objects are plain dictionaries, kinds are found by discovery.

api = Api(kubeconfig)
[pod] = api.list("Pod", "comfyui", label_selector="app=x")
api.patch("Pod", "comfyui", pod["metadata"]["name"], {"status": …}, subresource="status")
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import config
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError, ResourceNotFoundError

Object = dict[str, Any]

FIELD_MANAGER = "comfyeks-local"
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
}
_MERGE = "application/merge-patch+json"
_TIMEOUT_SECONDS = 30

# What a call raises when the API server is not there or not answering.
Unreachable = (urllib3.exceptions.HTTPError, OSError)
Refused = ApiException

__all__ = [
    "Api",
    "ConflictError",
    "NotFoundError",
    "Object",
    "Refused",
    "Unreachable",
    "condition",
    "discovery_cache",
    "reason",
]


class Api:
    """A client with the rights of a kubeconfig's current context. One per thread: discovery is not locked."""

    def __init__(self, kubeconfig: Path) -> None:
        client = config.new_client_from_config(str(kubeconfig))  # type: ignore[no-untyped-call]
        client.configuration.proxy = None  # loopback, whatever the user's environment says
        client.rest_client = type(client.rest_client)(client.configuration)
        self._client = DynamicClient(  # type: ignore[no-untyped-call]
            client, cache_file=str(discovery_cache(kubeconfig))
        )

    def get(self, kind: str, namespace: str | None, name: str) -> Object | None:
        """The object, None when there is none."""
        try:
            return _plain(self._resource(kind).get(name=name, namespace=namespace, _request_timeout=_TIMEOUT_SECONDS))
        except NotFoundError:
            return None

    def list(self, kind: str, namespace: str | None = None, **selectors: str) -> list[Object]:
        """All objects of a kind (`label_selector`, `field_selector`); none when the cluster does not know the kind."""
        try:
            resource = self._resource(kind)
        except ResourceNotFoundError:
            return []
        answer = resource.get(namespace=namespace, _request_timeout=_TIMEOUT_SECONDS, **selectors)
        return [dict(item) for item in _plain(answer)["items"]]

    def create(self, item: Object) -> Object:
        """Raises ConflictError when it is there already."""
        resource = self._resource(item["kind"], item["apiVersion"])
        answer = resource.create(body=item, namespace=item["metadata"].get("namespace"))
        return _plain(answer)

    def apply(self, item: Object, *, dry_run: bool = False) -> Object:
        """Server-side apply; with `dry_run` only what the API server says of it. Raises Refused."""
        resource = self._resource(item["kind"], item["apiVersion"])
        extra = {"dry_run": "All"} if dry_run else {}
        answer = resource.server_side_apply(
            body=item,
            namespace=item["metadata"].get("namespace"),
            field_manager=FIELD_MANAGER,
            force_conflicts=True,
            **extra,
        )
        return _plain(answer)

    def patch(
        self, kind: str, namespace: str | None, name: str, body: Mapping[str, Any], subresource: str | None = None
    ) -> Object:
        """Merge patch. Raises NotFoundError."""
        resource = self._resource(kind)
        target = resource.subresources[subresource] if subresource else resource
        return _plain(target.patch(body=dict(body), name=name, namespace=namespace, content_type=_MERGE))

    def delete(self, kind: str, namespace: str | None, name: str, grace_seconds: int | None = None) -> None:
        """Nothing happens when it is not there."""
        body = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        try:
            self._resource(kind).delete(name=name, namespace=namespace, body=body)
        except NotFoundError:
            return

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Any path of the API server: JSON where it answers JSON, text elsewhere."""
        answer = self._client.request(method, path, body=body, serialize=False, _request_timeout=_TIMEOUT_SECONDS)
        text = answer.data.decode()
        try:
            return json.loads(text)
        except ValueError:
            return text

    def _resource(self, kind: str, api_version: str | None = None) -> Any:
        return self._client.resources.get(api_version=api_version or _GROUPS.get(kind, "v1"), kind=kind)


def condition(item: Mapping[str, Any], kind: str) -> bool:
    """Whether a condition of an object is true."""
    conditions = item.get("status", {}).get("conditions") or []
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)


def discovery_cache(kubeconfig: Path) -> Path:
    """Where a client of this kubeconfig keeps what kinds there are."""
    return kubeconfig.with_name(f"{kubeconfig.name}.discovery.json")


def reason(error: ApiException) -> str:
    """What the API server said, in its own words."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(error.body or "")["message"])
    return f"{error.status} {error.reason}"


def _plain(answer: Any) -> Object:
    item: Object = answer.to_dict()
    return item
