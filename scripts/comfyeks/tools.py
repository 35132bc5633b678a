"""The programs that we call, and where they are. Their versions are checked before by scripts/bootstrap.py."""

from __future__ import annotations

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
    """The helm on PATH, else the one that `make setup` built."""
    found = shutil.which("helm")
    if found is not None:
        return Path(found)
    built = TOOLS / "bin" / "helm"
    if not built.exists():
        raise UserError(
            "helm is not there: run `make setup`, which builds it with Go, or install it (helm.sh/docs/intro/install)"
        )
    return built


def kubectl() -> Path:
    found = shutil.which("kubectl")
    if found is None:
        raise UserError("kubectl is not on PATH: kubernetes.io/docs/tasks/tools tells how to get it")
    return Path(found)
