"""`comfyeks local up --cluster` and `local down` as commands: twice, after `kill -9` of any part, and of itself."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from comfyeks.kubernetes.api import Api, Cluster
from comfyeks_local.cluster import binaries
from comfyeks_local.cluster.control_plane import PARTS
from comfyeks_local.cluster.kubelet import NodeDescription
from comfyeks_local.cluster.local_cluster import MACHINES
from tests.cluster.conftest import Cluster as GivenCluster
from tests.support.clones import Clone, make_clone, plain_environment

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("cluster")]

CLUSTER = {*PARTS, MACHINES}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    if absent := [program.name for program in binaries.missing()]:
        pytest.skip(f"not built: {', '.join(absent)}; `make demo CLUSTER=yes` builds them")
    environment = {name: value for name, value in plain_environment().items() if name != "KUBECONFIG"}
    clone = make_clone(tmp_path_factory.mktemp("life") / "clone", environment)
    try:
        yield clone
    finally:
        clone.comfyeks("local", "down")


def up(clone: Clone) -> str:
    return clone.comfyeks("local", "up", "--cluster").stderr


def parts(clone: Clone) -> dict[str, dict[str, Any]]:
    """What `local status` shows, by name; its exit code agrees."""
    answer = clone.comfyeks("local", "status", "--json", check=False)
    found = {part["name"]: part for part in json.loads(answer.stdout)}
    assert answer.returncode == int(any(part["state"] != "running" for part in found.values()))
    return found


def works(clone: Clone) -> bool:
    """All processes run, and the controllers do too, because a new namespace gets its service account."""
    api = Api(Cluster(kubeconfig=clone.root / ".comfyeks/local/cluster/kubeconfig"))
    assert api.get("ServiceAccount", "default", "default") is not None
    return {name for name, part in parts(clone).items() if part["state"] == "running"} >= CLUSTER


def remaining_processes(clone: Clone) -> list[str]:
    """Processes of the clone: its folder is in their command line or in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            text = " ".join((*process.cmdline(), *process.environ().values()))
            if str(clone.root) in text and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
    return found


# The order matters: each test uses the cluster of the one before.


def test_programs_of_kubebuilder_assets_come_first(clone: Clone, tmp_path: Path) -> None:
    for name in ("etcd", "kube-apiserver"):
        shutil.copy2(binaries.found()[name], tmp_path / name)
    up(Clone(clone.root, {**clone.env, "KUBEBUILDER_ASSETS": str(tmp_path)}))
    running = {name: psutil.Process(part["pid"]).exe() for name, part in parts(clone).items() if name in PARTS}
    assert running["etcd"] == str(tmp_path / "etcd")
    assert running["kube-apiserver"] == str(tmp_path / "kube-apiserver")
    assert str(tmp_path) not in running["kube-scheduler"]


def test_up_twice_starts_once_and_status_shows_every_process(clone: Clone) -> None:
    up(clone)
    before = parts(clone)
    assert before.keys() > CLUSTER
    assert works(clone)
    assert "the local cluster is already up" in up(clone)
    assert {name: part["pid"] for name, part in parts(clone).items()} == {n: p["pid"] for n, p in before.items()}
    table = clone.comfyeks("local", "status").stdout
    assert all(name in table for name in CLUSTER)


def test_nothing_of_it_listens_beyond_loopback(clone: Clone) -> None:
    up(clone)
    ours = {int(line.split()[0]) for line in remaining_processes(clone)}
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in ours
    }
    assert len(listening) >= len(CLUSTER)
    assert {address for address, _ in listening} <= {"127.0.0.1", "::1"}


def kill(clone: Clone, victims: set[str]) -> None:
    processes = [psutil.Process(part["pid"]) for name, part in parts(clone).items() if name in victims]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, 10)


def test_after_kill_9_of_one_process_up_starts_the_cluster_again(clone: Clone) -> None:
    up(clone)
    kill(clone, {"etcd"})
    assert parts(clone)["etcd"]["state"] == "dead"
    assert "local cluster up" in up(clone)
    assert works(clone)


def test_after_kill_9_of_every_process_and_of_the_next_up_another_up_works(clone: Clone) -> None:
    up(clone)
    kill(clone, CLUSTER)
    assert {name for name, part in parts(clone).items() if part["state"] == "dead"} >= CLUSTER
    record = clone.root / ".comfyeks/local/cluster/run/kube-apiserver.json"
    before = record.read_bytes()
    argv = clone.argv("local", "up", "--cluster")
    process = subprocess.Popen(argv, cwd=clone.root, env=clone.env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not record.exists() or record.read_bytes() == before:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert "local cluster up" in up(clone)
    assert works(clone)


def test_down_after_kill_9_leaves_no_process_and_can_be_repeated(clone: Clone) -> None:
    up(clone)
    kill(clone, {MACHINES, "etcd"})
    assert remaining_processes(clone)
    clone.comfyeks("local", "down")
    assert remaining_processes(clone) == []
    clone.comfyeks("local", "down")
    assert not (clone.root / ".comfyeks/local/cluster/kubeconfig").exists()


def test_the_cluster_of_kubeconfig_is_used_and_keeps_its_own_objects(
    clone: Clone, cluster: GivenCluster, tmp_path: Path
) -> None:
    clone.comfyeks("local", "down")
    theirs = tmp_path / "kubeconfig"
    theirs.write_text("# mine\n" + cluster.kubeconfig.read_text())
    before = theirs.read_bytes(), theirs.stat().st_mtime_ns
    user = Clone(clone.root, {**clone.env, "KUBECONFIG": str(theirs)})
    assert "local cluster up" in up(user)
    assert parts(user).keys() & CLUSTER == {MACHINES}
    # A node of this checkout, which must be deleted from the cluster, and one of another checkout.
    for name in ("ours", "anothers"):
        cluster.api.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    described = {
        **dict.fromkeys((field.name for field in fields(NodeDescription)), ""),
        "node": "ours",
        "entrypoints": {},
    }
    home = clone.root / ".comfyeks/local/nodes/i-1"
    home.mkdir(parents=True)
    (home / "kubelet.json").write_text(json.dumps(described))
    ours = yaml.safe_load((clone.root / ".comfyeks/local/cluster/kubeconfig").read_text())
    assert ours["clusters"][0]["cluster"] == yaml.safe_load(theirs.read_text())["clusters"][0]["cluster"]
    user.comfyeks("local", "down")
    assert remaining_processes(user) == []
    assert cluster.api.get("Node", None, "ours") is None
    assert cluster.api.delete("Node", None, "anothers")
    assert (theirs.read_bytes(), theirs.stat().st_mtime_ns) == before
    assert cluster.api.get("ServiceAccount", "default", "default") is not None
