"""`comfyeks scale`, against an API server with the objects of the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from comfyeks import scale
from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError, UserError
from tests.support.fake_kubernetes import Objects, fake_kubernetes

DEPLOYMENTS = "/apis/apps/v1/namespaces/comfyui/deployments"
SCHEDULES = "/apis/keda.sh/v1alpha1/namespaces/comfyui/scaledobjects"


class Cluster:
    """`changes`: path and body of every patch."""

    def __init__(self) -> None:
        self.objects: Objects = {}
        self.changes: list[tuple[str, Any]] = []
        self.has(replicas=1)

    def has(self, *, replicas: int | None, keda: bool = False, scheduled: bool = False) -> None:
        named = {"metadata": {"name": "comfyui"}}
        self.objects[DEPLOYMENTS] = [] if replicas is None else [{**named, "spec": {"replicas": replicas}}]
        if keda:
            self.objects[SCHEDULES] = [named] if scheduled else []


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    return tmp_path / "config"


@pytest.fixture
def cluster(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    deployment = Deployment(project=None, region="us-west-2", account="123456789012")
    monkeypatch.setattr(scale, "current", lambda project, region: deployment)
    made = Cluster()
    ours = "arn:aws:eks:us-west-2:123456789012:cluster/comfyui"
    with fake_kubernetes(made.objects, kubeconfig, ours, made.changes):
        config = yaml.safe_load(kubeconfig.read_text())
        other = "arn:aws:eks:us-west-2:999999999999:cluster/comfyui"
        config["contexts"].append({"name": "other", "context": {"cluster": other, "user": "me"}})
        kubeconfig.write_text(yaml.safe_dump(config))
        yield made


def comfyeks_scale(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(scale.run)
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_a_fixed_number_is_set_on_the_deployment(cluster: Cluster) -> None:
    assert "comfyui: 1 → 3 pods" in comfyeks_scale("3")
    assert cluster.changes == [(f"{DEPLOYMENTS}/comfyui/scale", {"spec": {"replicas": 3}})]


def test_a_schedule_is_ignored_while_a_number_is_given_and_applies_again_afterwards(cluster: Cluster) -> None:
    cluster.has(replicas=0, keda=True, scheduled=True)
    assert "ignores its schedule" in comfyeks_scale("2")
    assert "follows its schedule again" in comfyeks_scale("auto")
    assert cluster.changes == [
        (f"{SCHEDULES}/comfyui", {"metadata": {"annotations": {scale.PAUSED: value}}}) for value in ("2", None)
    ]


def test_keda_without_a_schedule_of_ours_changes_nothing(cluster: Cluster) -> None:
    cluster.has(replicas=2, keda=True)
    comfyeks_scale("0")
    assert cluster.changes == [(f"{DEPLOYMENTS}/comfyui/scale", {"spec": {"replicas": 0}})]


def test_auto_without_a_schedule_is_refused(cluster: Cluster) -> None:
    with pytest.raises(UserError, match="has no schedule to return to"):
        comfyeks_scale("auto")
    assert cluster.changes == []


@pytest.mark.parametrize("pods", ["two", "1.5", "٣"])
def test_what_is_not_a_number_is_refused_before_the_cluster_is_asked(cluster: Cluster, pods: str) -> None:
    with pytest.raises(UserError, match="is not a number of pods: expected 0 or more, or `auto`"):
        comfyeks_scale(pods)
    assert cluster.changes == []


def test_another_accounts_cluster_is_not_changed(cluster: Cluster) -> None:
    with pytest.raises(UserError, match="nothing was changed"):
        comfyeks_scale("3", "--context", "other")
    assert cluster.changes == []


def test_a_release_that_is_not_there_is_named(cluster: Cluster) -> None:
    cluster.has(replicas=None)
    with pytest.raises(UserError, match="no Deployment comfyui"):
        comfyeks_scale("3")


def test_a_cluster_that_does_not_answer_is_one_line(cluster: Cluster, kubeconfig: Path) -> None:
    config = yaml.safe_load(kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    kubeconfig.write_text(yaml.safe_dump(config))
    with pytest.raises(OperationError, match="the Kubernetes API of context here does not answer"):
        comfyeks_scale("3")
