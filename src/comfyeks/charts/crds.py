"""The CRDs that the charts' objects need, from the Go modules that define them."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

from comfyeks.errors import OperationError, UserError
from comfyeks.paths import REPO_ROOT

_CRD_PIN = REPO_ROOT / "tools" / "crds"
_KARPENTER = "github.com/aws/karpenter-provider-aws"
# Go module → folder of its CRDs, and the files of those that the charts use.
CRD_MODULES = {
    _KARPENTER: (
        "pkg/apis/crds",
        ("karpenter.sh_nodepools.yaml", "karpenter.k8s.aws_ec2nodeclasses.yaml"),
    ),
    "github.com/kedacore/keda/v2": ("config/crd/bases", ("keda.sh_scaledobjects.yaml",)),
    "sigs.k8s.io/aws-load-balancer-controller": (
        "config/crd/bases",
        ("elbv2.k8s.aws_targetgroupbindings.yaml",),
    ),
    "github.com/prometheus-operator/prometheus-operator": (
        "example/prometheus-operator-crd",
        ("monitoring.coreos.com_podmonitors.yaml", "monitoring.coreos.com_prometheusrules.yaml"),
    ),
}


def karpenter_crds() -> Path:
    """Return the folder of Karpenter's CRDs."""
    return crd_folder(_KARPENTER)


@cache
def crd_folder(module: str) -> Path:
    """Return the folder of a Go module's CRDs in Go's cache: the version of tools/crds/go.mod, verified by its go.sum.

    Raises:
        UserError: Go is not on PATH.
        OperationError: Go could not download the module.
    """
    if shutil.which("go") is None:
        raise UserError(f"go is not on PATH: it downloads the CRDs of {module}; install it, see go.dev/doc/install")
    argv = ["go", "mod", "download", "-json", module]
    done = subprocess.run(argv, cwd=_CRD_PIN, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OperationError(f"`{' '.join(argv)}` in {_CRD_PIN} failed: {done.stderr.strip() or done.stdout.strip()}")
    return Path(json.loads(done.stdout)["Dir"]) / CRD_MODULES[module][0]
