"""The programs that we call, and where they are. Their versions are checked before by scripts/bootstrap.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from comfyeks.errors import UserError
from comfyeks.paths import TOOLS


def terraform() -> Path:
    found = shutil.which("terraform")
    if found is None:
        raise UserError("terraform is not on PATH: developer.hashicorp.com/terraform/install tells how to get it")
    return Path(found)


def helm() -> Path:
    """What COMFYEKS_HELM names, else what `make setup` built because PATH had none or an old one, else that on PATH."""
    if named := os.environ.get("COMFYEKS_HELM"):
        return Path(named).absolute()
    built = TOOLS / "bin" / "helm"
    if built.exists():
        return built
    found = shutil.which("helm")
    if found is None:
        raise UserError("helm is not there: `make setup` builds it with Go; helm.sh/docs/intro/install has binaries")
    return Path(found)


def kubectl() -> Path:
    found = shutil.which("kubectl")
    if found is None:
        raise UserError("kubectl is not on PATH: kubernetes.io/docs/tasks/tools tells how to get it")
    return Path(found)
