"""Failures with the real Karpenter: missing capacity, and wrong values of the charts.

No node has to join: the tests check what Karpenter requests from EC2 and what `comfyeks doctor` and `status` report.
They take minutes, and run only with COMFYEKS_TEST_KARPENTER=1 (docs/local.md).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from comfyeks.doctor import karpenter
from comfyeks.doctor.pods import explained
from comfyeks.kubernetes.api import Api
from comfyeks_local.cluster import binaries
from comfyeks_local.cluster.local_cluster import LocalCluster, wait_for
from comfyeks_local.emulators.local_aws import LocalAws
from tests.e2e.conftest import Platform

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.xdist_group("platform"),
    pytest.mark.skipif(
        os.environ.get("COMFYEKS_TEST_KARPENTER") != "1", reason="minutes; COMFYEKS_TEST_KARPENTER=1 runs it"
    ),
]

NAMESPACE = "comfyui"
BROKEN = 'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="//"\n\n--//\nthe part never ends'


@dataclass
class Live:
    """A local cluster on the platform's AWS; `values` is the folder that `make infra` wrote."""

    platform: Platform
    aws: LocalAws
    cluster: LocalCluster
    api: Api
    values: Path

    def pools(self, *assignments: str) -> None:
        self.cluster.install_chart("karpenter-gpu", self.values, "kube-system", *assignments)

    def pods(self, number: int) -> None:
        self.cluster.install_chart("comfyui", self.values, NAMESPACE, f"replicas={number}")

    def instances(self) -> list[dict[str, Any]]:
        """Running instances of the node pools."""
        filters = [
            {"Name": "tag-key", "Values": ["karpenter.sh/nodepool"]},
            {"Name": "instance-state-name", "Values": ["pending", "running"]},
        ]
        found = self.aws.client("ec2").describe_instances(Filters=filters)["Reservations"]
        return [instance for each in found for instance in each["Instances"]]

    def launched(self) -> dict[str, Any]:
        """The first instance for a pod that waits."""
        self.pools()
        self.pods(1)
        self.wait("an instance", lambda: bool(self.instances()))
        return self.instances()[0]

    def messages(self, kind: str) -> str:
        """All messages of conditions and events of a kind."""
        conditions = [each for item in self.api.list(kind) for each in item.get("status", {}).get("conditions", [])]
        events = [event for event in self.api.list("Event") if event["involvedObject"]["kind"] == kind]
        return "\n".join(str(each.get("message", "")) for each in (*conditions, *events))

    def command(self, verb: str) -> str:
        """What `comfyeks doctor` or `status` prints about the deployment and this cluster, in one line."""
        clone = self.platform.clone
        environment = {**clone.env, "KUBECONFIG": str(self.cluster.kubeconfig), "COLUMNS": "1000"}
        done = subprocess.run(clone.argv(verb), cwd=clone.root, env=environment, capture_output=True, text=True)
        return " ".join(done.stdout.split())

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = 90) -> None:
        kinds = ("Pod", "NodeClaim", "NodePool", "EC2NodeClass")
        wait_for(what, ready, seconds, lambda: "\n".join(map(self.messages, kinds))[-6000:])

    def clear(self) -> None:
        """No pod, no pool, no node of a pool, no shortage."""
        self.aws.set_shortages()
        for release, namespace in (("comfyui", NAMESPACE), ("karpenter-gpu", "kube-system")):
            self.cluster.helm("uninstall", release, "--namespace", namespace, "--ignore-not-found")
        for claim in self.api.list("NodeClaim"):
            self.api.delete("NodeClaim", None, claim["metadata"]["name"])
        # A node class is deleted after its last node; a new one with its name would be the same object until then.
        self.wait("no node", lambda: not self.instances() and not self.api.list("EC2NodeClass"), 120)
        self.api.cluster.delete("/api/v1/namespaces/comfyui/events")


@contextmanager
def running(platform: Platform, values: Path, home: Path) -> Iterator[Live]:
    cluster = LocalCluster(platform.aws, home / "cluster", home / "nodes")
    try:
        cluster.up(binaries.found())
        cluster.install_addons(values)
        cluster.namespace(NAMESPACE)
        yield Live(platform, platform.aws, cluster, cluster.api(), values)
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def cluster(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    if missing := [program.name for program in binaries.missing()]:
        pytest.skip(f"not built: {', '.join(missing)}; `make demo CLUSTER=yes` builds them")
    values = platform.clone.root / ".comfyeks" / platform.deployment.name
    with running(platform, values, tmp_path_factory.mktemp("live")) as live:
        yield live


@pytest.fixture
def live(cluster: Live) -> Iterator[Live]:
    yield cluster
    cluster.clear()


def test_of_all_of_it_only_karpenter_listens_beyond_loopback(live: Live) -> None:
    live.launched()
    live.wait("its node", lambda: any(live.cluster.nodes.glob("*/kubelet.pem")))
    listening = []
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.pid:
            with suppress(psutil.Error):
                process = psutil.Process(connection.pid)
                if str(live.cluster.home.parent) in " ".join((*process.cmdline(), *process.environ().values())):
                    listening.append((process.name(), connection.laddr.ip))
    assert {"etcd", "kube-apiserver"} <= {name for name, _ in listening}
    assert {name for name, ip in listening if ip not in ("127.0.0.1", "::1")} <= {"karpenter"}


def test_without_spot_capacity_the_node_is_on_demand(live: Live) -> None:
    live.aws.set_shortages(("spot", "*"))
    assert live.launched().get("InstanceLifecycle") != "spot"
    assert live.aws.calls()["ec2.CreateFleet"] > 1


def test_an_unavailable_type_is_replaced_by_another_family(live: Live) -> None:
    family = live.launched()["InstanceType"].partition(".")[0]
    live.clear()
    live.aws.set_shortages(("*", f"{family}.*"))
    assert live.launched()["InstanceType"].partition(".")[0] != family


def test_a_pool_at_its_limit_is_reported_by_doctor_and_status(live: Live) -> None:
    live.pools("poolDefaults.maxGpus=1")
    live.pods(2)
    live.wait("the event", lambda: "instance types exceed limits for nodepool" in live.messages("Pod"))
    assert len(live.instances()) <= 1
    for verb in ("doctor", "status"):
        assert "the pool's own limit of GPUs is reached" in live.command(verb)


def assert_reported(live: Live, reason: str, fix: str) -> None:
    """Both commands report the reason with its fix, and no instance was started."""
    live.wait("the reason", lambda: any(reason in each.message for each in karpenter.reasons(live.api.cluster)))
    message = f"no node starts: ec2nodeclass karpenter-gpu-default is not ready: {reason}"
    live.wait(
        "the pod's", lambda: any(why and message in why.message for _, why in explained(live.api.cluster, NAMESPACE))
    )
    for verb in ("doctor", "status"):
        printed = live.command(verb)
        assert message in printed
        assert fix in printed
    assert not live.instances()


@pytest.mark.parametrize(
    ("wrong", "reason", "fix"),
    [
        ("cluster.name=somebody-elses", "no subnet has the tag karpenter.sh/discovery=somebody-elses", "cluster.name"),
        ("nodeRole=nobody", "there is no IAM role nobody for its nodes", "nodeRole"),
    ],
)
def test_a_wrong_value_is_reported_in_plain_words(live: Live, wrong: str, reason: str, fix: str) -> None:
    live.pools(wrong)
    live.pods(1)
    assert_reported(live, reason, f"{fix} of charts/karpenter-gpu has to")


def test_broken_mime_in_the_user_data_is_reported_and_starts_no_instance(live: Live) -> None:
    live.pools()
    [node_class] = live.api.list("EC2NodeClass")
    broken = {"spec": {"userData": BROKEN}}
    live.api.patch("EC2NodeClass", None, node_class["metadata"]["name"], broken)
    live.pods(1)
    assert_reported(live, "its user data is not MIME text that Karpenter can read", "charts/karpenter-gpu")
