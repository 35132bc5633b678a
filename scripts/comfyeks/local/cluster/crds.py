"""The CRDs of what is beside Karpenter on a real cluster: from their Go modules, and one written down here."""

from __future__ import annotations

from typing import Any

import yaml

from comfyeks.charts.render import YamlLoader
from comfyeks.charts.validation import TARGET_GROUP_BINDING, crd_folder

_FILES = {
    "github.com/kedacore/keda/v2": ("keda.sh_scaledobjects.yaml", "keda.sh_triggerauthentications.yaml"),
    "github.com/prometheus-operator/prometheus-operator": (
        "monitoring.coreos.com_podmonitors.yaml",
        "monitoring.coreos.com_prometheusrules.yaml",
    ),
}


def others() -> list[dict[str, Any]]:
    """CustomResourceDefinitions of KEDA, Prometheus' operator and the load balancer controller."""
    found = [
        yaml.load((crd_folder(module) / name).read_text(), Loader=YamlLoader)  # noqa: S506 - a safe loader
        for module, names in _FILES.items()
        for name in names
    ]
    return [*found, _target_group_binding()]


def _target_group_binding() -> dict[str, Any]:
    """That CRD is in no module that can be downloaded: the fields that its documentation names."""
    names = {"kind": "TargetGroupBinding", "plural": "targetgroupbindings", "singular": "targetgroupbinding"}
    # apiVersion, kind and metadata are the API server's own.
    schema = {"type": "object", "properties": {"spec": _open(TARGET_GROUP_BINDING["properties"]["spec"])}}
    version = {
        "name": "v1beta1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "targetgroupbindings.elbv2.k8s.aws"},
        "spec": {"group": "elbv2.k8s.aws", "names": names, "scope": "Namespaced", "versions": [version]},
    }


def _open(schema: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema → what a CRD may say: each value has one type, an object without fields keeps what it is given."""
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        return {"x-kubernetes-int-or-string": True}
    opened = {key: value for key, value in schema.items() if key not in ("properties", "type")} | {"type": kind}
    if kind == "object":
        fields = schema.get("properties")
        if fields:
            opened["properties"] = {name: _open(field) for name, field in fields.items()}
        elif fields is None:
            opened["x-kubernetes-preserve-unknown-fields"] = True
    return opened
