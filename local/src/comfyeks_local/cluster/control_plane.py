"""etcd, API server, controller manager and scheduler on loopback, as processes, with certificates of their own.

Configured like EKS where it matters here: Node and RBAC authorization, NodeRestriction, Pod Security admission.
State does not outlive the cluster: every start begins with an empty etcd.
"""

from __future__ import annotations

import base64
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from comfyeks.errors import OperationError
from comfyeks.files import write_atomically
from comfyeks.kubernetes.api import Api, Cluster, RefusedError, UnreachableError
from comfyeks_local.cluster import certificates
from comfyeks_local.processes import Process, free_ports, wait_until

HOST = "127.0.0.1"
PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
# Outside the VPC (10.0.0.0/16 by default), as in EKS.
SERVICE_CIDR = "172.20.0.0/16"
_SERVICE_ADDRESS = "172.20.0.1"
_STOP_SECONDS = 10.0


class ControlPlane:
    """The control plane of one folder. `environment` is the environment of its processes."""

    def __init__(self, home: Path, environment: Mapping[str, str], name: str = "local") -> None:
        """`name` is that of cluster, user and context in the kubeconfig."""
        self.home = home
        self.kubeconfig = home / "kubeconfig"
        self._pki = home / "pki"
        self._name = name
        self._environment = dict(environment)
        self.processes = {name: Process(home, name) for name in PARTS}

    def start(self, programs: Mapping[str, Path], timeout: float = 90) -> None:
        """Start with an empty etcd; returns once the default service account exists, so that pods can be created.

        Raises OperationError with the end of the log of the process that ended or did not become ready.
        """
        shutil.rmtree(self.home / "etcd", ignore_errors=True)
        self._write_certificates()
        etcd, peer, server = free_ports(3)
        self._run("etcd", programs, self._etcd_flags(etcd, peer))
        self._run("kube-apiserver", programs, self._api_server_flags(etcd, server))
        self._write_kubeconfigs(f"https://{HOST}:{server}")
        self._wait("kube-apiserver", lambda: _listens(server) and self._ready(), timeout)
        for name, flags in (
            ("kube-controller-manager", self._controller_manager_flags()),
            ("kube-scheduler", [f"--kubeconfig={self.kubeconfig}"]),
        ):
            self._run(name, programs, [*flags, "--leader-elect=false", "--secure-port=0"])
        self._wait("kube-controller-manager", self._has_service_account, timeout)

    def stop(self) -> None:
        """Stop all processes; etcd last, so that the others log no errors about it."""
        for name in reversed(PARTS):
            self.processes[name].stop(_STOP_SECONDS)

    def node_kubeconfig(self, node: str) -> str:
        """The kubeconfig of a node: the only user that the Node authorizer lets act for that node."""
        return self._kubeconfig(self._user(f"system:node:{node}", ["system:nodes"]))

    @property
    def endpoint(self) -> str:
        return str(yaml.safe_load(self.kubeconfig.read_text())["clusters"][0]["cluster"]["server"])

    def certificate_authority(self) -> bytes:
        """PEM."""
        return (self._pki / "ca.crt").read_bytes()

    # -- certificates -------------------------------------------------------------------------------------------------

    def _write_certificates(self) -> None:
        shutil.rmtree(self._pki, ignore_errors=True)
        self._pki.mkdir(parents=True, mode=0o700)
        ca = certificates.authority()
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", HOST, _SERVICE_ADDRESS]
        self._write_pair("ca", ca)
        self._write_pair("server", certificates.issue(ca, "kube-apiserver", hosts=names))
        self._write_pair("etcd-server", certificates.issue(ca, "etcd", hosts=["localhost", HOST]))
        self._write_pair("etcd-client", certificates.issue(ca, "kube-apiserver"))
        self._write_pair("kubelet-client", certificates.issue(ca, "kube-apiserver-kubelet-client", ["system:masters"]))
        self._write_pair("service-accounts", certificates.signing_key())

    def _write_pair(self, name: str, pair: certificates.Pair) -> None:
        (self._pki / f"{name}.crt").write_bytes(pair.certificate)
        write_atomically(self._pki / f"{name}.key", pair.key.decode(), mode=0o600)

    def _user(self, name: str, groups: list[str]) -> certificates.Pair:
        ca = certificates.Pair((self._pki / "ca.crt").read_bytes(), (self._pki / "ca.key").read_bytes())
        return certificates.issue(ca, name, groups)

    def _write_kubeconfigs(self, endpoint: str) -> None:
        admin = self._kubeconfig(self._user("local-administrator", ["system:masters"]), endpoint)
        write_atomically(self.kubeconfig, admin, mode=0o600)

    def _kubeconfig(self, user: certificates.Pair, endpoint: str | None = None) -> str:
        cluster = {
            "server": endpoint or self.endpoint,
            "certificate-authority-data": _base64(self.certificate_authority()),
        }
        credentials = {
            "client-certificate-data": _base64(user.certificate),
            "client-key-data": _base64(user.key),
        }
        return kubeconfig_text(self._name, cluster, credentials)

    # -- flags --------------------------------------------------------------------------------------------------------

    def _etcd_flags(self, port: int, peer: int) -> list[str]:
        pki, client, peers = self._pki, f"https://{HOST}:{port}", f"https://{HOST}:{peer}"
        return [
            f"--data-dir={self.home / 'etcd'}",
            "--unsafe-no-fsync",  # the data need not survive a crash of the machine
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            *(
                f"--{prefix}{flag}"
                for prefix in ("", "peer-")
                for flag in (
                    f"cert-file={pki / 'etcd-server.crt'}",
                    f"key-file={pki / 'etcd-server.key'}",
                    f"trusted-ca-file={pki / 'ca.crt'}",
                    "client-cert-auth",
                )
            ),
            "--log-level=warn",
        ]

    def _api_server_flags(self, etcd: int, port: int) -> list[str]:
        pki = self._pki
        return [
            f"--etcd-servers=https://{HOST}:{etcd}",
            f"--etcd-cafile={pki / 'ca.crt'}",
            f"--etcd-certfile={pki / 'etcd-client.crt'}",
            f"--etcd-keyfile={pki / 'etcd-client.key'}",
            f"--bind-address={HOST}",
            f"--advertise-address={HOST}",
            f"--secure-port={port}",
            f"--tls-cert-file={pki / 'server.crt'}",
            f"--tls-private-key-file={pki / 'server.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--anonymous-auth=false",
            "--allow-privileged",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
            f"--service-account-key-file={pki / 'service-accounts.crt'}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
            f"--kubelet-client-key={pki / 'kubelet-client.key'}",
            "--kubelet-preferred-address-types=ExternalIP",  # the others are in a network that does not exist
            "--endpoint-reconciler-type=none",  # its own address is a loopback one, which endpoints may not have
        ]

    def _controller_manager_flags(self) -> list[str]:
        return [
            f"--kubeconfig={self.kubeconfig}",
            f"--root-ca-file={self._pki / 'ca.crt'}",
            f"--service-account-private-key-file={self._pki / 'service-accounts.key'}",
            "--use-service-account-credentials",
        ]

    # -- processes ----------------------------------------------------------------------------------------------------

    def _run(self, name: str, programs: Mapping[str, Path], flags: list[str]) -> None:
        self.processes[name].start([programs[name], *flags], self._environment)

    def _wait(self, name: str, ready: Callable[[], bool], timeout: float) -> None:
        process = self.processes[name]
        try:
            wait_until(name, lambda: bool(ready() or self._dead()), timeout, every=0.2)
        except TimeoutError as error:
            raise OperationError(f"{error}; the end of {process.log}:\n{process.tail()}") from error
        if dead := self._dead():
            raise OperationError(f"{dead.name} ended; the end of {dead.log}:\n{dead.tail()}")

    def _dead(self) -> Process | None:
        return next((each for each in self.processes.values() if each.recorded() and not each.alive()), None)

    def _ready(self) -> bool:
        try:
            return bool(Cluster(kubeconfig=self.kubeconfig).request("GET", "/readyz") == "ok")
        except (UnreachableError, RefusedError):
            return False

    def _has_service_account(self) -> bool:
        try:
            return Api(Cluster(kubeconfig=self.kubeconfig)).get("ServiceAccount", "default", "default") is not None
        except (UnreachableError, RefusedError):
            return False


def kubeconfig_text(name: str, cluster: Mapping[str, str], user: Mapping[str, str]) -> str:
    """A kubeconfig with one context; cluster, user and context are called `name`."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": dict(cluster)}],
            "users": [{"name": name, "user": dict(user)}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        }
    )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
