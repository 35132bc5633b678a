"""A stand-in for kubelet and the container runtime of one node: registers it and runs its pods as processes.

    python -m comfyeks_local.cluster.kubelet HOME      HOME: the local node's folder, with kubelet.json in it

Real: the Node and its lease, registered with the rights of that node only; labels and taints from the user data; pods
that the scheduler bound, their volumes resolved through claims, ConfigMaps and service account tokens; init
containers, native sidecars and restarts in kubelet's order, readiness, graceful ends, status, events and logs.

Replaced: containers are processes (`comfyeks_local.node.pod`), a hostPath lies below the node's root, a Mountpoint
volume is a folder, the GPU appears where the NVIDIA device plugin would run. A pod gets AWS credentials if its service
account has a Pod Identity association. It cannot show: images and pulls, users, cgroups and eviction, startup and
liveness probes, subPath, secrets, the pod network (a pod's address is invented; `ports.json` has its local ports).
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from comfyeks.errors import OperationError
from comfyeks.files import write_atomically
from comfyeks.kubernetes.api import Api, Cluster, ConflictError, NotFoundError, Object, RefusedError, UnreachableError
from comfyeks.versions import VERSIONS
from comfyeks_local.cluster.control_plane import HOST, kubeconfig_text
from comfyeks_local.cluster.logs import LogServer
from comfyeks_local.emulators.local_aws import local_client
from comfyeks_local.node.node_config import NodeConfig
from comfyeks_local.node.pod import LocalPod, config_folder, create_folder, is_sidecar
from comfyeks_local.processes import Process

KUBELET_VERSION = f"v{VERSIONS['go_tools']['kubernetes']}"
ROOT_VARIABLE = "COMFYUI_NODE_ROOT"
_RUNTIME = "comfyeks-local://1"
_POLL_SECONDS = 0.5
_LEASE_SECONDS = 40
_RENEW_SECONDS = 10.0
_RESTART_SECONDS = 2.0  # the first delay of the real kubelet is ten
_TOKEN_SECONDS = 24 * 3600
GPU_LABEL = "nvidia.com/gpu.present"  # where the device plugin's DaemonSet runs


@dataclass(frozen=True)
class NodeDescription:
    """The machine as Kubernetes sees it, and how to reach the cluster; stored in `HOME/kubelet.json`.

    `entrypoints` are programs by a part of an image's name. `kubeconfig` is empty if the role may not join.
    """

    node: str
    provider_id: str
    address: str
    region: str
    zone: str
    instance_type: str
    cpu: int
    memory_mib: int
    gpus: int
    kubeconfig: str
    entrypoints: dict[str, str]

    def write(self, home: Path) -> None:
        write_atomically(home / "kubelet.json", json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, home: Path) -> NodeDescription | None:
        """The description in a node's folder; None for a node without a cluster."""
        with contextlib.suppress(FileNotFoundError):
            return cls(**json.loads((home / "kubelet.json").read_text()))
        return None


class MountError(Exception):
    """A pod's volume cannot be mounted yet; the message says why."""


class PodGoneError(Exception):
    """The API server no longer has the pod."""


class Kubelet:
    """The kubelet of the node `description`, with the configuration that nodeadm read from the user data."""

    def __init__(
        self, home: Path, description: NodeDescription, config: NodeConfig, environment: Mapping[str, str]
    ) -> None:
        self.home = home
        self.machine = description
        self.config = config
        self.environment = dict(environment)
        self.root = Path(environment[ROOT_VARIABLE])
        self.api = Api(Cluster(kubeconfig=Path(description.kubeconfig)))
        self._pods: dict[str, threading.Thread] = {}
        self._renewed = 0.0
        self._addresses = 1
        self._logs = LogServer(home / "pods", self._authority(), home)

    def run(self) -> None:
        """Run until the process ends."""
        for record in self.home.glob("pods/*/run/*.json"):  # of an earlier kubelet: their pods start again
            Process(record.parent.parent, record.stem).kill()
        self.register()
        while True:
            try:
                self._renew_lease()
                self._take_new_pods()
            except (UnreachableError, RefusedError) as error:
                log(f"API server: {error}")
            time.sleep(_POLL_SECONDS)

    def _authority(self) -> str:
        """PEM of the cluster's certificate authority; empty if the kubeconfig does not contain it."""
        cluster = yaml.safe_load(Path(self.machine.kubeconfig).read_text())["clusters"][0]["cluster"]
        return base64.b64decode(cluster.get("certificate-authority-data", "")).decode()

    # -- the node -----------------------------------------------------------------------------------------------------

    def register(self) -> None:
        machine = self.machine
        labels = {
            **self.config.labels,
            "kubernetes.io/hostname": machine.node,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "node.kubernetes.io/instance-type": machine.instance_type,
            "topology.kubernetes.io/region": machine.region,
            "topology.kubernetes.io/zone": machine.zone,
        }
        node: Object = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": machine.node, "labels": labels},
            "spec": {"providerID": machine.provider_id, "taints": self.config.taints},
        }
        with contextlib.suppress(ConflictError):
            self.api.create(node)
        self.api.patch("Node", None, machine.node, {"status": self._node_status(gpus=0)}, subresource="status")
        log(f"registered {machine.node}: taints {[taint['key'] for taint in self.config.taints]}")
        if machine.gpus and labels.get(GPU_LABEL) == "true":
            self.api.patch(
                "Node", None, machine.node, {"status": self._node_status(machine.gpus)}, subresource="status"
            )
            log(f"device plugin: {machine.gpus} GPU")

    def _node_status(self, gpus: int) -> dict[str, Any]:
        machine = self.machine
        # nodeadm's reservation: see comfyeks.charts.instance_types.
        reserved_mib = 255 + 11 * self.config.max_pods + 100
        amounts = {"pods": str(self.config.max_pods), "ephemeral-storage": "400Gi"}
        if gpus:
            amounts["nvidia.com/gpu"] = str(gpus)
        now = timestamp()
        healthy = {
            "Ready": ("True", "KubeletReady"),
            "MemoryPressure": ("False", "KubeletHasSufficientMemory"),
            "DiskPressure": ("False", "KubeletHasNoDiskPressure"),
            "PIDPressure": ("False", "KubeletHasSufficientPID"),
        }
        return {
            "capacity": {**amounts, "cpu": str(machine.cpu), "memory": f"{machine.memory_mib}Mi"},
            "allocatable": {
                **amounts,
                "cpu": f"{machine.cpu * 1000 - 60 - 5 * machine.cpu}m",
                "memory": f"{machine.memory_mib - reserved_mib}Mi",
            },
            "addresses": [
                {"type": "InternalIP", "address": machine.address},
                {"type": "Hostname", "address": machine.node},
                {"type": "ExternalIP", "address": HOST},  # where the API server finds its logs
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._logs.port}},
            "conditions": [
                {"type": kind, "status": status, "reason": reason, "lastHeartbeatTime": now, "lastTransitionTime": now}
                for kind, (status, reason) in healthy.items()
            ],
            "nodeInfo": {
                "kubeletVersion": KUBELET_VERSION,
                "containerRuntimeVersion": _RUNTIME,
                "osImage": "stand-in for Amazon Linux 2023",
                "operatingSystem": "linux",
                "architecture": "amd64",
                "kernelVersion": "",
                "bootID": "",
                "machineID": "",
                "systemUUID": "",
                "kubeProxyVersion": "",
            },
        }

    def _renew_lease(self) -> None:
        if time.monotonic() - self._renewed < _RENEW_SECONDS:
            return
        spec = {
            "holderIdentity": self.machine.node,
            "leaseDurationSeconds": _LEASE_SECONDS,
            "renewTime": timestamp(microseconds=True),
        }
        namespace = "kube-node-lease"
        try:
            self.api.patch("Lease", namespace, self.machine.node, {"spec": spec})
        except NotFoundError:
            metadata = {"name": self.machine.node, "namespace": namespace}
            self.api.create(
                {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
            )
        self._renewed = time.monotonic()

    # -- pods ---------------------------------------------------------------------------------------------------------

    def _take_new_pods(self) -> None:
        for pod in self.api.list("Pod", fieldSelector=f"spec.nodeName={self.machine.node}"):
            uid = pod["metadata"]["uid"]
            if uid not in self._pods and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                self._addresses += 1
                thread = threading.Thread(target=self._run_pod, args=(pod, self._addresses), daemon=True)
                self._pods[uid] = thread
                thread.start()

    def _run_pod(self, pod: Object, number: int) -> None:
        metadata = pod["metadata"]
        name = f"{metadata['namespace']}/{metadata['name']}"
        log(f"pod {name}: starting")
        try:
            PodRun(self, pod, f"{self.machine.address.rpartition('.')[0]}.{number % 250 + 1}").run()
        except Exception as error:  # an error of one pod must not stop the others
            log(f"pod {name}: {type(error).__name__}: {error}")
            raise
        log(f"pod {name}: removed")


class PodRun:
    """Runs one pod, in a thread of its own and with a client of its own."""

    def __init__(self, kubelet: Kubelet, pod: Object, address: str) -> None:
        self._kubelet = kubelet
        self._api = Api(Cluster(kubeconfig=Path(kubelet.machine.kubeconfig)))
        self._pod = pod
        self._namespace: str = pod["metadata"]["namespace"]
        self._name: str = pod["metadata"]["name"]
        self._address = address
        self._home = kubelet.home / "pods" / f"{self._namespace}_{self._name}"
        self._restarts: dict[str, int] = {}
        self._ended: dict[str, int] = {}  # exit codes of finished init containers
        self._started: dict[str, str] = {}
        self._begun = timestamp()
        self._reported: Object = {}
        self._problem = ""
        self._local: LocalPod

    def run(self) -> None:
        try:
            if self._create() and self._initialize() and self._start():
                self._keep_running()
        except (PodGoneError, NotFoundError):  # deleted without a grace period
            pass
        self._end()

    # -- the stages: each returns false if the pod is to end -----------------------------------------------------------

    def _create(self) -> bool:
        """Create environment and volumes. A missing volume becomes an event and is tried again, as by kubelet."""
        while not self._to_end():
            try:
                self._local = LocalPod(
                    self._home,
                    self._name,
                    self._pod["spec"],
                    self._folder,
                    self._base_environment(),
                    {
                        "metadata.namespace": self._namespace,
                        "metadata.uid": self._pod["metadata"]["uid"],
                        "spec.nodeName": self._kubelet.machine.node,
                        "spec.serviceAccountName": self._service_account(),
                        "status.podIP": self._address,
                        "status.hostIP": self._kubelet.machine.address,
                    },
                    {part: Path(program) for part, program in self._kubelet.machine.entrypoints.items()},
                )
                for volume in self._pod["spec"].get("volumes", []):
                    self._local.volume(volume["name"])
            except MountError as error:
                self._report_event(str(error), "FailedMount")
                self._report_status("ContainerCreating")
                time.sleep(_POLL_SECONDS)
                continue
            ports = {str(container): local for container, local in self._local.ports.items()}
            write_atomically(self._home / "ports.json", json.dumps({"address": self._address, "ports": ports}))
            return True
        return False

    def _initialize(self) -> bool:
        """Run init containers in order; a sidecar is started and keeps running."""
        for container in self._local.init_containers:
            if is_sidecar(container):
                self._begin(container)
                continue
            while container["name"] not in self._ended:
                process = self._begin(container)
                while process.alive():
                    self._report_status("PodInitializing")
                    if self._to_end():
                        return False
                    time.sleep(_POLL_SECONDS)
                code = process.wait()
                if code == 0:
                    self._ended[container["name"]] = 0
                else:
                    self._restarted(container, code)
                self._report_status("PodInitializing")
        return True

    def _start(self) -> bool:
        for container in self._local.containers:
            try:
                self._begin(container)
            except OperationError as error:
                self._report_event(str(error), "Failed")
        return True

    def _keep_running(self) -> None:
        """Report readiness and restart containers, until the pod is deleted."""
        while not self._to_end():
            for container in self._running_containers():
                process = self._local.process(container)
                if process.recorded() and not process.alive():
                    self._restarted(container, None)
                    self._begin(container)
            self._report_status("ContainerCreating")
            time.sleep(_POLL_SECONDS)

    def _end(self) -> None:
        grace = self._grace()
        with contextlib.suppress(AttributeError):  # the LocalPod was never created
            self._report_stopping()
            self._local.stop(grace)
        with contextlib.suppress(NotFoundError):
            self._patch(
                {"phase": "Succeeded" if self._started else "Failed", "containerStatuses": self._statuses(True)}
            )
        self._api.delete("Pod", self._namespace, self._name, grace_seconds=0)

    # -- containers ---------------------------------------------------------------------------------------------------

    def _running_containers(self) -> list[dict[str, Any]]:
        sidecars = [container for container in self._local.init_containers if is_sidecar(container)]
        return [*sidecars, *self._local.containers]

    def _begin(self, container: dict[str, Any]) -> Process:
        process = self._local.begin(container)
        self._started[container["name"]] = timestamp()
        return process

    def _restarted(self, container: Mapping[str, Any], code: int | None) -> None:
        name = container["name"]
        self._restarts[name] = self._restarts.get(name, 0) + 1
        how = "ended" if code is None else f"ended with exit code {code}"
        self._report_event(f"container {name} {how}: {self._local.process(container).tail(3)}", "BackOff")
        time.sleep(_RESTART_SECONDS)

    # -- volumes and credentials --------------------------------------------------------------------------------------

    def _folder(self, volume: Mapping[str, Any]) -> Path:
        if claim := volume.get("persistentVolumeClaim"):
            return self._claimed(str(claim["claimName"]))
        if config := volume.get("configMap"):
            found = self._api.get("ConfigMap", self._namespace, config["name"])
            if found is None:
                raise MountError(f'volume "{volume["name"]}": configmap "{config["name"]}" not found')
            return config_folder(self._home, volume["name"], found.get("data", {}))
        if "emptyDir" in volume or _is_service_account(volume):  # the latter's files: see _token_kubeconfig
            return create_folder(self._home / "volumes" / str(volume["name"]))
        raise MountError(f'volume "{volume["name"]}": the local node supports only claims, ConfigMaps and emptyDir')

    def _claimed(self, claim: str) -> Path:
        bound = self._api.get("PersistentVolumeClaim", self._namespace, claim)
        name = (bound or {}).get("spec", {}).get("volumeName")
        volume = self._api.get("PersistentVolume", None, name) if name else None
        if volume is None:
            raise MountError(f'claim "{claim}" is not bound')
        source = volume["spec"]
        if host_path := source.get("hostPath"):
            folder = self._kubelet.root / str(host_path["path"]).lstrip("/")
            # This check keeps a pod from using an empty folder of the root disk before the link to the models exists.
            if host_path.get("type") == "Directory" and not folder.is_dir():
                raise MountError(
                    f'MountVolume.SetUp failed for volume "{name}": hostPath type check failed: '
                    f"{host_path['path']} is not a directory"
                )
            return folder
        if "csi" in source:
            return create_folder(self._kubelet.home / "volumes" / str(name))
        raise MountError(f'volume "{name}" is neither hostPath nor csi')

    def _service_account(self) -> str:
        return str(self._pod["spec"].get("serviceAccountName", "default"))

    def _base_environment(self) -> dict[str, str]:
        """Endpoints for every pod; credentials and a kubeconfig only for a pod that is allowed to have them."""
        everything = self._kubelet.environment
        environment = {name: value for name, value in everything.items() if name.startswith(("AWS_", "S3_", "LANG"))}
        environment[ROOT_VARIABLE] = str(self._kubelet.root)  # so that the pod's processes end with the node
        if not self._has_pod_identity():
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                environment.pop(name, None)
        if any(_is_service_account(volume) for volume in self._pod["spec"].get("volumes", [])):
            environment["KUBECONFIG"] = str(self._token_kubeconfig())
        return environment

    def _has_pod_identity(self) -> bool:
        eks = local_client(self._kubelet.environment, "eks")
        found = eks.list_pod_identity_associations(
            clusterName=self._kubelet.config.cluster,
            namespace=self._namespace,
            serviceAccount=self._service_account(),
        )
        return bool(found["associations"])

    def _token_kubeconfig(self) -> Path:
        """A kubeconfig that replaces the files below /var/run/secrets/kubernetes.io/serviceaccount."""
        metadata = self._pod["metadata"]
        answer = self._api.cluster.post(
            f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{self._service_account()}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {
                    "expirationSeconds": _TOKEN_SECONDS,
                    "boundObjectRef": {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                    },
                },
            },
        )
        mine = yaml.safe_load(Path(self._kubelet.machine.kubeconfig).read_text())
        path = self._home / "kubeconfig"
        token = {"token": str(answer["status"]["token"])}
        [cluster] = mine["clusters"]
        write_atomically(path, kubeconfig_text(cluster["name"], cluster["cluster"], token), mode=0o600)
        return path

    # -- reports to the API server ------------------------------------------------------------------------------------

    def _to_end(self) -> bool:
        pod = self._api.get("Pod", self._namespace, self._name)
        if pod is None or pod["metadata"]["uid"] != self._pod["metadata"]["uid"]:
            raise PodGoneError
        self._pod["metadata"] = pod["metadata"]
        return "deletionTimestamp" in pod["metadata"]

    def _grace(self) -> float:
        granted = self._pod["metadata"].get("deletionGracePeriodSeconds")
        return 1.0 if granted is None else float(granted)

    def _report_status(self, waiting: str) -> None:
        """Send the current status to the API server, if it changed since the last report."""
        statuses = self._statuses(waiting=waiting)
        initialized = self._is_initialized()
        ready = initialized and bool(statuses) and all(status["ready"] for status in statuses)
        running = any("running" in status["state"] for status in statuses)
        conditions = {
            "PodReadyToStartContainers": True,
            "Initialized": initialized,
            "ContainersReady": ready,
            "Ready": ready,
        }
        status: Object = {
            "phase": "Running" if running else "Pending",
            "hostIP": self._kubelet.machine.address,
            "podIP": self._address,
            "podIPs": [{"ip": self._address}],
            "startTime": self._begun,
            "conditions": self._conditions(conditions),
            "initContainerStatuses": self._statuses(waiting=waiting, init=True),
            "containerStatuses": statuses,
        }
        if status != self._reported:
            self._patch(status)
            self._reported = status

    def _report_stopping(self) -> None:
        with contextlib.suppress(NotFoundError):
            self._patch({"conditions": self._conditions({"ContainersReady": False, "Ready": False})})

    def _conditions(self, wanted: Mapping[str, bool]) -> list[Object]:
        """`wanted` with the times of the last changes, and PodScheduled, because a merge patch replaces the list."""
        before = {each["type"]: each for each in self._reported.get("conditions", [])}
        scheduled = [
            each for each in self._pod.get("status", {}).get("conditions", []) if each["type"] == "PodScheduled"
        ]
        conditions = []
        for kind, value in wanted.items():
            status = "True" if value else "False"
            old = before.get(kind)
            changed = old["lastTransitionTime"] if old and old["status"] == status else timestamp()
            conditions.append({"type": kind, "status": status, "lastTransitionTime": changed})
        return [*scheduled, *conditions]

    def _is_initialized(self) -> bool:
        local = getattr(self, "_local", None)
        if local is None:
            return False
        return all(
            container["name"] in (self._started if is_sidecar(container) else self._ended)
            for container in local.init_containers
        )

    def _statuses(self, ended: bool = False, *, waiting: str = "", init: bool = False) -> list[Object]:
        spec = self._pod["spec"]
        return [
            self._container_status(container, ended, waiting)
            for container in (spec.get("initContainers", []) if init else spec["containers"])
        ]

    def _container_status(self, container: Mapping[str, Any], ended: bool, waiting: str) -> Object:
        name = container["name"]
        local: LocalPod | None = getattr(self, "_local", None)
        running = local is not None and name in self._started and local.process(container).alive()
        state: Object
        if name in self._ended:
            state = {"terminated": {"exitCode": self._ended[name], "reason": "Completed"}}
        elif running:
            state = {"running": {"startedAt": self._started[name]}}
        elif ended:
            state = {"terminated": {"exitCode": 0, "reason": "Completed"}}
        else:
            state = {"waiting": {"reason": waiting}}
        to_end = not is_sidecar(container) and container in self._pod["spec"].get("initContainers", [])
        ready = name in self._ended or (running and not to_end and local is not None and local.is_ready(container))
        return {
            "name": name,
            "image": container["image"],
            "imageID": "",
            "restartCount": self._restarts.get(name, 0),
            "started": running,
            "ready": ready,
            "state": state,
        }

    def _patch(self, status: Object) -> None:
        self._api.patch("Pod", self._namespace, self._name, {"status": status}, subresource="status")

    def _report_event(self, message: str, reason: str) -> None:
        """Create an event of the pod, unless the message is the same as the last one."""
        if message == self._problem:
            return
        self._problem = message
        log(f"pod {self._namespace}/{self._name}: {reason}: {message}")
        metadata = self._pod["metadata"]
        with contextlib.suppress(RefusedError, UnreachableError):
            self._api.create(
                {
                    "apiVersion": "v1",
                    "kind": "Event",
                    "metadata": {"generateName": f"{self._name}.", "namespace": self._namespace},
                    "involvedObject": {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "name": self._name,
                        "namespace": self._namespace,
                        "uid": metadata["uid"],
                    },
                    "type": "Warning",
                    "reason": reason,
                    "message": message,
                    "source": {"component": "kubelet", "host": self._kubelet.machine.node},
                    "firstTimestamp": timestamp(),
                    "lastTimestamp": timestamp(),
                    "count": 1,
                }
            )


def is_stand_in(node: Object) -> bool:
    """Whether a Node of the cluster is run by this stand-in."""
    return bool(node.get("status", {}).get("nodeInfo", {}).get("containerRuntimeVersion") == _RUNTIME)


def _is_service_account(volume: Mapping[str, Any]) -> bool:
    """Whether it is the volume with the token of the pod's service account."""
    return any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", []))


def timestamp(*, microseconds: bool = False) -> str:
    """The current time in the format of the API server."""
    now = datetime.datetime.now(datetime.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if microseconds else "%Y-%m-%dT%H:%M:%SZ")


def log(line: str) -> None:
    print(f"{timestamp()} {line}", file=sys.stderr, flush=True)


def main() -> None:
    home = Path(sys.argv[1])
    description = NodeDescription.read(home)
    assert description is not None
    config = NodeConfig(**json.loads((home / "nodeadm.json").read_text()))
    Kubelet(home, description, config, os.environ).run()


if __name__ == "__main__":
    main()
