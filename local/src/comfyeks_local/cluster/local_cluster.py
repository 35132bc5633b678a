"""The local cluster as a whole: up, down, status, and the add-ons that an EKS cluster has."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from comfyeks import tools
from comfyeks.charts.crds import karpenter_crds
from comfyeks.charts.render import chart_path
from comfyeks.deployment import ADDON_VALUES, Deployment
from comfyeks.errors import OperationError, UserError
from comfyeks.files import write_atomically
from comfyeks.kubernetes.api import Api, Cluster, RefusedError, UnreachableError
from comfyeks.paths import STATE
from comfyeks_local.cluster import crds
from comfyeks_local.cluster.control_plane import ControlPlane, kubeconfig_text
from comfyeks_local.cluster.kubelet import NodeDescription, is_stand_in
from comfyeks_local.emulators.local_aws import ACCOUNT, REGION, LocalAws, PartStatus
from comfyeks_local.node.local_node import LocalNode
from comfyeks_local.processes import Process, kill_marked

# Marks every process of a cluster, even after its parent has ended; the value is the home folder.
_MARK = "COMFYEKS_CLUSTER_HOME"
MACHINES = "machines"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EKS_LOGINS = ("aws", "aws-iam-authenticator", "eksctl")
HELM_TIMEOUT = "3m"


class LocalCluster:
    """The cluster of one home folder (default: `.comfyeks/local/cluster` of this checkout)."""

    def __init__(
        self, aws: LocalAws, home: Path | None = None, nodes: Path | None = None, project: str | None = None
    ) -> None:
        """`project` names the deployment whose EKS cluster this cluster replaces."""
        self.home = (home or STATE / "local" / "cluster").resolve()
        self.nodes = (nodes or STATE / "local" / "nodes").resolve()
        self._aws = aws
        self._name = eks_arn(Deployment(project, REGION, ACCOUNT))
        self._plane = ControlPlane(self.home, self._environment({}), self._name)
        self._machines = Process(self.home, MACHINES)
        self._settings = self.home / "machines.json"

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of the running cluster. Raises OperationError if none runs."""
        if not self._settings.exists():
            raise OperationError("the local cluster is not up: start it with `comfyeks local up --cluster`")
        return self._plane.kubeconfig

    def api(self) -> Api:
        return Api(Cluster(kubeconfig=self.kubeconfig))

    def up(self, programs: Mapping[str, Path], given: Path | None = None) -> bool:
        """Start the cluster; returns false if it was already running. If a process has died, all others restart too.

        Args:
            programs: see `binaries.build`.
            given: the kubeconfig of an existing cluster to use instead of starting a control plane; see
                `given_kubeconfig`.
        """
        states = {part.state for part in self.status()}
        if states == {"running"}:
            return False
        self.down()
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            if given is None:
                self._plane.start(programs)
            else:  # a copy, so that the user's file is never changed
                write_atomically(self._plane.kubeconfig, flattened(given, self._name), mode=0o600)
            self._install_crds(Api(Cluster(kubeconfig=self._plane.kubeconfig)))
            settings = {
                "nodes": str(self.nodes),
                "own_control_plane": given is None,
                "entrypoints": {"karpenter/controller": str(programs["karpenter"])},
            }
            write_atomically(self._settings, json.dumps(settings, indent=2) + "\n")
            self._machines.start(
                [sys.executable, "-m", "comfyeks_local.cluster.machines", self.home],
                self._environment(self._aws.env()),
            )
        except BaseException:
            self.down()
            raise
        return True

    def down(self) -> None:
        """Stop everything. A cluster of the user loses the nodes and keeps what was installed in it."""
        self._machines.kill()
        with contextlib.suppress(OperationError):
            self._delete_nodes()
        aws: dict[str, str] = {}
        with contextlib.suppress(OperationError):  # without it the instances no longer exist
            aws = self._aws.env()
        for description in self.nodes.glob("*/kubelet.json"):
            LocalNode(description.parent, aws).remove()
        self._plane.stop()
        kill_marked(_MARK, str(self.home))
        for folder in ("etcd", "pki", "nodes"):
            shutil.rmtree(self.home / folder, ignore_errors=True)
        for file in (self._settings, self.home / "services.json", self._plane.kubeconfig):
            file.unlink(missing_ok=True)

    def _delete_nodes(self) -> None:
        """Delete the Node objects from the user's cluster, where nothing else would remove them."""
        if self._settings.exists() and not json.loads(self._settings.read_text())["own_control_plane"]:
            api = self.api()
            for home in self.nodes.glob("*/"):
                if description := NodeDescription.read(home):
                    api.delete("Node", None, description.node)

    def status(self) -> list[PartStatus]:
        """The state of the processes now; all are stopped if the cluster was never started."""
        own = json.loads(self._settings.read_text())["own_control_plane"] if self._settings.exists() else True
        processes = [*(self._plane.processes.values() if own else ()), self._machines]
        return [_part(process) for process in processes]

    def url(self, service: str, namespace: str = "comfyui") -> str | None:
        """URL of a Service on this machine; None if it has none yet."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            urls: dict[str, str] = json.loads((self.home / "services.json").read_text())
            return urls.get(f"{namespace}/{service}")
        return None

    # -- what an EKS cluster has --------------------------------------------------------------------------------------

    def install_addons(self, values_folder: Path) -> None:
        """Install Karpenter from its own chart, with the values that `comfyeks infra apply` wrote.

        Raises UserError if the values are missing, OperationError if helm fails.
        """
        values = values_folder / ADDON_VALUES / "karpenter.values.yaml"
        if not values.exists():
            raise UserError(
                f"{values} is missing: run `comfyeks infra apply`, which writes it from Terraform's outputs"
            )
        charts = karpenter_crds().parents[2] / "charts"
        self.helm("upgrade", "--install", "karpenter-crd", str(charts / "karpenter-crd"), "--namespace", "kube-system")
        cluster = yaml.safe_load(self.kubeconfig.read_text())["clusters"][0]["cluster"]
        local = {
            "replicas": 1,  # a node group has one node here
            # In a pod Karpenter reads its namespace from a file, which does not exist here.
            "controller": {"env": [{"name": "LEADER_ELECTION_NAMESPACE", "value": "kube-system"}]},
            "settings": {
                # The emulated EKS does not know the API server of this cluster.
                "clusterEndpoint": cluster["server"],
                "clusterCABundle": cluster.get("certificate-authority-data", ""),
                "isolatedVPC": True,  # there is no price list API
            },
        }
        overrides = self.home / "karpenter.values.yaml"
        write_atomically(overrides, yaml.safe_dump(local))
        self.helm(
            "upgrade", "--install", "karpenter", str(charts / "karpenter"), "--namespace", "kube-system",
            "--skip-crds", "--values", str(values), "--values", str(overrides), "--wait", "--timeout", HELM_TIMEOUT,
        )  # fmt: skip

    def namespace(self, name: str) -> None:
        """Create a namespace that enforces the restricted Pod Security level."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.api().apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def install_chart(self, chart: str, values_folder: Path, namespace: str, *assignments: str) -> None:
        """Install one of our charts with `helm upgrade --install` and the values that `comfyeks infra apply` wrote."""
        values = values_folder / f"{chart}.values.yaml"
        sets = [argument for assignment in assignments for argument in ("--set", assignment)]
        files = ["--values", str(values)]
        self.helm("upgrade", "--install", chart, str(chart_path(chart)), "--namespace", namespace, *files, *sets)

    def helm(self, *arguments: str) -> str:
        """Run helm on this cluster; returns its output. Raises OperationError with its error output."""
        done = tools.run_helm(*arguments, kubeconfig=self.kubeconfig)
        if done.returncode:
            raise OperationError(
                f"`helm {' '.join(arguments)}` ended with exit code {done.returncode}: {done.stderr.strip()}"
            )
        return done.stdout

    def _install_crds(self, api: Api) -> None:
        for crd in crds.other_addons():
            api.apply(crd)

    def _environment(self, aws: Mapping[str, str]) -> dict[str, str]:
        keep = {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ
        }
        return {**keep, **aws, "PYTHONUNBUFFERED": "1", _MARK: str(self.home)}


def eks_arn(deployment: Deployment) -> str:
    """The name that `aws eks update-kubeconfig` gives a deployment's cluster in a kubeconfig."""
    return f"arn:aws:eks:{deployment.region}:{deployment.account}:cluster/{deployment.name}"


def given_kubeconfig(environment: Mapping[str, str], report: Callable[[str], None]) -> Path | None:
    """The kubeconfig in KUBECONFIG, if its cluster can have stand-in nodes: on this machine, without other nodes.

    Any other cluster is not used, and `report` receives the reason: KUBECONFIG may be set in the user's profile, and a
    real cluster must not get stand-in nodes. Raises UserError if it does not name a kubeconfig.
    """
    text = environment.get("KUBECONFIG", "")
    if not text:
        return None
    if why := _why_unsuitable(text):
        report(f"KUBECONFIG={text} is not used, because {why}; a local control plane starts instead")
        return None
    return Path(text).expanduser()


def _why_unsuitable(text: str) -> str:
    """Why the cluster of KUBECONFIG cannot have stand-in nodes; empty if it can."""
    if os.pathsep in text:
        return "it names several files"
    path = Path(text).expanduser()
    try:
        name, cluster, user = _current(path)
        host = urlsplit(cluster["server"]).hostname
    except (OSError, yaml.YAMLError, KeyError, TypeError, StopIteration) as error:
        raise UserError(f"KUBECONFIG={text} is not a kubeconfig with a current context: {error!r}; unset it") from error
    if host not in _LOOPBACK:
        return f"its cluster is at {host}, not on this machine"
    login = Path((user.get("exec") or {}).get("command", "")).name
    if login in _EKS_LOGINS or name.startswith("arn:"):  # its address may be on this machine, through a tunnel
        return f"its cluster is the EKS cluster {name}"
    try:
        nodes = Api(Cluster(kubeconfig=path)).list("Node")
    except (RefusedError, UnreachableError) as error:
        return f"its API server does not answer: {error}"
    others = [node["metadata"]["name"] for node in nodes if not is_stand_in(node)]
    return (
        f"its cluster has other nodes ({', '.join(others)}), whose pods could not reach the local AWS" if others else ""
    )


def flattened(path: Path, name: str) -> str:
    """A kubeconfig's current context only, renamed to `name`, with the contents of the files that it refers to."""
    _, cluster, user = _current(path)
    for part in (cluster, user):
        for field in ("certificate-authority", "client-certificate", "client-key"):
            if file := part.pop(field, None):
                part[f"{field}-data"] = base64.b64encode((path.parent / file).read_bytes()).decode()
    if file := user.pop("tokenFile", None):
        user["token"] = (path.parent / file).read_text().strip()
    return kubeconfig_text(name, cluster, user)


def _current(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The cluster's name, the cluster's settings and the user's settings of a kubeconfig's current context."""
    config = yaml.safe_load(path.read_text())
    context = next(each["context"] for each in config["contexts"] if each["name"] == config["current-context"])
    cluster = next(each["cluster"] for each in config["clusters"] if each["name"] == context["cluster"])
    users = (each["user"] for each in config.get("users") or [] if each["name"] == context.get("user"))
    return str(context["cluster"]), dict(cluster), dict(next(users, {}))


def _part(process: Process) -> PartStatus:
    pid = process.pid
    dead = "dead" if process.recorded() else "stopped"
    return PartStatus(process.name, "running" if pid else dead, pid, None, process.log)


def wait_for(what: str, ready: Callable[[], bool], seconds: float, explain: Callable[[], str]) -> float:
    """Poll until true; returns the seconds it took. Raises OperationError with `explain()` after `seconds`."""
    begun = time.monotonic()
    while True:
        with contextlib.suppress(RefusedError, UnreachableError):
            if ready():
                return time.monotonic() - begun
        if time.monotonic() - begun > seconds:
            raise OperationError(f"{what}: did not happen within {seconds:.0f} s. {explain()}")
        time.sleep(0.25)
