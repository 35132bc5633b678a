"""kubectl contexts: which one leads to a deployment's cluster, and how to get one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from comfyeks.aws_account import find_cluster
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError, UserError


def read(env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return `current-context` and `contexts` (name → cluster), merged as kubectl does: the first file wins."""
    env = os.environ if env is None else env
    paths = [Path(part) for part in env.get("KUBECONFIG", "").split(os.pathsep) if part]
    paths = paths or [Path(env.get("HOME", "~")).expanduser() / ".kube" / "config"]
    merged: dict[str, Any] = {"current-context": None, "contexts": {}}
    for path in paths:
        if not path.exists():
            continue
        try:
            config = yaml.safe_load(path.read_text()) or {}
            contexts = {entry["name"]: entry["context"]["cluster"] for entry in config.get("contexts") or []}
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a kubeconfig: {error}") from error
        merged["current-context"] = merged["current-context"] or config.get("current-context") or None
        merged["contexts"] = {**contexts, **merged["contexts"]}
    return merged


def checked_context(context: str | None, deployment: Deployment, kubeconfig: dict[str, Any] | None = None) -> str:
    """Return `context`, or the current one if it is None. Raises UserError if it leads to another cluster."""
    kubeconfig = read() if kubeconfig is None else kubeconfig
    remedy = f"`aws eks update-kubeconfig --region {deployment.region} --name {deployment.name}` creates the right one"
    chosen = context or kubeconfig["current-context"]
    if chosen is None:
        raise UserError(f"no kubectl context is chosen; {remedy}")
    cluster = kubeconfig["contexts"].get(chosen)
    if cluster is None:
        known = ", ".join(sorted(kubeconfig["contexts"])) or "none"
        raise UserError(f"there is no kubectl context {chosen!r} (there are: {known}); {remedy}")
    if not leads_to(cluster, deployment):
        raise UserError(
            f"kubectl context {chosen!r} points to cluster {cluster!r}, not to {deployment.name} in account "
            f"{deployment.account}, {deployment.region}: nothing was changed; {remedy}"
        )
    return str(chosen)


def leads_to(cluster: str, deployment: Deployment) -> bool:
    """Return whether a kubeconfig's cluster is the deployment's: by ARN, as NAME.REGION.eksctl.io, or by name alone."""
    if cluster.startswith("arn:"):
        region, account, resource = (cluster.split(":", 5) + [""] * 6)[3:6]
        return (region, account, resource) == (deployment.region, deployment.account, f"cluster/{deployment.name}")
    return cluster in (deployment.name, f"{deployment.name}.{deployment.region}.eksctl.io")


def existing_context(deployment: Deployment, wanted: str | None) -> str | None:
    """Return the kubectl context that leads to the cluster, None if it has to be created.

    Raises UserError if the `wanted` one leads elsewhere, or the current one does although the cluster exists.
    """
    kubeconfig = read()
    if wanted is not None:
        return checked_context(wanted, deployment, kubeconfig)
    current = kubeconfig["current-context"]
    if current is None or current not in kubeconfig["contexts"]:
        return None
    if leads_to(kubeconfig["contexts"][current], deployment):
        return str(current)
    return checked_context(None, deployment, kubeconfig) if find_cluster(deployment) else None


def add_context(deployment: Deployment) -> str:
    """Add the cluster to the kubeconfig as its current context, and return that context's name.

    Raises OperationError with the AWS CLI's message.
    """
    argv = ["aws", "eks", "update-kubeconfig", "--region", deployment.region, "--name", deployment.name]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise OperationError(
            "aws is not on PATH: install the AWS CLI, from which kubectl and helm get their credentials for the cluster"
        ) from error
    if done.returncode:
        raise OperationError(f"`{' '.join(argv)}` failed: {' '.join(done.stderr.split())}")
    return checked_context(None, deployment)
