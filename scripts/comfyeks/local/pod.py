"""A stand-in for kubelet: runs the ComfyUI pod that the chart renders as processes of this machine.

Environment, arguments, scripts and volumes are the rendered pod's own. What differs, because there is no container:

- mount paths, the port and the address to listen on are rewritten, in arguments and environment, to folders, a free
  port and the loopback address of this machine;
- the ComfyUI container's `main.py` is the stand-in server (`comfyeks.local.comfyui`), other interpreters are this one;
- the models volume is a local node's models folder, claims are folders.

It cannot show: images, users and read-only root file systems, resource limits, probes' timing, network
policies, Mountpoint.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from comfyeks.charts.render import Rendered
from comfyeks.errors import Failure
from comfyeks.local.processes import Process
from comfyeks.paths import STATE

PODS = STATE / "local" / "pods"
_LEAST_GRACE = 2.0  # seconds that kubelet grants once more when the hook has used the grace period up


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class _Rewriter:
    """Mount paths → folders, container port → local port, in any text of the pod."""

    folders: Mapping[str, Path]
    port: int
    local_port: int

    def __call__(self, text: str) -> str:
        # One pass: a folder of this machine may itself lie below a mount path (/tmp). A mount path ends at a path
        # boundary: /app/input must not match in /app/inputs.
        mounts = "|".join(re.escape(mount) for mount in sorted(self.folders, key=len, reverse=True))
        pattern = rf"(?P<port>(?<!\d){self.port}(?!\d))|(?P<any>\b0\.0\.0\.0\b)"
        if mounts:
            pattern += rf"|(?P<mount>{mounts})(?=/|$|[\s:\"'])"
        return re.sub(pattern, self._replacement, text)

    def _replacement(self, match: re.Match[str]) -> str:
        if match["port"]:
            return str(self.local_port)
        if match["any"]:
            return "127.0.0.1"
        return str(self.folders[match["mount"]])


class LocalPod:
    """One replica of the rendered Deployment on one local node.

    Args:
        home: folder for this pod's volumes, logs and pid files.
        rendered: the chart as rendered.
        node_models: models folder of the node that it runs on.
        aws: AWS endpoints and credentials (the latter are what Pod Identity gives a real pod).
    """

    def __init__(
        self, home: Path, rendered: Rendered, node_models: Path, aws: Mapping[str, str], name: str = "comfyui-0"
    ):
        [deployment] = rendered.of_kind("Deployment")
        self.home = home
        self.name = name
        self._rendered = rendered
        python = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        self._env = {**python, **aws}
        self._spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
        self._node_models = node_models
        self._volumes: dict[str, Path] = {}
        self._port = self._container_port()
        self.local_port = _free_port()
        self.grace = float(self._spec.get("terminationGracePeriodSeconds", 30))

    # -- what others use ----------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.local_port}"

    def start(self, ready_within: float = 60) -> None:
        """Run init containers in order, start sidecars and the server, wait until the readiness probe passes.

        Raises Failure with the end of the log of whatever did not do its part.
        """
        for container in self._spec.get("initContainers", []):
            if container.get("restartPolicy") == "Always":
                self._start(container)
            else:
                self._run_to_end(container)
        [server] = self._spec["containers"]
        process = self._start(server)
        probe = server["readinessProbe"]["httpGet"]["path"]
        deadline = time.monotonic() + ready_within
        while not self._answers(probe):
            if not process.alive() or time.monotonic() > deadline:
                raise Failure(f"container {server['name']} did not become ready:\n{process.tail()}")
            time.sleep(0.1)
        for container in self._sidecars():
            if not (sidecar := Process(self.home, container["name"])).alive():
                raise Failure(f"sidecar {container['name']} ended:\n{sidecar.tail()}")

    def stop(self) -> None:
        """End the pod as kubelet does: preStop, SIGTERM to the server, then to the sidecars in reverse order.

        All of it within the grace period; a preStop hook that takes longer is ended, and the rest follows.
        """
        deadline = time.monotonic() + self.grace

        def left() -> float:
            return max(_LEAST_GRACE, deadline - time.monotonic())

        [server] = self._spec["containers"]
        hook = server.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        process = Process(self.home, server["name"])
        if hook and process.alive():
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(self._argv(hook, server), env=self._environment(server), timeout=left(), check=False)
        process.stop(left())
        for sidecar in reversed(list(self._sidecars())):
            Process(self.home, sidecar["name"]).stop(left())

    # -- containers as processes --------------------------------------------------------------------------------------

    def _sidecars(self) -> Iterator[dict[str, Any]]:
        return (c for c in self._spec.get("initContainers", []) if c.get("restartPolicy") == "Always")

    def _start(self, container: dict[str, Any]) -> Process:
        process = Process(self.home, container["name"])
        process.start(self._argv(self._command(container), container), self._environment(container))
        return process

    def _run_to_end(self, container: dict[str, Any]) -> None:
        process = self._start(container)
        code = process.wait()
        if code != 0:
            raise Failure(f"init container {container['name']} ended with exit code {code}:\n{process.tail()}")

    @staticmethod
    def _command(container: dict[str, Any]) -> list[str]:
        return [*container.get("command", []), *container.get("args", [])]

    def _argv(self, command: list[str], container: dict[str, Any]) -> list[str]:
        """The container's command with this machine's interpreter and, for ComfyUI's main.py, the stand-in server."""
        rewrite = self._rewriter(container)
        words = command[command.index("--") + 1 :] if Path(command[0]).name == "tini" else command
        main = next((i for i, word in enumerate(words) if Path(word).name == "main.py"), None)
        if main is not None:
            return [sys.executable, "-m", "comfyeks.local.comfyui", *map(rewrite, words[main + 1 :])]
        interpreter = sys.executable if Path(words[0]).name.startswith("python") else words[0]
        return [interpreter, *map(rewrite, words[1:])]

    def _environment(self, container: dict[str, Any]) -> dict[str, str]:
        rewrite = self._rewriter(container)
        return {**self._env, **{item["name"]: rewrite(self._value(item)) for item in container.get("env", [])}}

    def _value(self, item: dict[str, Any]) -> str:
        if "value" in item:
            return str(item["value"])
        return {"metadata.name": self.name}[item["valueFrom"]["fieldRef"]["fieldPath"]]

    # -- volumes as folders -------------------------------------------------------------------------------------------

    def _rewriter(self, container: dict[str, Any]) -> _Rewriter:
        folders = {mount["mountPath"]: self._volume(mount["name"]) for mount in container.get("volumeMounts", [])}
        return _Rewriter(folders, self._port, self.local_port)

    def _volume(self, name: str) -> Path:
        """The volume's folder, made once: a container that starts must not find its script half written again."""
        if name not in self._volumes:
            [volume] = [v for v in self._spec["volumes"] if v["name"] == name]
            self._volumes[name] = self._make_volume(volume)
        return self._volumes[name]

    def _make_volume(self, volume: dict[str, Any]) -> Path:
        if claim := volume.get("persistentVolumeClaim"):
            if self._is_node_path(claim["claimName"]):
                return self._node_models
            folder = self.home / "claims" / str(claim["claimName"])
        else:
            folder = self.home / "volumes" / str(volume["name"])
        folder.mkdir(parents=True, exist_ok=True)
        if config := volume.get("configMap"):
            for file, text in self._rendered.get("ConfigMap", config["name"])["data"].items():
                (folder / file).write_text(text)
        return folder

    def _is_node_path(self, claim: str) -> bool:
        volumes = self._rendered.of_kind("PersistentVolume")
        return any("hostPath" in pv["spec"] and pv["spec"]["claimRef"]["name"] == claim for pv in volumes)

    def _container_port(self) -> int:
        [server] = self._spec["containers"]
        [port] = server["ports"]
        return int(port["containerPort"])

    def _answers(self, path: str) -> bool:
        try:
            return requests.get(self.url + path, timeout=2).ok
        except requests.RequestException:
            return False


def kill_all() -> None:
    """End the containers of every pod below PODS at once, also those that a killed command left."""
    for record in PODS.glob("*/run/*.json"):
        Process(record.parent.parent, record.stem).kill()
