"""The components of the local cluster, each without a cluster."""

from __future__ import annotations

import base64
import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from comfyeks.deployment import Deployment
from comfyeks.errors import OperationError, UserError
from comfyeks.kubernetes.api import path_of
from comfyeks.kubernetes.kubeconfig import leads_to
from comfyeks_local.cluster import binaries, certificates
from comfyeks_local.cluster.local_cluster import eks_arn, flattened, given_kubeconfig
from comfyeks_local.cluster.machines import Machines
from comfyeks_local.cluster.services import ServiceProxy
from comfyeks_local.demo.timeline import Timeline
from comfyeks_local.emulators.bridges.moto_fleets import Shortages
from comfyeks_local.emulators.local_aws import ACCOUNT, REGION
from comfyeks_local.node import node_config
from tests.support.fake_kubernetes import fake_kubernetes

OURS = """apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec: {kubelet: {config: {maxPods: 5, registerWithTaints: [{key: ours, effect: NoSchedule}]}}}"""
KARPENTERS = """apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  cluster: {name: comfyui, apiServerEndpoint: "https://127.0.0.1:1"}
  instance: {localStorage: {strategy: RAID0}}
  kubelet:
    config: {maxPods: 58, registerWithTaints: [{key: karpenter.sh/unregistered, effect: NoExecute}]}
    flags: ['--node-labels="comfyui-on-eks/pool=default,karpenter.sh/capacity-type=spot"']"""


def mime(*parts: str) -> str:
    text = 'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="//"\n\n'
    return text + "".join(f"--//\nContent-Type: application/node.eks.aws\n\n{part}\n" for part in parts) + "--//--\n"


def test_node_configs_are_merged_in_order_and_lists_are_concatenated() -> None:
    config = node_config.read(mime(OURS, KARPENTERS))
    assert config is not None
    assert (config.cluster, config.max_pods, config.raid0) == ("comfyui", 58, True)
    assert [taint["key"] for taint in config.taints] == ["ours", "karpenter.sh/unregistered"]
    assert config.labels == {"comfyui-on-eks/pool": "default", "karpenter.sh/capacity-type": "spot"}


def test_a_node_whose_user_data_names_no_cluster_joins_none() -> None:
    assert node_config.read(mime(OURS)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/bin/bash\necho hello\n", "not MIME multipart"),
        (mime("kind: Pod\napiVersion: v1"), "is not a NodeConfig of node.eks.aws/v1alpha1"),
        (mime("spec: [unclosed"), "is not YAML"),
    ],
)
def test_broken_user_data_is_refused_in_plain_words(text: str, message: str) -> None:
    with pytest.raises(OperationError, match=message):
        node_config.read(text)


def test_a_certificate_says_who_it_is_for_and_who_signed_it() -> None:
    ca = certificates.authority()
    node = x509.load_pem_x509_certificate(certificates.issue(ca, "system:node:a", ["system:nodes"]).certificate)
    assert node.subject.rfc4514_string() == "CN=system:node:a,O=system:nodes"
    node.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.certificate))
    server = x509.load_pem_x509_certificate(certificates.issue(ca, "x", hosts=["localhost", "127.0.0.1"]).certificate)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    with pytest.raises(InvalidSignature):
        server.verify_directly_issued_by(x509.load_pem_x509_certificate(certificates.authority().certificate))


def kubeconfig(folder: Path, server: str, cluster: str = "c", user: dict[str, Any] | None = None) -> str:
    path = folder / "config"
    context = {"cluster": cluster, "user": "u"}
    content = {
        "clusters": [
            {"name": "other", "cluster": {"server": "https://x"}},
            {"name": cluster, "cluster": {"server": server}},
        ],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": context}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


ARN = "arn:aws:eks:us-west-2:111122223333:cluster/comfyui"


@pytest.mark.parametrize(
    ("server", "cluster", "user", "why"),
    [
        ("https://ABCDEF.gr7.us-west-2.eks.amazonaws.com", "c", {}, "not on this machine"),
        ("https://127.0.0.1:8443", ARN, {}, f"the EKS cluster {ARN}"),
        ("https://127.0.0.1:8443", "tunnel", {"exec": {"command": "/usr/bin/aws"}}, "the EKS cluster tunnel"),
        ("https://127.0.0.1:1", "c", {}, "does not answer"),
    ],
)
def test_a_cluster_that_cannot_have_stand_in_nodes_is_not_used(
    tmp_path: Path, server: str, cluster: str, user: dict[str, Any], why: str
) -> None:
    messages: list[str] = []
    given = kubeconfig(tmp_path, server, cluster, user)
    assert given_kubeconfig({"KUBECONFIG": given}, messages.append) is None
    [line] = messages
    assert "is not used" in line
    assert why in line


def test_several_files_are_not_used_and_a_folder_as_kubeconfig_is_refused(tmp_path: Path) -> None:
    messages: list[str] = []
    assert given_kubeconfig({"KUBECONFIG": f"{tmp_path}/a:{tmp_path}/b"}, messages.append) is None
    assert "several files" in messages[0]
    assert given_kubeconfig({}, messages.append) is None
    with pytest.raises(UserError, match="is not a kubeconfig"):
        given_kubeconfig({"KUBECONFIG": str(tmp_path)}, messages.append)


@pytest.mark.parametrize(("runtime", "taken"), [("containerd://2.1", False), ("comfyeks-local://1", True)])
def test_a_cluster_on_this_machine_is_used_unless_it_has_other_nodes(tmp_path: Path, runtime: str, taken: bool) -> None:
    node = {"metadata": {"name": "kind-control-plane"}, "status": {"nodeInfo": {"containerRuntimeVersion": runtime}}}
    messages: list[str] = []
    path = tmp_path / "kubeconfig"
    with fake_kubernetes({"/api/v1/nodes": [node]}, path):
        given = given_kubeconfig({"KUBECONFIG": str(path)}, messages.append)
    assert (given == path) is taken
    assert taken or "other nodes (kind-control-plane)" in messages[0]


def test_a_given_kubeconfig_is_copied_with_the_files_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "me.crt").write_text("certificate")
    user = {"client-certificate": "me.crt", "client-key-data": "a2V5"}
    copy = yaml.safe_load(flattened(Path(kubeconfig(tmp_path, "https://127.0.0.1:6443", user=user)), "mine"))
    [cluster], [found] = copy["clusters"], copy["users"]
    assert cluster["cluster"] == {"server": "https://127.0.0.1:6443"}
    assert base64.b64decode(found["user"]["client-certificate-data"]) == b"certificate"
    assert found["user"]["client-key-data"] == "a2V5"
    assert "client-certificate" not in found["user"]


@pytest.mark.parametrize(("account", "leads"), [(ACCOUNT, True), ("111122223333", False)])
def test_the_local_clusters_kubeconfig_is_a_deployments_only_in_the_local_account(account: str, leads: bool) -> None:
    assert leads_to(eks_arn(Deployment("try", REGION, ACCOUNT)), Deployment("try", REGION, account)) is leads


def test_programs_of_kubebuilder_assets_come_first(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBEBUILDER_ASSETS": str(tmp_path)}
    assert [program.name for program in binaries.missing(environment)] == [each.name for each in binaries.PROGRAMS]
    (tmp_path / "etcd").touch(mode=0o755)
    assert binaries.found(environment) == {"etcd": tmp_path / "etcd"}
    beside = binaries.missing(environment, binaries.BESIDE_A_CLUSTER)
    assert [program.name for program in beside] == ["karpenter"]
    with pytest.raises(UserError, match="is not a folder"):
        binaries.found({**environment, "KUBEBUILDER_ASSETS": "/nowhere"})


def test_a_shortage_is_limited_to_a_lifecycle_and_instance_types() -> None:
    shortages = Shortages()
    shortages.set([("spot", "*"), ("*", "g6.*")])
    assert shortages.hits("spot", "g5.xlarge")
    assert shortages.hits("on-demand", "g6.xlarge")
    assert not shortages.hits("on-demand", "g5.xlarge")


def test_a_service_forwards_to_a_ready_pod_and_stays_with_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        pods = [server.getsockname()[:2] for server in (a, b)]
        proxy = ServiceProxy()

        def is_reached(server: socket.socket) -> bool:
            with socket.create_connection(("127.0.0.1", proxy.ports["n/s"])) as client:
                client.sendall(b"hello")
                connection, _ = server.accept()
                with connection:
                    return connection.recv(5) == b"hello"

        for server in (a, b):
            server.settimeout(10)
        proxy.update({"n/s": pods})
        assert is_reached(a)
        proxy.update({"n/s": [pods[1], pods[0]]})
        assert is_reached(a)
        proxy.update({"n/s": [pods[1]]})
        assert is_reached(b)


def test_the_page_of_a_timeline_has_every_step_and_escapes_markup(tmp_path: Path) -> None:
    timeline = Timeline()
    with timeline.step("first") as detail:
        detail("<script>alert(1)</script>")
    with pytest.raises(ValueError, match="no"), timeline.step("second"):
        raise ValueError("no")
    timeline.write_page(tmp_path / "page.html", "A title", ["a fact"])
    page = (tmp_path / "page.html").read_text()
    assert page.index("first") < page.index("second")
    assert "<script>" not in page
    assert 'class="bar failed"' in page
    timeline.write_json(tmp_path / "page.json", peak_memory_bytes=5)
    written = json.loads((tmp_path / "page.json").read_text())
    assert [(step["title"], step["failed"]) for step in written["steps"]] == [("first", False), ("second", True)]
    assert written["peak_memory_bytes"] == 5


def test_an_incomplete_node_group_gets_no_node_and_raises_no_error() -> None:
    machines = Machines.__new__(Machines)
    machines._eks = SimpleNamespace(describe_nodegroup=lambda **_: {"nodegroup": {"nodegroupName": "system"}})
    machines._launch_group_node("comfyui", "system")


@pytest.mark.parametrize(
    ("of", "path"),
    [
        (("Pod", "comfyui", "a"), "/api/v1/namespaces/comfyui/pods/a"),
        (("Deployment", None), "/apis/apps/v1/deployments"),
        (("EC2NodeClass", None, "gpu"), "/apis/karpenter.k8s.aws/v1/ec2nodeclasses/gpu"),
        (
            ("NetworkPolicy", "n", None, "networking.k8s.io/v1"),
            "/apis/networking.k8s.io/v1/namespaces/n/networkpolicies",
        ),
    ],
)
def test_a_kind_is_found_at_its_path(of: tuple[str, ...], path: str) -> None:
    assert path_of(*of) == path
