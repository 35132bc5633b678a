"""The stand-in for kubelet against a real API server and scheduler: a pod that is created before the node's models."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import requests

from comfyeks.charts import CHARTS_ROOT
from comfyeks.kubernetes.api import Object, RefusedError, is_true
from comfyeks_local.cluster.control_plane import ControlPlane
from comfyeks_local.cluster.kubelet import ROOT_VARIABLE, NodeDescription
from comfyeks_local.node.node_config import NodeConfig
from comfyeks_local.processes import Process
from tests.cluster.conftest import Cluster

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("cluster")]

NODE = "ip-10-0-0-9.us-west-2.compute.internal"
MODEL = "checkpoints/sd_xl_base_1.0.safetensors"
LATE_SECONDS = 3.0


@dataclass
class Node:
    """A node without instance, boot and model sync: only its kubelet. Its models are mounted from `disk`."""

    home: Path
    kubelet: Process
    start: Callable[[], None]

    @property
    def link(self) -> Path:
        return self.home / "root" / "comfyui-models"

    @property
    def disk(self) -> Path:
        return self.home / "root" / "mnt" / "models"

    def begun(self, pod: Object) -> list[str]:
        """Containers of a pod that have been started at least once."""
        logs = self.home / "pods" / f"{pod['metadata']['namespace']}_{pod['metadata']['name']}" / "log"
        return sorted(log.stem for log in logs.glob("*.log"))


class NoAssociations(BaseHTTPRequestHandler):
    """Emulates EKS: no service account has a Pod Identity association."""

    def do_GET(self) -> None:
        content = b'{"associations": []}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    if request.config.getoption("--kubeconfig"):
        pytest.skip("a node's own certificate needs the authority of an own control plane")
    aws = ThreadingHTTPServer(("127.0.0.1", 0), NoAssociations)
    threading.Thread(target=aws.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(ControlPlane(cluster.kubeconfig.parent, {}).node_kubeconfig(NODE))
    NodeDescription(
        node=NODE, provider_id="aws:///us-west-2a/i-1", address="10.0.0.9", region="us-west-2", zone="us-west-2a",
        instance_type="g5.2xlarge", cpu=8, memory_mib=31_000, gpus=1, kubeconfig=str(kubeconfig), entrypoints={},
    ).write(tmp_path)  # fmt: skip
    labels = {"comfyui-on-eks/pool": "default", "nvidia.com/gpu.present": "true"}
    config = NodeConfig("comfyui", "", labels, [{"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"}])
    (tmp_path / "nodeadm.json").write_text(json.dumps(asdict(config)))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "AWS_REGION": "us-west-2",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{aws.server_port}",
        ROOT_VARIABLE: str(tmp_path / "root"),
    }
    kubelet = Process(tmp_path, "kubelet")

    def start() -> None:
        kubelet.start([sys.executable, "-m", "comfyeks_local.cluster.kubelet", tmp_path], environment)

    start()
    try:
        yield Node(tmp_path, kubelet, start)
    finally:
        kubelet.kill()
        for record in tmp_path.glob("pods/*/run/*.json"):
            Process(record.parent.parent, record.stem).kill()
        cluster.api.delete("Node", None, NODE)
        aws.shutdown()
        aws.server_close()


def test_a_pod_that_is_created_before_the_models_never_sees_an_empty_folder(
    cluster: Cluster, namespace: str, node: Node, eventually: Callable[..., None]
) -> None:
    values = ["--values", CHARTS_ROOT / "comfyui/ci/minimal-values.yaml"]
    cluster.helm("upgrade", "--install", "early", CHARTS_ROOT / "comfyui", "--namespace", namespace, *values)

    def pod() -> Object:
        found = cluster.api.list("Pod", namespace, labelSelector="app.kubernetes.io/instance=early")
        return found[0] if found else {"metadata": {"name": ""}, "status": {}}

    def events() -> list[str]:
        return [event.get("message", "") for event in cluster.api.list("Event", namespace)]

    # The pod is on the node, the models are not: kubelet's check of the mount keeps it from starting.
    eventually("the pod on the node", lambda: is_true(pod(), "PodScheduled"), events)
    refused = "hostPath type check failed: /comfyui-models is not a directory"
    eventually("the refusal of the mount", lambda: any(refused in text for text in events()), events)
    until = time.monotonic() + LATE_SECONDS
    while time.monotonic() < until:
        assert node.begun(pod()) == []
        assert not node.link.exists(), "the folder exists where the node will create its link"
        time.sleep(0.2)

    # The link appears, the models do not yet: the readiness gate keeps ComfyUI from starting.
    node.disk.mkdir(parents=True)
    node.link.symlink_to(node.disk)
    name = pod()["metadata"]["name"]
    eventually("the gate", lambda: "wait-for-models" in node.begun(pod()), events)

    def gate_log() -> str:
        try:
            return cluster.api.cluster.log(namespace, name, "wait-for-models", 5)
        except RefusedError:
            return ""

    eventually("the log of the readiness gate, through the API server", lambda: gate_log() != "", events)
    assert "waiting for the model-sync service of this node to start" in gate_log()
    assert "comfyui" not in node.begun(pod())

    # The models arrive: ComfyUI starts, and sees them from the beginning.
    (node.disk / MODEL).parent.mkdir()
    (node.disk / MODEL).write_bytes(b"model")
    status = node.disk / ".comfyui-model-sync" / "status.json"
    status.parent.mkdir()
    nothing = [f"{of}{what}" for of in ("", "first_") for what in ("missing_files", "missing_bytes")]
    nothing += ["left_out_count", "skipped_count"]
    ready = {"schema": 1, "state": "idle", "ready": True, "first_ready": True, "files": 1, "bytes": 5, "error": ""}
    status.write_text(json.dumps({**dict.fromkeys(nothing, 0), **ready}))
    eventually("the pod ready", lambda: is_true(pod(), "Ready"), lambda: (events(), pod()["status"]))
    assert checkpoints(node) == ["sd_xl_base_1.0.safetensors"]

    # A kubelet that is killed and starts again also starts the pod again.
    before, where = psutil.Process(node.kubelet.pid), url(node)
    before.kill()
    before.wait(10)
    node.start()
    eventually("a new place", lambda: url(node) != where, node.kubelet.tail)
    eventually("the pod ready again", lambda: is_true(pod(), "Ready") and answers(node), lambda: pod()["status"])
    cluster.helm("uninstall", "early", "--namespace", namespace)
    eventually("no pod", lambda: not cluster.api.list("Pod", namespace), events)


def url(node: Node) -> str:
    [ports] = [json.loads(file.read_text())["ports"] for file in node.home.glob("pods/*/ports.json")]
    return f"http://127.0.0.1:{ports['8848']}"


def checkpoints(node: Node) -> list[str]:
    """The checkpoints that ComfyUI lists."""
    answer = requests.get(f"{url(node)}/object_info/CheckpointLoaderSimple", timeout=10).json()
    found: list[str] = answer["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0]
    return found


def answers(node: Node) -> bool:
    try:
        return checkpoints(node) != []
    except requests.RequestException:
        return False
