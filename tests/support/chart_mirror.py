"""Charts of the add-ons for a machine without internet access: packages in a folder (COMFYEKS_CHART_MIRROR).

The two charts of Karpenter are the real ones, from its Go module, with values for a cluster on this machine. The other
two are stand-ins: charts of the same name and version without the programs, which only registries have.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from comfyeks import tools
from comfyeks.charts.crds import karpenter_crds
from comfyeks.versions import VERSIONS

DEVICE_PLUGIN = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "nvidia-device-plugin"},
    "spec": {
        "selector": {"matchLabels": {"app": "stand-in"}},
        "template": {
            "metadata": {"labels": {"app": "stand-in"}},
            "spec": {
                "nodeSelector": {"comfyeks.example/none": "here"},
                "containers": [{"name": "plugin", "image": "stand-in/k8s-device-plugin:0"}],
            },
        },
    },
}
LOAD_BALANCER = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "load-balancer-controller-stand-in"}}


def make_chart_mirror(folder: Path, cluster: dict[str, Any]) -> Path:
    """Packages of the four add-ons below `folder`. `cluster`, of a kubeconfig, is the API server of Karpenter."""
    sources = folder / "sources"
    real = karpenter_crds().parents[2] / "charts"
    for chart in ("karpenter", "karpenter-crd"):
        shutil.copytree(real / chart, sources / chart, copy_function=shutil.copyfile)
        for path in (sources / chart).rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    values = sources / "karpenter" / "values.yaml"
    local = yaml.safe_load(values.read_text())
    local["replicas"] = 1  # a node group has one node here
    # In a pod Karpenter reads its namespace from a file, which does not exist here.
    local["controller"]["env"] = [{"name": "LEADER_ELECTION_NAMESPACE", "value": "kube-system"}]
    # The emulated EKS does not know the API server of this cluster; there is no price list.
    local["settings"] |= {
        "clusterEndpoint": cluster["server"],
        "clusterCABundle": cluster["certificate-authority-data"],
        "isolatedVPC": True,
    }
    values.write_text(yaml.safe_dump(local))
    for chart, content in (("aws-load-balancer-controller", LOAD_BALANCER), ("nvidia-device-plugin", DEVICE_PLUGIN)):
        (sources / chart / "templates").mkdir(parents=True)
        about = {
            "apiVersion": "v2",
            "name": chart,
            "version": VERSIONS["helm_charts"][chart],
            "description": "stand-in",
        }
        (sources / chart / "Chart.yaml").write_text(yaml.safe_dump(about))
        (sources / chart / "templates" / "it.yaml").write_text(yaml.safe_dump(content))
    for source in sources.iterdir():
        version = ["--version", str(VERSIONS["helm_charts"][source.name])]
        packed = [str(tools.helm()), "package", str(source), "--destination", str(folder), *version]
        subprocess.run(packed, check=True, capture_output=True)
    return folder
