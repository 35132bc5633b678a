"""Everything that is generated and committed in charts/: schemas, README tables, values per instance type."""

from __future__ import annotations

from pathlib import Path

from comfyeks.charts import CHARTS, CHARTS_ROOT, instance_types, schema


def files() -> dict[Path, str]:
    """Path → text that it must have."""
    wanted = instance_types.generate()
    for chart in CHARTS:
        wanted |= schema.generate(CHARTS_ROOT / chart)
    return wanted


def stale() -> list[Path]:
    """Files that differ from what would be generated, are missing, or were generated for a type that is gone."""
    wanted = files()
    there = set(CHARTS_ROOT.glob("*/instance-types/*"))
    different = {path for path, text in wanted.items() if not path.exists() or path.read_text() != text}
    return sorted(different | (there - set(wanted)))


def write() -> list[Path]:
    """Make every file what it must be; the ones that changed."""
    changed = stale()
    wanted = files()
    for path in changed:
        if path in wanted:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path])
        else:
            path.unlink()
    return changed
