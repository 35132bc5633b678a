"""The Helm charts: render and validate them, generate their schemas, tables and values per instance type."""

from __future__ import annotations

from comfyeks.paths import REPO_ROOT

CHARTS_ROOT = REPO_ROOT / "charts"
CHARTS = ("comfyui", "karpenter-gpu")
