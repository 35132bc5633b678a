"""checkov over what is deployed: both Terraform roots with every switch on, and what both charts render by default."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import hcl2
import pytest

from comfyeks.charts.render import render
from comfyeks.files import write_atomically
from comfyeks.paths import REPO_ROOT
from comfyeks.terraform.runner import ROOTS
from tests.support.policy_tools import policy_tools

Report = dict[str, list[dict[str, Any]]]


def everything_on() -> dict[str, Any]:
    """The variables of tests/everything.tftest.hcl: without them checkov leaves out what is off by default."""
    options = hcl2.SerializationOptions(with_comments=False, explicit_blocks=False, strip_string_quotes=True)
    variables: dict[str, Any] = {}
    for root in ROOTS.values():
        text = (root / "tests" / "everything.tftest.hcl").read_text()
        [block] = hcl2.loads(text, serialization_options=options)["variables"]
        variables |= block
    return variables


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """What checkov says of `terraform` and of `kubernetes`; it is asked once, offline and without its makers' key."""
    folder = tmp_path_factory.mktemp("checkov")
    scanned = folder / "scanned"
    for name, root in ROOTS.items():
        shutil.copytree(root, scanned / "terraform" / name, ignore=shutil.ignore_patterns("tests", ".terraform*"))
    for chart in ("comfyui", "karpenter-gpu"):
        rendered = render(chart, files=[REPO_ROOT / "charts" / chart / "ci" / "minimal-values.yaml"])
        write_atomically(scanned / "charts" / f"{chart}.yaml", rendered.to_yaml())
    variables = folder / "everything.tfvars.json"
    variables.write_text(json.dumps(everything_on()))
    argv = [
        *(policy_tools() / "bin" / "checkov", "--skip-download", "--compact", "--output", "json"),
        *("--framework", "terraform", "kubernetes", "--directory", scanned, "--var-file", variables),
    ]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder)}  # no key, no settings of the caller's
    done = subprocess.run([str(part) for part in argv], cwd=folder, env=env, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return {report["check_type"]: report["results"] for report in json.loads(done.stdout)}


@pytest.mark.local
@pytest.mark.parametrize("kind", ["terraform", "kubernetes"])
def test_checkov_finds_nothing_that_is_not_fixed_or_explained(
    reports: dict[str, Report], kind: str, measured: Callable[[str], None]
) -> None:
    passed, failed, skipped = (reports[kind][f"{outcome}_checks"] for outcome in ("passed", "failed", "skipped"))
    measured(f"checkov, {kind}: {len(passed)} passed, {len(failed)} failed, {len(skipped)} skipped with a reason")
    assert len(passed) > 80, "checkov saw next to nothing"
    found = [f"{c['check_id']} {c['resource']} ({c['file_path']}): {c['check_name']}" for c in failed]
    assert not found, "\n".join(found)
    reasons = {(c["check_id"], c["resource"]): c["check_result"]["suppress_comment"] for c in skipped}
    unexplained = ("", "No comment provided")  # checkov's text for a skip without a reason
    assert not [skip for skip, reason in reasons.items() if reason.strip() in unexplained]


@pytest.mark.local
def test_checkov_sees_both_roots_and_both_charts(reports: dict[str, Report]) -> None:
    seen = {check["file_path"] for report in reports.values() for kind in report.values() for check in kind}
    assert {"/terraform/platform/cluster.tf", "/terraform/data/buckets.tf", "/charts/comfyui.yaml"} <= seen
