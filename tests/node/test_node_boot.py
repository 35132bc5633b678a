"""The rendered user data on a real systemd as PID 1 (systemd-nspawn): what the stand-in of a local node cannot prove.

The root is an overlay of this machine's own, so its Python and systemd are inside; the array is a bind mount that the
stand-in of nodeadm makes. Only with COMFYEKS_BOOT=1, because it mounts and boots on the host as root; skipped where
nspawn cannot run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest

from comfyeks.charts.render import render
from comfyeks.paths import REPO_ROOT
from tests.node.s3_stub import Fault, S3Stub
from tests.node.support import eventually
from tests.node.test_node_chaos import LISTING

pytestmark = pytest.mark.local

FILES = {
    "program": "comfyui-model-sync",
    "service": "comfyui-model-sync.service",
    "timer": "comfyui-model-sync.timer",
    "path": "comfyui-model-sync.path",
}
UNITS = {
    "node.target": "[Unit]\nRequires=basic.target\nWants=user-data.service nodeadm-run.service kubelet.service\n"
    "AllowIsolate=yes\n",
    "user-data.service": "[Unit]\nBefore=nodeadm-run.service\n"
    "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/bash /opt/user-data.sh\n",
    "nodeadm-run.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/bash /opt/nodeadm.sh\n",
    "kubelet.service": "[Unit]\nAfter=nodeadm-run.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
    "ExecStart=/usr/bin/touch /opt/kubelet-started\n",
}
ARRAY = "mkdir -p /opt/array /mnt/k8s-disks/0 && mount --bind /opt/array /mnt/k8s-disks/0"
COPY = """
if sys.argv[1:3] == ["s3", "cp"]:
    source, target = sys.argv[-2:]
    urllib.request.urlretrieve(os.environ["S3_ENDPOINT_URL"] + "/" + source[5:], target)
    sys.exit()
"""


class Machine:
    """A root folder that systemd boots in; `root` is what the host sees of it."""

    def __init__(self, home: Path, s3: S3Stub, s5cmd: Path) -> None:
        self.root, self._log = home / "root", home / "console.log"
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
        listing = LISTING.replace("bucket, token", f"{COPY}\nbucket, token")
        (self.root / "usr/bin/aws").unlink(missing_ok=True)
        (self.root / "usr/bin/aws").write_text(f"#!/usr/bin/python3 -SE\n{listing}")
        (self.root / "usr/bin/aws").chmod(0o755)
        environment = "".join(f"{name}={value}\n" for name, value in s3.environment().items())
        (self.root / "opt/aws.env").write_text(environment)
        for unit in ("user-data.service", "comfyui-model-sync.service"):
            (units / f"{unit}.d").mkdir()
            (units / f"{unit}.d/local.conf").write_text("[Service]\nEnvironmentFile=/opt/aws.env\n")
        self._user_data(s3, s5cmd)

    def _user_data(self, s3: S3Stub, s5cmd: Path) -> None:
        files = {}
        for name, path in [*((n, REPO_ROOT / "node" / f) for n, f in FILES.items()), ("s5cmd", s5cmd)]:
            body = path.read_bytes()
            files[name] = {"key": f"node/h/{path.name}", "sha256": hashlib.sha256(body).hexdigest()}
            s3.put(f"node/h/{path.name}", body)
        settings = {"PREFIXES": '["loras/"]', "IMAGE_RESERVE": "0", "SCRATCH_RESERVE": "0", "BUDGET": "100MB"}
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
        (self.opt / "kubelet-started").unlink(missing_ok=True)
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*argv, "systemd.unit=node.target"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            try:
                eventually(lambda: (self.opt / "kubelet-started").exists() or process.poll() is not None, 60)
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

    def end(self) -> None:
        subprocess.run(["umount", "--lazy", self.root], check=True)


@pytest.fixture
def machine(s3: S3Stub, s5cmd: Path) -> Iterator[Machine]:
    if os.environ.get("COMFYEKS_BOOT") != "1":
        pytest.skip("boots a systemd as root: only with COMFYEKS_BOOT=1")
    if shutil.which("systemd-nspawn") is None or os.geteuid() != 0:
        pytest.skip("no systemd-nspawn here, or not root: boot is shown on the stand-in systemd of a local node only")
    home = Path("/dev/shm") / f"comfyeks-boot-{os.getpid()}"  # an upper directory must not lie on an overlay or ext4
    home.mkdir()
    machine = None
    try:
        machine = Machine(home, s3, s5cmd)
        yield machine
    finally:
        if machine is not None:
            machine.end()
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.parametrize(
    ("nodeadm", "array"),
    [(ARRAY, True), (f"sleep 8; {ARRAY}", True), ("true", False)],
    ids=["array", "late array", "no local disks"],
)
def test_a_real_systemd_joins_first_and_syncs_then_and_again_after_a_reboot(
    machine: Machine, s3: S3Stub, nodeadm: str, array: bool
) -> None:
    (machine.opt / "nodeadm.sh").write_text(nodeadm)
    place = machine.opt / "array/comfyui-models" if array else machine.root / "var/lib/comfyui-models"
    s3.put("loras/a", b"first")
    s3.fault = lambda verb, key: Fault(delay=4) if verb == "get" and key == "loras/a" else None
    with machine.booted():
        joined = time.monotonic()
        assert not machine.status().get("ready"), "kubelet is not delayed by the models"
        try:
            eventually(lambda: machine.status().get("ready") is True, 60)
        except AssertionError:
            raise AssertionError(f"{machine.status()}\n{machine.console()}") from None
        assert time.monotonic() - joined > 2
        assert (place / "loras/a").read_bytes() == b"first"
        assert str((machine.root / "comfyui-models").readlink()) == "/" + str(place.relative_to(machine.root)).replace(
            "opt/array", "mnt/k8s-disks/0"
        )
        s3.put("loras/b", b"second")
    s3.delete("loras/a")
    with machine.booted():
        eventually(lambda: machine.status().get("files") == 1 and (place / "loras/b").exists(), 60)
        assert not (place / "loras/a").exists()
        assert machine.status()["state"] == "idle"
