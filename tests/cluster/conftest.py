"""One API server for the tests here: the local control plane, or the cluster of `pytest --kubeconfig FILE`.

The programs of the control plane are not built for a test run: if they are missing, these tests are skipped, with a
message that says how to build them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from comfyeks import tools
from comfyeks.charts.crds import karpenter_crds
from comfyeks.kubernetes import api as kubernetes_api
from comfyeks.kubernetes.api import Api, Object, is_true
from comfyeks_local.cluster import binaries, crds
from comfyeks_local.cluster.control_plane import ControlPlane
from comfyeks_local.cluster.local_cluster import wait_for
from comfyeks_local.processes import wait_until

NEEDED = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@dataclass
class Cluster:
    """An API server with the CRDs of the add-ons, and helm on it."""

    kubeconfig: Path
    api: Api

    def helm(self, *arguments: str | Path) -> str:
        done = tools.run_helm(*arguments, kubeconfig=self.kubeconfig)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def of_release(self, release: str) -> list[tuple[str, str]]:
        """(kind, name) of everything in the cluster that carries a release's label."""
        kinds = (
            "Deployment", "Pod", "Service", "ServiceAccount", "ConfigMap", "PersistentVolume", "PersistentVolumeClaim",
            "NodePool", "EC2NodeClass",
        )  # fmt: skip
        label = f"app.kubernetes.io/instance={release}"
        return [(kind, each["metadata"]["name"]) for kind in kinds for each in self.api.list(kind, labelSelector=label)]


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    given = request.config.getoption("--kubeconfig")
    if given:
        yield prepared(Path(given))
        return
    programs = binaries.found()
    if absent := [name for name in NEEDED if name not in programs]:
        pytest.skip(f"not built: {', '.join(absent)}; `make demo CLUSTER=yes` builds them, or pass --kubeconfig FILE")
    home = tmp_path_factory.mktemp("cluster")
    plane = ControlPlane(home, {"PATH": os.environ["PATH"], "HOME": str(home)})
    try:
        plane.start(programs)
        yield prepared(plane.kubeconfig)
    finally:
        plane.stop()


def prepared(kubeconfig: Path) -> Cluster:
    cluster = Cluster(kubeconfig, Api(kubernetes_api.Cluster(kubeconfig=kubeconfig)))
    charts = karpenter_crds().parents[2] / "charts"
    cluster.helm("upgrade", "--install", "karpenter-crd", charts / "karpenter-crd", "--namespace", "kube-system")
    for crd in crds.other_addons():
        cluster.api.apply(crd)
    names = [crd["metadata"]["name"] for crd in cluster.api.list("CustomResourceDefinition")]

    def established() -> bool:
        found = [cluster.api.get("CustomResourceDefinition", None, name) or {} for name in names]
        return all(is_true(each, "Established") for each in found)

    wait_until("the CRDs", established, 30)
    return cluster


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of its own, with the restricted Pod Security level enforced."""
    name = f"t-{abs(hash(request.node.nodeid)) % 10**8}"
    cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    # Created by the controller manager; pods are refused until it exists.
    wait_until("its service account", lambda: cluster.api.get("ServiceAccount", name, "default") is not None, 30)
    yield name
    cluster.api.delete("Namespace", None, name)


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Polls until true, or fails with the result of `explain`."""

    def wait(what: str, ready: Callable[[], bool], explain: Callable[[], object] = lambda: "") -> None:
        wait_for(what, ready, 60, lambda: str(explain()))

    return wait


def pod_of(deployment: Object, namespace: str) -> Object:
    """The pod that a Deployment would create; Pod Security checks pods and only warns about Deployments."""
    template = deployment["spec"]["template"]
    metadata = {"name": "from-template", "namespace": namespace, "labels": template["metadata"]["labels"]}
    # The chart brings the service account; a dry run creates none.
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {**template["spec"], "serviceAccountName": "default"},
    }
