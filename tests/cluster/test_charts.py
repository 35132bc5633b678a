"""What only an API server can test of the charts: admission, CEL rules of the CRDs, the life of a release."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from comfyeks.charts import CHARTS, CHARTS_ROOT
from comfyeks.charts.render import render
from comfyeks.kubernetes.api import Object, RefusedError
from comfyeks.paths import REPO_ROOT
from tests.cluster.conftest import Cluster, pod_of

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("cluster")]

SCENARIOS = sorted(CHARTS_ROOT.glob("*/ci/*-values.yaml"))
API_VERSIONS = ("monitoring.coreos.com/v1/PodMonitor", "monitoring.coreos.com/v1/PrometheusRule")


def refusal(cluster: Cluster, item: Object) -> str:
    """The API server's reason for refusing an object; empty if it would accept it."""
    try:
        cluster.api.apply(item, dry_run=True)
    except RefusedError as error:
        return error.message
    return ""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_the_server_accepts_every_scenario(cluster: Cluster, namespace: str, scenario: Path) -> None:
    chart = scenario.parts[-3]
    rendered = render(chart, files=[scenario], namespace=namespace, api_versions=API_VERSIONS)
    assert len(rendered) > 1
    refused = {(item["kind"], item["metadata"]["name"]): refusal(cluster, item) for item in rendered}
    for deployment in rendered.of_kind("Deployment"):
        refused["Pod", "of the Deployment"] = refusal(cluster, pod_of(deployment, namespace))
    assert {what: why for what, why in refused.items() if why} == {}


def test_the_namespace_refuses_a_pod_that_is_not_restricted(cluster: Cluster, namespace: str) -> None:
    scenario = CHARTS_ROOT / "comfyui/ci/minimal-values.yaml"
    [deployment] = render("comfyui", files=[scenario], namespace=namespace).of_kind("Deployment")
    pod = pod_of(deployment, namespace)
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    assert 'violates PodSecurity "restricted' in refusal(cluster, pod)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("EC2NodeClass", {"instanceProfile": "x"}, "must specify exactly one of"),
        ("EC2NodeClass", {"amiSelectorTerms": [{"alias": "al2023"}]}, "'alias' is improperly formatted"),
        ("EC2NodeClass", {"tags": {"karpenter.sh/nodepool": "x"}}, "tag contains a restricted tag"),
        ("NodePool", {"weight": 0}, "should be greater than or equal to 1"),
        ("NodePool", {"limits": None, "disruption": {"consolidateAfter": "soon"}}, "should match"),
    ],
)
def test_the_rules_of_the_crds_are_in_force(cluster: Cluster, kind: str, change: dict[str, Any], message: str) -> None:
    scenario = CHARTS_ROOT / "karpenter-gpu/ci/minimal-values.yaml"
    [item] = render("karpenter-gpu", files=[scenario]).of_kind(kind)
    assert refusal(cluster, item) == ""
    item["spec"] |= change
    assert message in refusal(cluster, item)


def previous_package(chart: str, folder: Path) -> Path:
    """The chart at its previous version, packaged by helm from the project's history."""
    here = yaml.safe_load((CHARTS_ROOT / chart / "Chart.yaml").read_text())["version"]
    file = f"charts/{chart}/Chart.yaml"

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=REPO_ROOT, capture_output=True, check=True).stdout

    for commit in git("log", "--format=%H", "--", file).decode().split():
        if yaml.safe_load(git("show", f"{commit}:{file}"))["version"] != here:
            archive = git("archive", commit, f"charts/{chart}")
            subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
            return folder / "charts" / chart
    pytest.skip(f"the history here has no version of {chart} before {here}: a shallow clone?")


@pytest.mark.parametrize("chart", CHARTS)
def test_a_release_is_upgraded_from_the_previous_version_and_removed_completely(
    cluster: Cluster, namespace: str, chart: str, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    old = previous_package(chart, tmp_path)
    # The earlier name of minimal-values.yaml is default-values.yaml.
    [file] = [file for name in ("minimal", "default") if (file := old / "ci" / f"{name}-values.yaml").exists()]
    values = ["--values", file]
    package = cluster.helm("package", old, "--destination", tmp_path).rpartition(": ")[2].strip()
    cluster.helm("upgrade", "--install", "old", package, "--namespace", namespace, *values)
    before = cluster.of_release("old")
    assert before
    now = ["--values", CHARTS_ROOT / chart / "ci" / "minimal-values.yaml"]
    cluster.helm("upgrade", "--install", "old", CHARTS_ROOT / chart, "--namespace", namespace, *now)
    after = {item for item in cluster.of_release("old") if item[0] != "Pod"}
    assert {item for item in before if item[0] != "Pod"} <= after
    cluster.helm("uninstall", "old", "--namespace", namespace)
    eventually("nothing remains", lambda: not cluster.of_release("old"), lambda: cluster.of_release("old"))


def test_two_releases_live_side_by_side(cluster: Cluster, namespace: str, eventually: Callable[..., None]) -> None:
    # Both run as the service account that has the Pod Identity association; one of them creates it.
    for chart, second in (("comfyui", ["--set", "serviceAccount.create=false"]), ("karpenter-gpu", [])):
        a, b = f"{chart}-a", f"{chart}-b"
        values = ["--namespace", namespace, "--values", str(CHARTS_ROOT / chart / "ci/minimal-values.yaml")]
        cluster.helm("upgrade", "--install", a, CHARTS_ROOT / chart, *values)
        cluster.helm("upgrade", "--install", b, CHARTS_ROOT / chart, *values, *second)
        of_a = {item for item in cluster.of_release(a) if item[0] != "Pod"}
        assert len(of_a) > 1
        assert not of_a & set(cluster.of_release(b))
        cluster.helm("uninstall", b, "--namespace", namespace)
        eventually("b is gone", lambda b=b: not cluster.of_release(b))
        assert of_a <= set(cluster.of_release(a))
        cluster.helm("uninstall", a, "--namespace", namespace)
        eventually("a is gone", lambda a=a: not cluster.of_release(a))
