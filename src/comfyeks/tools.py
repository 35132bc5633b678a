"""Finds the programs that commands call. scripts/bootstrap.py has checked their versions."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from comfyeks.errors import UserError
from comfyeks.paths import TOOLS


def terraform() -> Path:
    found = shutil.which("terraform")
    if found is None:
        raise UserError("terraform is not on PATH; to install it, see developer.hashicorp.com/terraform/install")
    return Path(found)


def helm() -> Path:
    """COMFYEKS_HELM, else the one that `make install` built (if PATH had none or an old one), else the one on PATH."""
    if named := os.environ.get("COMFYEKS_HELM"):
        return Path(named).absolute()
    built = TOOLS / "bin" / "helm"
    if built.exists():
        return built
    found = shutil.which("helm")
    if found is None:
        raise UserError(
            "helm is not on PATH: `make install` builds it with Go; for binaries, see helm.sh/docs/intro/install"
        )
    return Path(found)


def run_helm(
    *arguments: str | Path,
    kubeconfig: Path | None = None,
    stdin: str = "",
    folder: Path | None = None,
    pass_fds: Sequence[int] = (),
    seconds: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """What helm prints, and its exit code.

    Args:
        kubeconfig: instead of the user's; `os.devnull` for a helm that must not reach any cluster.
        folder: to run in; the current one by default.
        pass_fds: file descriptors that stay open in helm.
        seconds: raises subprocess.TimeoutExpired when it takes longer.
    """
    return subprocess.run(
        [helm(), *arguments],
        env={**os.environ, **({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})},
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        pass_fds=tuple(pass_fds),
        timeout=seconds,
        check=False,
    )


def kubectl() -> Path:
    found = shutil.which("kubectl")
    if found is None:
        raise UserError("kubectl is not on PATH; to install it, see kubernetes.io/docs/tasks/tools")
    return Path(found)
