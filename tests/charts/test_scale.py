"""`comfyeks scale`, against a kubectl that keeps its objects in a file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from comfyeks import scale
from comfyeks.deployment import Deployment
from comfyeks.errors import Failure, UserError

KUBECTL = """#!{python}
import json, pathlib, sys
state = pathlib.Path(__file__).with_name("cluster.json")
cluster = json.loads(state.read_text())
argv = sys.argv[1:]
cluster["calls"].append(argv)
state.write_text(json.dumps(cluster))
verb, rest = argv[4], argv[5:]
if cluster.get("down"):
    sys.exit("Unable to connect to the server: dial tcp: timeout")
if verb == "api-resources":
    print("scaledobjects.keda.sh" if cluster["keda"] else "")
elif verb == "get":
    found = cluster["objects"].get(rest[0] + "/" + rest[1])
    print(json.dumps(found) if found else "")
"""


class Cluster:
    def __init__(self, folder: Path):
        self.state = folder / "cluster.json"
        program = folder / "kubectl"
        program.write_text(KUBECTL.replace("{python}", sys.executable))
        program.chmod(0o755)
        self.has(replicas=1)

    def has(self, *, replicas: int | None, keda: bool = False, scheduled: bool = False, down: bool = False) -> None:
        objects: dict[str, Any] = {}
        if replicas is not None:
            objects["deployments.apps/comfyui"] = {"spec": {"replicas": replicas}}
        if scheduled:
            objects["scaledobjects.keda.sh/comfyui"] = {"spec": {}}
        self.state.write_text(json.dumps({"objects": objects, "keda": keda, "down": down, "calls": []}))

    @property
    def changes(self) -> list[list[str]]:
        """Calls that change something, from their verb on."""
        calls = [call[4:] for call in json.loads(self.state.read_text())["calls"]]
        return [call for call in calls if call[0] not in ("get", "api-resources")]

    @property
    def targets(self) -> set[tuple[str, ...]]:
        return {tuple(call[:4]) for call in json.loads(self.state.read_text())["calls"]}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    kubeconfig = tmp_path / "config"
    contexts = [
        {"name": "ours", "context": {"cluster": "arn:aws:eks:us-west-2:123456789012:cluster/comfyui"}},
        {"name": "other", "context": {"cluster": "arn:aws:eks:us-west-2:999999999999:cluster/comfyui"}},
    ]
    kubeconfig.write_text(json.dumps({"current-context": "ours", "contexts": contexts}))
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    deployment = Deployment(project=None, region="us-west-2", account="123456789012")
    monkeypatch.setattr(scale, "current", lambda project, region: deployment)
    return made


def comfyeks_scale(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(scale.run)
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_a_fixed_number_is_set_on_the_deployment(cluster: Cluster) -> None:
    assert "comfyui: 1 → 3 pods" in comfyeks_scale("3")
    assert cluster.changes == [["scale", "deployments.apps", "comfyui", "--replicas=3"]]
    assert cluster.targets == {("--context", "ours", "--namespace", "comfyui")}


def test_a_schedule_rests_while_a_number_is_given_and_works_again_afterwards(cluster: Cluster) -> None:
    cluster.has(replicas=0, keda=True, scheduled=True)
    assert "whatever its schedule says" in comfyeks_scale("2")
    assert "follows its schedule again" in comfyeks_scale("auto")
    assert cluster.changes == [
        ["annotate", "scaledobjects.keda.sh", "comfyui", f"{scale.PAUSED}=2", "--overwrite"],
        ["annotate", "scaledobjects.keda.sh", "comfyui", f"{scale.PAUSED}-"],
    ]


def test_keda_without_a_schedule_of_ours_changes_nothing(cluster: Cluster) -> None:
    cluster.has(replicas=2, keda=True)
    comfyeks_scale("0")
    assert cluster.changes == [["scale", "deployments.apps", "comfyui", "--replicas=0"]]


def test_no_schedule_to_return_to_is_told(cluster: Cluster) -> None:
    with pytest.raises(UserError, match="has no schedule to return to"):
        comfyeks_scale("auto")
    assert cluster.changes == []


@pytest.mark.parametrize("pods", ["two", "1.5", "٣"])
def test_what_is_no_number_is_refused_before_anything_is_asked(cluster: Cluster, pods: str) -> None:
    with pytest.raises(UserError, match="is no number of pods: give 0 or more, or `auto`"):
        comfyeks_scale(pods)
    assert cluster.targets == set()


def test_another_accounts_cluster_is_left_alone(cluster: Cluster) -> None:
    with pytest.raises(UserError, match="nothing was changed"):
        comfyeks_scale("3", "--context", "other")
    assert cluster.targets == set()


def test_a_release_that_is_not_there_is_named(cluster: Cluster) -> None:
    cluster.has(replicas=None)
    with pytest.raises(UserError, match="no Deployment comfyui"):
        comfyeks_scale("3")


def test_a_cluster_that_does_not_answer_is_one_line(cluster: Cluster) -> None:
    cluster.has(replicas=1, down=True)
    with pytest.raises(Failure, match=r"kubectl get deployments\.apps.*Unable to connect"):
        comfyeks_scale("3")
