"""The CRDs of the add-ons that a real cluster has in addition to Karpenter, from their Go modules."""

from __future__ import annotations

from typing import Any

import yaml

from comfyeks.charts.crds import crd_folder
from comfyeks.charts.render import YamlLoader

_FILES = {
    "github.com/kedacore/keda/v2": ("keda.sh_scaledobjects.yaml", "keda.sh_triggerauthentications.yaml"),
    "github.com/prometheus-operator/prometheus-operator": (
        "monitoring.coreos.com_podmonitors.yaml",
        "monitoring.coreos.com_prometheusrules.yaml",
    ),
    "sigs.k8s.io/aws-load-balancer-controller": ("elbv2.k8s.aws_targetgroupbindings.yaml",),
}


def other_addons() -> list[dict[str, Any]]:
    """CustomResourceDefinitions of KEDA, Prometheus' operator and the load balancer controller."""
    return [
        yaml.load((crd_folder(module) / name).read_text(), Loader=YamlLoader)  # noqa: S506 - a safe loader
        for module, names in _FILES.items()
        for name in names
    ]
