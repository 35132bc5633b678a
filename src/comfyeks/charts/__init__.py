"""The Helm charts of this project: where they are, how they render, and the values for each instance type."""

from __future__ import annotations

from comfyeks.paths import REPO_ROOT

CHARTS_ROOT = REPO_ROOT / "charts"
CHARTS = ("comfyui", "karpenter-gpu")
