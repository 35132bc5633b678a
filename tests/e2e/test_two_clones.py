"""A deployment belongs to the account, not to the checkout that created it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("platform")]


def functions(platform: Platform) -> list[str]:
    answer = platform.client("lambda").list_functions()["Functions"]
    return [f["FunctionName"] for f in answer if f["FunctionName"].startswith("comfyui-models-")]


def mappings(platform: Platform) -> list[str]:
    return [m["UUID"] for m in platform.client("lambda").list_event_source_mappings()["EventSourceMappings"]]


def test_deploy_from_one_clone_redeploy_and_delete_from_another(platform: Platform) -> None:
    stage = platform.deployment.stage
    assert functions(platform) == [f"comfyui-models-{stage}-sync"]
    before = mappings(platform)
    assert len(before) == 1

    other = platform.new_clone("B")
    other.comfyeks("events", "configure")
    # What a person types, after `configure` wrote Chalice's files.
    redeploy = subprocess.run(
        [Path(sys.executable).parent / "chalice", "deploy", "--stage", stage],
        cwd=other.root / "lambda-chalice", env=other.env, capture_output=True, text=True,
    )  # fmt: skip
    assert redeploy.returncode == 0, redeploy.stderr
    assert mappings(platform) == before, "the second clone must update the mapping, not create another one"

    other.comfyeks("events", "delete")
    assert functions(platform) == []
    assert mappings(platform) == []

    platform.clone.comfyeks("events", "deploy")
    assert functions(platform) == [f"comfyui-models-{stage}-sync"]
    assert len(mappings(platform)) == 1


def test_a_second_apply_from_another_clone_plans_no_change(platform: Platform) -> None:
    other = platform.new_clone("C")
    answer = other.comfyeks("infra", "apply")
    for root in ("data", "platform"):
        assert re.search(rf"{root} +No changes", answer.stderr), answer.stderr[-2000:]
    generated = sorted(p.name for p in (other.root / ".comfyeks" / platform.deployment.name).glob("*.values.yaml"))
    assert generated == ["comfyui.values.yaml", "karpenter-gpu.values.yaml"]
    assert json.loads((other.root / "lambda-chalice/.chalice/config.json").read_text())["stages"]
    assert other.changes() == ""
