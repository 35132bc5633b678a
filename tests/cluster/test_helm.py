"""`comfyeks.kubernetes.helm` on a real API server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from comfyeks.errors import OperationError
from comfyeks.kubernetes.helm import Helm, Release
from tests.cluster.conftest import Cluster

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("cluster")]

DEADLINE_SECONDS = 8


@pytest.fixture
def release(tmp_path: Path, namespace: str) -> Release:
    """A Deployment whose rollout may take some seconds; without a node its pod never starts."""
    labels = {"app": "slow"}
    container = {"name": "slow", "image": "slow", "resources": {"limits": {"cpu": "1"}}}
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, **security}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "slow"},
        "spec": {
            "progressDeadlineSeconds": DEADLINE_SECONDS,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: slow, version: 1.0.0}")
    (chart / "templates/deployment.yaml").write_text(yaml.safe_dump(deployment))
    return Release("slow", namespace, str(chart))


@contextmanager
def nodes_that_work(cluster: Cluster, namespace: str) -> Iterator[None]:
    """Makes each pod ready, after helm's first check."""
    ended = threading.Event()
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}

    def work() -> None:
        ended.wait(DEADLINE_SECONDS / 3)
        while not ended.wait(0.2):
            for pod in cluster.api.list("Pod", namespace):
                if "deletionTimestamp" in pod["metadata"]:
                    cluster.api.delete("Pod", namespace, pod["metadata"]["name"], grace_seconds=0)
                elif pod.get("status", {}).get("phase") != "Running":
                    name = pod["metadata"]["name"]
                    cluster.api.patch("Pod", namespace, name, {"status": status}, subresource="status")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_release_that_timed_out_is_waited_for_again(
    cluster: Cluster, namespace: str, release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    context = yaml.safe_load(cluster.kubeconfig.read_text())["current-context"]
    helm = Helm(context, tmp_path / "helm.log")
    with pytest.raises(OperationError, match="slow"):
        helm.upgrade(release)
    with nodes_that_work(cluster, namespace):
        helm.upgrade(release)
    assert helm.pending_change(release) is None
