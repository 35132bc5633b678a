"""A stand-in for a container runtime: runs the containers of a pod as processes of this machine.

Environment, arguments, scripts and volumes are the pod's own. These differ, because there is no container:

- mount paths, the ports and the address to listen on are rewritten, in arguments and environment, to folders, free
  ports and the loopback address of this machine;
- ComfyUI's `main.py` is replaced by the stand-in server (`comfyeks_local.comfyui`), other Python interpreters by this
  one, and an image whose entrypoint is a program that was built here by that program.

It cannot show: images, users and read-only root file systems, resource limits, network policies, Mountpoint.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from comfyeks.charts.render import Rendered
from comfyeks.errors import OperationError
from comfyeks.paths import STATE
from comfyeks_local.processes import Process, free_ports

PODS = STATE / "local" / "pods"
_LEAST_GRACE = 2.0  # seconds that kubelet still grants after the hook has used up the grace period


@dataclass(frozen=True)
class _Rewriter:
    """Replaces mount paths by folders and container ports by local ports, in any text of the pod."""

    folders: Mapping[str, Path]
    ports: Mapping[int, int]

    def __call__(self, text: str) -> str:
        # In one pass, because a folder of this machine may itself lie below a mount path (/tmp). A mount path must end
        # at a path boundary: /app/input must not match in /app/inputs.
        patterns = [r"(?P<any>\b0\.0\.0\.0\b)"]
        if self.ports:
            patterns.append(rf"(?P<port>(?<!\d)(?:{'|'.join(map(str, self.ports))})(?!\d))")
        if mounts := "|".join(re.escape(mount) for mount in sorted(self.folders, key=len, reverse=True)):
            patterns.append(rf"(?P<mount>{mounts})(?=/|$|[\s:\"'])")
        return re.sub("|".join(patterns), self._replacement, text)

    def _replacement(self, match: re.Match[str]) -> str:
        found = match.groupdict()
        if found.get("port"):
            return str(self.ports[int(found["port"])])
        if found.get("mount"):
            return str(self.folders[found["mount"]])
        return "127.0.0.1"


class LocalPod:
    """One pod on one local node.

    Args:
        home: folder for this pod's volumes, logs and pid files.
        name: the name of the pod.
        spec: the pod's `spec`.
        folder: returns the folder that replaces a volume of the spec.
        env: further variables of every container (endpoints, credentials).
        fields: further values of `fieldRef`, by path.
        entrypoints: programs that images run, by a part of the image's repository.
    """

    def __init__(
        self,
        home: Path,
        name: str,
        spec: Mapping[str, Any],
        folder: Callable[[Mapping[str, Any]], Path],
        env: Mapping[str, str],
        fields: Mapping[str, str] | None = None,
        entrypoints: Mapping[str, Path] | None = None,
    ):
        self.home = home
        self.name = name
        self.spec = spec
        self._folder = folder
        python = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        self._env = {**python, **env}
        self._fields = {"metadata.name": name, **(fields or {})}
        self._entrypoints = dict(entrypoints or {})
        self._volumes: dict[str, Path] = {}
        everything = [*self.init_containers, *self.containers]
        wanted = [int(port["containerPort"]) for container in everything for port in container.get("ports", [])]
        self.ports = dict(zip(wanted, free_ports(len(wanted)), strict=True))
        self.grace = float(spec.get("terminationGracePeriodSeconds", 30))

    @classmethod
    def of_chart(cls, home: Path, rendered: Rendered, node_models: Path, aws: Mapping[str, str]) -> LocalPod:
        """A replica of the rendered Deployment without a cluster: claims are folders, that of the models is the node's.

        Args:
            node_models: models folder of the node that it runs on.
            aws: AWS endpoints and credentials (Pod Identity gives a real pod the latter).
        """
        [deployment] = rendered.of_kind("Deployment")

        def folder(volume: Mapping[str, Any]) -> Path:
            if claim := volume.get("persistentVolumeClaim"):
                sources = [pv["spec"] for pv in rendered.of_kind("PersistentVolume")]
                if any("hostPath" in pv and pv["claimRef"]["name"] == claim["claimName"] for pv in sources):
                    return node_models
                return create_folder(home / "claims" / str(claim["claimName"]))
            if config := volume.get("configMap"):
                return config_folder(home, volume["name"], rendered.get("ConfigMap", config["name"])["data"])
            return create_folder(home / "volumes" / str(volume["name"]))

        return cls(home, "comfyui-0", deployment["spec"]["template"]["spec"], folder, aws)

    # -- public ----------------------------------------------------------------------------------------------

    @property
    def containers(self) -> list[dict[str, Any]]:
        return list(self.spec["containers"])

    @property
    def init_containers(self) -> list[dict[str, Any]]:
        return list(self.spec.get("initContainers", []))

    @property
    def url(self) -> str:
        """URL of the first port of the first container."""
        return f"http://127.0.0.1:{self.ports[int(self.containers[0]['ports'][0]['containerPort'])]}"

    def process(self, container: Mapping[str, Any]) -> Process:
        """The process of a container, running or not."""
        return Process(self.home, container["name"])

    def start(self, ready_within: float = 60) -> None:
        """Run init containers in order, start sidecars and the server, wait until the readiness probe passes.

        Raises OperationError with the end of the log of the container that failed.
        """
        for container in self.init_containers:
            process = self.begin(container)
            if not is_sidecar(container) and (code := process.wait()) != 0:
                raise OperationError(
                    f"init container {container['name']} ended with exit code {code}:\n{process.tail()}"
                )
        deadline = time.monotonic() + ready_within
        for container in self.containers:
            process = self.begin(container)
            while not self.is_ready(container):
                if not process.alive() or time.monotonic() > deadline:
                    raise OperationError(f"container {container['name']} did not become ready:\n{process.tail()}")
                time.sleep(0.1)
        for container in self._sidecars():
            if not (sidecar := self.process(container)).alive():
                raise OperationError(f"sidecar {container['name']} ended:\n{sidecar.tail()}")

    def stop(self, grace: float | None = None) -> None:
        """End the pod as kubelet does: preStop, SIGTERM to the containers, then to the sidecars in reverse order.

        All of this happens within the grace period; a preStop hook that takes longer is killed.
        """
        deadline = time.monotonic() + (self.grace if grace is None else grace)

        def remaining() -> float:
            return max(_LEAST_GRACE, deadline - time.monotonic())

        for container in self.containers:
            hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
            process = self.process(container)
            if hook and process.alive():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    argv, environment = self._argv(hook, container), self._environment(container)
                    subprocess.run(argv, env=environment, timeout=remaining(), check=False)
            process.stop(remaining())
        unfinished = [container for container in self.init_containers if not is_sidecar(container)]
        for container in [*unfinished, *reversed(list(self._sidecars()))]:
            self.process(container).stop(remaining())

    def begin(self, container: dict[str, Any]) -> Process:
        """Create the volumes of a container and start it. Raises OperationError if a volume cannot be created."""
        process = self.process(container)
        process.start(self._argv(self._command(container), container), self._environment(container))
        return process

    def is_ready(self, container: Mapping[str, Any]) -> bool:
        """Whether a running container passes its readiness probe; one without a probe is ready."""
        probe = container.get("readinessProbe", {}).get("httpGet")
        if probe is None:
            return self.process(container).alive()
        named = {port.get("name"): int(port["containerPort"]) for port in container.get("ports", [])}
        port = self.ports[named.get(probe["port"]) or int(probe["port"])]
        try:
            return requests.get(f"http://127.0.0.1:{port}{probe['path']}", timeout=probe.get("timeoutSeconds", 2)).ok
        except requests.RequestException:
            return False

    def volume(self, name: str) -> Path:
        """The volume's folder, created once: a second container must not see its script being written again."""
        if name not in self._volumes:
            [volume] = [v for v in self.spec["volumes"] if v["name"] == name]
            self._volumes[name] = self._folder(volume)
        return self._volumes[name]

    # -- containers as processes --------------------------------------------------------------------------------------

    def _sidecars(self) -> Iterator[dict[str, Any]]:
        return (container for container in self.init_containers if is_sidecar(container))

    def _command(self, container: Mapping[str, Any]) -> list[str]:
        if container.get("command"):
            return [*container["command"], *container.get("args", [])]
        image = str(container["image"])
        program = next((path for part, path in self._entrypoints.items() if part in image), None)
        if program is None:
            raise OperationError(
                f"container {container['name']}: there is no stand-in on this machine for the image {image}"
            )
        return [str(program), *container.get("args", [])]

    def _argv(self, command: list[str], container: Mapping[str, Any]) -> list[str]:
        """The container's command with this machine's interpreter and, for ComfyUI's main.py, the stand-in server."""
        rewrite = self._rewriter(container)
        arguments = command[command.index("--") + 1 :] if Path(command[0]).name == "tini" else command
        main = next((i for i, argument in enumerate(arguments) if Path(argument).name == "main.py"), None)
        if main is not None:
            return [sys.executable, "-m", "comfyeks_local.comfyui", *map(rewrite, arguments[main + 1 :])]
        interpreter = sys.executable if Path(arguments[0]).name.startswith("python") else arguments[0]
        return [interpreter, *map(rewrite, arguments[1:])]

    def _environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        rewrite = self._rewriter(container)
        own = {item["name"]: rewrite(self._value(item, container)) for item in container.get("env", [])}
        return {**self._env, **own}

    def _value(self, item: Mapping[str, Any], container: Mapping[str, Any]) -> str:
        source = item.get("valueFrom")
        if source is None:
            return str(item.get("value", ""))
        if "fieldRef" in source:
            return self._fields[source["fieldRef"]["fieldPath"]]
        reference = source["resourceFieldRef"]
        kind, _, resource = reference["resource"].partition(".")
        from kubernetes.utils.quantity import parse_quantity  # imports the whole client

        amount: Any = parse_quantity  # untyped
        divisor = amount(reference.get("divisor", "0")) or 1  # the API server writes 0 for 1
        return str(math.ceil(amount(container["resources"][kind][resource]) / divisor))

    def _rewriter(self, container: Mapping[str, Any]) -> _Rewriter:
        folders = {mount["mountPath"]: self.volume(mount["name"]) for mount in container.get("volumeMounts", [])}
        return _Rewriter(folders, self.ports)


def is_sidecar(container: Mapping[str, Any]) -> bool:
    """Whether an init container is a native sidecar."""
    return container.get("restartPolicy") == "Always"


def create_folder(folder: Path) -> Path:
    """Create the folder, and those above it, if missing; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def config_folder(home: Path, volume: str, data: Mapping[str, str]) -> Path:
    """Write a ConfigMap as the folder that a pod mounts."""
    folder = create_folder(home / "volumes" / volume)
    for file, text in data.items():
        (folder / file).write_text(text)
    return folder


def kill_all() -> None:
    """Kill the containers of every pod below PODS, including those of commands that were killed."""
    for record in PODS.glob("*/run/*.json"):
        Process(record.parent.parent, record.stem).kill()
