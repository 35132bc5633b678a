"""Validates rendered objects offline, against Kubernetes' schemas and the CRDs in their Go modules.

Not checked, because only an API server can: the CRDs' CEL rules, admission, defaults.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from comfyeks.charts.crds import CRD_MODULES, crd_folder
from comfyeks.charts.render import KubernetesObject, YamlLoader

# What EKS supports today; the oldest leaves support in December 2026.
KUBERNETES_VERSIONS = ("1.34", "1.35", "1.36", "1.37")

_CRD_GROUPS = ("karpenter.sh", "karpenter.k8s.aws", "keda.sh", "monitoring.coreos.com", "elbv2.k8s.aws")


def problems(objects: Iterable[KubernetesObject], kubernetes: str) -> list[str]:
    """What this Kubernetes version or a CRD would reject, unknown fields included; one line each."""
    found = []
    for item in objects:
        where = f"{item['kind']}/{item['metadata']['name']}"
        if item["apiVersion"].split("/")[0] in _CRD_GROUPS:
            found += [f"{where}: {problem}" for problem in _crd_problems(item)]
            continue
        try:
            kubernetes_validate.validate(item, kubernetes, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(step) for step in error.path)
            found.append(f"{where} on Kubernetes {kubernetes}: {path}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError:
            found.append(f"{where}: Kubernetes {kubernetes} has no {item['apiVersion']} {item['kind']}")
    return found


def _crd_problems(item: KubernetesObject) -> list[str]:
    schema = crd_schemas().get((item["apiVersion"], item["kind"]))
    if schema is None:
        return [f"there is no {item['apiVersion']} {item['kind']} in the CRDs"]
    validator = jsonschema.Draft7Validator(schema)
    errors = sorted(validator.iter_errors(item), key=lambda error: list(map(str, error.path)))
    return [f"{'.'.join(str(step) for step in error.path)}: {error.message}" for error in errors]


@cache
def crd_schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """(apiVersion, kind) → JSON schema that rejects unknown fields, as `kubectl apply` with strict validation does."""
    schemas = {}
    for module, (_, names) in CRD_MODULES.items():
        for name in names:
            crd = yaml.load((crd_folder(module) / name).read_text(), Loader=YamlLoader)  # noqa: S506 - a safe loader
            group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
            for version in crd["spec"]["versions"]:
                schemas[f"{group}/{version['name']}", kind] = version["schema"]["openAPIV3Schema"]
    for schema in schemas.values():
        _reject_unknown_fields(schema)
        # The CRDs do not describe metadata, which the API server validates.
        schema["properties"]["metadata"] = {"type": "object"}
    return schemas


def _reject_unknown_fields(schema: dict[str, Any]) -> None:
    """Forbid other properties in every object that lists its own; translate OpenAPI's `nullable` into JSON Schema."""
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    children: list[Any] = [
        *schema.get("properties", {}).values(),
        schema.get("items"),
        schema.get("additionalProperties"),
    ]
    for child in children:
        if isinstance(child, dict):
            _reject_unknown_fields(child)
