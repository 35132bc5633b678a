"""The Helm charts of this project: where they are, what they render, what an instance type has room for."""

from __future__ import annotations

from comfyeks.paths import REPO_ROOT

CHARTS_ROOT = REPO_ROOT / "charts"
CHARTS = ("comfyui", "karpenter-gpu")
