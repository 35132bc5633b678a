"""What upgrades must not change: the immutable parts of a release's objects.

    .venv/bin/python -m tests.charts.released      writes released/<version>.yaml of the current chart, at each release

Each file has values of that release and the immutable parts of its objects; later charts must render the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from comfyeks.charts import CHARTS_ROOT
from comfyeks.charts.render import KubernetesObject, Rendered, render
from tests.charts.harness import SCENARIOS

FOLDER = Path(__file__).with_name("released")
KEPT = ("minimal", "everything", "efs", "mount", "mountpoint", "schedule")


def immutable(rendered: Rendered) -> dict[str, Any]:
    """Kind/name → fields that the API server refuses to change."""
    return {f"{item['kind']}/{item['metadata']['name']}": _parts(item) for item in rendered if _parts(item)}


def _parts(item: KubernetesObject) -> dict[str, Any]:
    spec = item.get("spec", {})
    match item["kind"]:
        case "Deployment":
            return {"selector": spec["selector"]}
        case "PersistentVolumeClaim":
            return dict(spec)
        case "PersistentVolume":
            return {key: spec[key] for key in ("csi", "hostPath", "claimRef", "storageClassName") if key in spec}
        case "TargetGroupBinding":
            return {"targetGroupARN": spec["targetGroupARN"], "targetType": spec["targetType"]}
        case _:
            return {}


def main() -> None:
    version = yaml.safe_load((CHARTS_ROOT / "comfyui" / "Chart.yaml").read_text())["version"]
    kept = {}
    for scenario in KEPT:
        file = SCENARIOS["comfyui", scenario]
        objects = immutable(render("comfyui", files=[file]))
        kept[scenario] = {"values": yaml.safe_load(file.read_text()), "objects": objects}
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{version}.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))


if __name__ == "__main__":
    main()
