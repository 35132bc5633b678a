"""The generated files in charts/: schemas, README tables, values per instance type."""

from __future__ import annotations

from pathlib import Path

import yaml

from comfyeks.charts import CHARTS, CHARTS_ROOT
from comfyeks.charts.instance_types import read_table
from comfyeks.dev import chart_schema


def files() -> dict[Path, str]:
    """Path → text of every generated file."""
    wanted = instance_type_values()
    for chart in CHARTS:
        wanted |= chart_schema.generate(CHARTS_ROOT / chart)
    return wanted


def stale() -> list[Path]:
    """Generated files that are out of date, missing, or for an instance type that was removed."""
    wanted = files()
    existing = set(CHARTS_ROOT.glob("*/instance-types/*"))
    different = {path for path, text in wanted.items() if not path.exists() or path.read_text() != text}
    return sorted(different | (existing - set(wanted)))


def write() -> list[Path]:
    """Write or remove every stale file; return those that changed."""
    changed = stale()
    wanted = files()
    for path in changed:
        if path in wanted:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path])
        else:
            path.unlink()
    return changed


class _IndentedLists(yaml.SafeDumper):
    """Indents lists below their key, as all YAML files of this project do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def instance_type_values() -> dict[Path, str]:
    """Path → text of the values files, one per chart and instance type."""
    files = {}
    for kind in read_table().values():
        has = f"{kind.vcpu} vCPU, {kind.memory_mib // 1024} GiB, {kind.gpu_name.upper()} with {kind.gpu_memory_mib} MiB"
        disk = f"{kind.nvme_total_gb} GB NVMe, of which {kind.models_bytes // 10**9} GB for models"
        for chart, values in (("comfyui", kind.comfyui_values()), ("karpenter-gpu", kind.karpenter_values())):
            files[CHARTS_ROOT / chart / "instance-types" / f"{kind.name}.yaml"] = (
                f"# {kind.name}: {has}, {disk}.\n# Made by `comfyeks dev charts generate`.\n"
                + yaml.dump(values, Dumper=_IndentedLists, sort_keys=False)
            )
    return files
