"""The rendered user data on a real systemd as PID 1 (systemd-nspawn): what the stand-in of a local node cannot prove.

    COMFYEKS_BOOT=1 pytest tests/node/test_node_boot.py           as root, five minutes

The root is an overlay of this machine's own, so its Python and systemd are inside. The array is a file system on a loop
device; the sleeping disk that it is made of is a folder over /sys/block. No network means that the bucket's host has no
address. Only on request, because it mounts and boots on the host as root; skipped where nspawn cannot run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest

from comfyeks.charts.render import render
from comfyeks.paths import REPO_ROOT
from tests.node.s3_stub import Fault, S3Stub
from tests.node.support import eventually

pytestmark = pytest.mark.local

FILES = {
    "program": "comfyui-model-sync",
    "service": "comfyui-model-sync.service",
    "timer": "comfyui-model-sync.timer",
    "path": "comfyui-model-sync.path",
}
UNITS = {
    "node.target": "[Unit]\nRequires=basic.target\n"
    "Wants=user-data.service nodeadm-run.service kubelet.service array.service\nAllowIsolate=yes\n",
    # cloud-init runs user data at the first boot only.
    "user-data.service": "[Unit]\nBefore=nodeadm-run.service\nConditionPathExists=!/opt/user-data-done\n"
    "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/bash /opt/user-data.sh\n"
    "ExecStartPost=/usr/bin/touch /opt/user-data-done\n",
    "nodeadm-run.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/bash /opt/nodeadm.sh\n",
    "kubelet.service": "[Unit]\nAfter=nodeadm-run.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
    "ExecStart=/usr/bin/touch /opt/kubelet-started\n",
    # An array that something else makes, later than nodeadm is done.
    "array.service": "[Unit]\nConditionPathExists=/opt/array.sh\n[Service]\nExecStart=/bin/bash /opt/array.sh\n",
}
HOST = "bucket.test"
LATE = 120  # seconds
WITHOUT_NETWORK = 60  # seconds
MOUNT = "mkdir -p /mnt/k8s-disks/0 && mount {device} /mnt/k8s-disks/0"
# `aws s3 cp [options] SOURCE TARGET`, all that user data asks of it.
AWS = """#!/usr/bin/python3 -SE
import os, sys, urllib.request
source, target = sys.argv[-2:]
urllib.request.urlretrieve(os.environ["AWS_ENDPOINT_URL_S3"] + "/" + source[5:], target)
"""


class Machine:
    """A root folder that systemd boots in; `root` is what the host sees of it."""

    def __init__(self, home: Path, s3: S3Stub) -> None:
        self.root, self._log = home / "root", home / "console.log"
        self.array, self._block = home / "array", home / "block"
        self.device = ""
        self._block.mkdir()
        for name in ("root", "upper", "work"):
            (home / name).mkdir()
        layers = f"lowerdir=/,upperdir={home / 'upper'},workdir={home / 'work'}"
        mounted = subprocess.run(["mount", "-t", "overlay", "none", "-o", layers, self.root], capture_output=True)
        if mounted.returncode:
            pytest.skip(f"no overlay of the root folder here: {mounted.stderr.decode().strip()}")
        self.opt = self.root / "opt"
        units = self.root / "etc/systemd/system"
        for name, text in UNITS.items():
            (units / name).write_text(text)
        for name in ("apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer", "e2scrub_all.timer"):
            (units / name).unlink(missing_ok=True)
            (units / name).symlink_to("/dev/null")
        (self.root / "usr/bin/aws").unlink(missing_ok=True)
        (self.root / "usr/bin/aws").write_text(AWS)
        (self.root / "usr/bin/aws").chmod(0o755)
        self._hosts = (self.root / "etc/hosts").read_text()
        self.network(up=True)
        variables = s3.environment() | {"AWS_ENDPOINT_URL_S3": s3.endpoint.replace("127.0.0.1", HOST)}
        environment = "".join(f"{name}={value}\n" for name, value in variables.items())
        (self.root / "opt/aws.env").write_text(environment)
        for unit in ("user-data.service", "comfyui-model-sync.service"):
            (units / f"{unit}.d").mkdir()
            (units / f"{unit}.d/local.conf").write_text("[Service]\nEnvironmentFile=/opt/aws.env\n")
        self._user_data(s3)

    def network(self, *, up: bool) -> None:
        (self.root / "etc/hosts").write_text(self._hosts + (f"127.0.0.1 {HOST}\n" if up else ""))

    def add_disk(self) -> None:
        """A local disk, as the kernel shows it, and a file system for the array that will be made of it."""
        device = self._block / "nvme1n1/device"
        device.mkdir(parents=True)
        (device / "model").write_text(f"{'Amazon EC2 NVMe Instance Storage':<40}\n")
        with self.array.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", self.array], check=True)
        attached = subprocess.run(["losetup", "--find", "--show", self.array], capture_output=True, text=True)
        if attached.returncode:
            pytest.skip(f"no loop device here: {attached.stderr.strip()}")
        self.device = attached.stdout.strip()

    def _user_data(self, s3: S3Stub) -> None:
        files = {}
        for name, file in FILES.items():
            body = (REPO_ROOT / "node" / file).read_bytes()
            files[name] = {"key": f"node/h/{file}", "sha256": hashlib.sha256(body).hexdigest()}
            s3.put(f"node/h/{file}", body)
        settings = {"prefixes": ["loras/"], "imageReserve": "0", "scratchReserve": 0, "budget": "100MB"}
        sync = {"bucket": "models", "artifactsBucket": "models", "region": "us-west-2", "files": files}
        values: dict[str, Any] = {
            "cluster": {"name": "c"},
            "nodeRole": "r",
            "modelSync": {**sync, "settings": settings},
        }
        [node_class] = render("karpenter-gpu", values=values).of_kind("EC2NodeClass")
        parts = message_from_string(node_class["spec"]["userData"]).walk()
        [script] = [str(part.get_payload()) for part in parts if part.get_content_type() == "text/x-shellscript"]
        (self.opt / "user-data.sh").write_text(script)

    @contextmanager
    def booted(self) -> Iterator[None]:
        """From power on to a clean power off."""
        argv = ["systemd-nspawn", "-q", "-D", self.root, "--register=no", "--keep-unit", "--boot", "--console=pipe"]
        argv += [f"--bind-ro={self._block}:/sys/block", *([f"--bind={self.device}"] if self.device else [])]
        (self.opt / "kubelet-started").unlink(missing_ok=True)
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*argv, "systemd.unit=node.target"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            try:
                eventually(lambda: (self.opt / "kubelet-started").exists() or process.poll() is not None, 150)
            except AssertionError:
                raise AssertionError(f"not booted:\n{self.console()}") from None
            if process.poll() is not None:
                pytest.skip(f"systemd-nspawn cannot boot here: {self.console()[-300:]}")
            yield
        finally:
            process.send_signal(signal.SIGTERM)  # an orderly halt
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()

    def console(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def status(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.root / "var/lib/comfyui-model-sync/status.json").read_text())
        except FileNotFoundError:
            return {}
        return content

    def eventually(self, condition: Callable[[], bool]) -> None:
        try:
            eventually(condition, LATE + 60)
        except AssertionError:
            raise AssertionError(f"{self.status()}\n{self.console()}") from None

    def becomes_ready(self) -> None:
        self.eventually(lambda: self.status().get("ready") is True)
        assert self.status()["files"] == 1

    def place(self) -> str:
        return str((self.root / "comfyui-models").readlink())

    def end(self) -> None:
        subprocess.run(["umount", "--lazy", self.root], check=True)
        if self.device:
            subprocess.run(["losetup", "--detach", self.device], check=True)


@pytest.fixture
def machine(s3: S3Stub) -> Iterator[Machine]:
    if os.environ.get("COMFYEKS_BOOT") != "1":
        pytest.skip("boots a systemd as root: only with COMFYEKS_BOOT=1")
    if shutil.which("systemd-nspawn") is None or os.geteuid() != 0:
        pytest.skip("no systemd-nspawn here, or not root: boot is shown on the stand-in systemd of a local node only")
    home = Path("/dev/shm") / f"comfyeks-boot-{os.getpid()}"  # an upper directory must not lie on an overlay or ext4
    home.mkdir()
    machine = None
    try:
        machine = Machine(home, s3)
        yield machine
    finally:
        if machine is not None:
            machine.end()
        shutil.rmtree(home, ignore_errors=True)


def boots_and_syncs(machine: Machine, s3: S3Stub, during: Callable[[], None] = lambda: None) -> None:
    """The node joins while the only model is still on its way; then that is there, at its final place."""
    s3.put("loras/a", b"first")
    s3.fault = lambda verb, key: Fault(delay=4) if verb == "get" and key == "loras/a" else None
    with machine.booted():
        assert not machine.status().get("ready"), "kubelet is not delayed by the models"
        during()
        machine.becomes_ready()
        s3.put("loras/b", b"second")
    s3.delete("loras/a")


def restarts_and_follows(machine: Machine) -> None:
    """What changed while the node was down is there after its next start, by the same units."""
    with machine.booted():
        machine.eventually(lambda: machine.status().get("files") == 1 and machine.status()["state"] == "idle")
        assert machine.status()["downloaded"] == 1
        assert machine.status()["ready"]


def test_a_node_joins_first_and_syncs_then_and_again_after_a_restart(machine: Machine, s3: S3Stub) -> None:
    machine.add_disk()
    (machine.opt / "nodeadm.sh").write_text(MOUNT.format(device=machine.device))
    boots_and_syncs(machine, s3)
    assert machine.place() == "/mnt/k8s-disks/0/comfyui-models"
    restarts_and_follows(machine)


def test_an_array_that_comes_two_minutes_late_is_waited_for_by_the_models_only(machine: Machine, s3: S3Stub) -> None:
    machine.add_disk()
    (machine.opt / "nodeadm.sh").write_text("true")
    (machine.opt / "array.sh").write_text(f"sleep {LATE}; {MOUNT.format(device=machine.device)}")

    def waiting() -> None:
        machine.eventually(lambda: machine.status().get("state") == "waiting_for_storage")
        assert not (machine.root / "comfyui-models").is_symlink(), "pods wait for the link"

    boots_and_syncs(machine, s3, waiting)
    assert machine.place() == "/mnt/k8s-disks/0/comfyui-models"
    (machine.opt / "array.sh").write_text(f"sleep 1; {MOUNT.format(device=machine.device)}")
    restarts_and_follows(machine)


def test_a_node_without_local_disks_keeps_models_on_its_root_volume(machine: Machine, s3: S3Stub) -> None:
    (machine.opt / "nodeadm.sh").write_text("true")
    boots_and_syncs(machine, s3)
    assert machine.place() == "/var/lib/comfyui-models"
    restarts_and_follows(machine)


def test_a_minute_without_network_delays_the_models_and_not_the_node(machine: Machine, s3: S3Stub) -> None:
    (machine.opt / "nodeadm.sh").write_text("true")
    boots_and_syncs(machine, s3)
    machine.network(up=False)
    with machine.booted():
        machine.eventually(lambda: "trying again" in (machine.status().get("error") or ""))
        assert machine.status()["ready"], "what was whole still is"
        time.sleep(WITHOUT_NETWORK)
        machine.network(up=True)
        machine.eventually(lambda: machine.status().get("files") == 1 and machine.status()["state"] == "idle")
        assert machine.status()["error"] is None


def test_user_data_survives_a_minute_without_network(machine: Machine, s3: S3Stub) -> None:
    (machine.opt / "nodeadm.sh").write_text("true")
    s3.put("loras/a", b"first")
    machine.network(up=False)
    back = threading.Timer(WITHOUT_NETWORK, machine.network, kwargs={"up": True})
    back.start()
    with machine.booted():  # without a network, kubelet could not join either
        machine.becomes_ready()
    back.join()
