"""The files that other rooms read: written from Terraform's outputs, never edited, ignored by git."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from comfyeks import image, settings
from comfyeks.deployment import Deployment
from comfyeks.files import write_atomically

OUTPUTS = "outputs.json"
ADDONS = "addons"


def values_files(deployment: Deployment, outputs: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """Path and content of every values file that the platform's outputs call for."""
    values = outputs["helm_values"]
    return {
        deployment.dir / "karpenter-gpu.values.yaml": values["karpenter_gpu"],
        deployment.dir / "comfyui.values.yaml": _with_image_tag(deployment, values["comfyui"]),
        **{addon_file(deployment, name): content for name, content in values["addons"].items()},
    }


def _with_image_tag(deployment: Deployment, values: dict[str, Any]) -> dict[str, Any]:
    """The image that the settings name, else the one that `make image` makes of this checkout."""
    chosen = settings.of(deployment).image_tag or image.tag()
    return {**values, "image": {**values["image"], "tag": chosen}}


def addon_file(deployment: Deployment, name: str) -> Path:
    return deployment.dir / ADDONS / f"{name}.values.yaml"


def write(deployment: Deployment, outputs: dict[str, Any]) -> list[Path]:
    """Write all files, and remove those of add-ons that are gone; the paths of the values files."""
    files = values_files(deployment, outputs)
    for stale in set((deployment.dir / ADDONS).glob("*.values.yaml")) - set(files):
        stale.unlink()
    header = f"# {deployment.name} in {deployment.account}, {deployment.region}. Written by `comfyeks infra apply`.\n"
    for path, content in files.items():
        write_atomically(path, header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    write_atomically(deployment.dir / OUTPUTS, json.dumps(outputs, indent=2) + "\n")
    return sorted(files)


def remove(deployment: Deployment) -> None:
    """Remove what `write` wrote: it speaks of a platform that is gone."""
    for path in (*deployment.dir.glob("*.values.yaml"), deployment.dir / OUTPUTS):
        path.unlink(missing_ok=True)
    shutil.rmtree(deployment.dir / ADDONS, ignore_errors=True)
