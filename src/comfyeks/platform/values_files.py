"""The values files and outputs.json: written from Terraform's outputs, never edited, ignored by git."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from comfyeks.deployment import Deployment
from comfyeks.files import write_atomically
from comfyeks.image import build as image_build

OUTPUTS = "outputs.json"


def values_files(deployment: Deployment, outputs: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """Return path and content of every values file, from the platform's outputs."""
    values = outputs["helm_values"]
    return {
        deployment.chart_values("karpenter-gpu"): values["karpenter_gpu"],
        deployment.chart_values("comfyui"): _with_image_tag(deployment, values["comfyui"]),
        **{deployment.addon_values(name): content for name, content in values["addons"].items()},
    }


def _with_image_tag(deployment: Deployment, values: dict[str, Any]) -> dict[str, Any]:
    """Add the image tag of the settings, else the one that `comfyeks image build` gives to this checkout's image."""
    chosen = deployment.settings().image_tag or image_build.tag()
    return {**values, "image": {**values["image"], "tag": chosen}}


def write(deployment: Deployment, outputs: dict[str, Any]) -> list[Path]:
    """Write all files, remove those of former add-ons, and return the paths of the values files."""
    files = values_files(deployment, outputs)
    for stale in set(deployment.addon_values_folder.glob("*.values.yaml")) - set(files):
        stale.unlink()
    header = f"# {deployment.name} in {deployment.account}, {deployment.region}. Written by `comfyeks infra apply`.\n"
    for path, content in files.items():
        write_atomically(path, header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    write_atomically(deployment.dir / OUTPUTS, json.dumps(outputs, indent=2) + "\n")
    return sorted(files)


def remove(deployment: Deployment) -> None:
    """Remove the files that `write` wrote, after the platform is destroyed."""
    for path in (*deployment.dir.glob("*.values.yaml"), deployment.dir / OUTPUTS):
        path.unlink(missing_ok=True)
    shutil.rmtree(deployment.addon_values_folder, ignore_errors=True)
