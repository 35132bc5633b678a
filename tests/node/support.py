"""What the tests of the node program share: a node's file system in a folder, and the program as a process in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest


class ProgramNode:
    """A root folder as the user data leaves it; `run` executes the installed program's verbs with it."""

    def __init__(self, root: Path, env: Mapping[str, str], program: Path) -> None:
        self.root = root
        for folder in ("etc", "proc/self", "run", "sys/block", "usr/local/bin", "var/lib/cloud/data", "tmp"):
            (root / folder).mkdir(parents=True)
        (root / "usr/local/bin/comfyui-model-sync").symlink_to(program)
        (root / "var/lib/cloud/data/instance-id").write_text("i-0123456789abcdef0\n")
        self.settings = root / "etc/comfyui-model-sync.env"
        self.settings.write_text("MODELS_BUCKET=models\nAWS_REGION=us-west-2\n")
        (root / "proc/self/mountinfo").write_text("20 1 9:20 / / rw - xfs /dev/nvme0n1p1 rw\n")
        self.add_disk("nvme0n1", "Amazon Elastic Block Store")
        self.python = sys.executable
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_"))},
            **env,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(root),
            "AWS_MAX_ATTEMPTS": "1",
            "COMFYUI_NODE_ROOT": str(root),
            "COMFYUI_NODE_DISK_BYTES": str(450 * 10**9),
        }
        self._started: list[subprocess.Popen[str]] = []

    @property
    def models(self) -> Path:
        return self.root / "comfyui-models"

    @property
    def state(self) -> Path:
        return self.models / ".comfyui-model-sync"

    @property
    def request(self) -> Path:
        return self.root / "run/comfyui-model-sync/requested"

    def add_disk(self, name: str, model: str = "Amazon EC2 NVMe Instance Storage") -> None:
        device = self.root / f"sys/block/{name}/device"
        device.mkdir(parents=True)
        (device / "model").write_text(f"{model:<40}\n")

    def mount_array(self) -> None:
        (self.root / "mnt/k8s-disks/0").mkdir(parents=True, exist_ok=True)
        with (self.root / "proc/self/mountinfo").open("a") as mounts:
            mounts.write("21 20 9:21 / /mnt/k8s-disks/0 rw,noatime - xfs /dev/md127 rw\n")

    def start(self, verb: str = "run") -> subprocess.Popen[str]:
        argv = [self.python, str(self.root / "usr/local/bin/comfyui-model-sync"), verb]
        process = subprocess.Popen(argv, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._started.append(process)
        return process

    def run(self, verb: str = "run", *, code: int = 0) -> str:
        """Runs a verb to its end and returns what it printed; the exit code must be `code`."""
        process = self.start(verb)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == code, f"exit code {process.returncode}: {stdout}{stderr}"
        return stdout if code == 0 else stderr

    def status(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.root / "var/lib/comfyui-model-sync/status.json").read_text())
        return content

    def files(self) -> dict[str, bytes]:
        return model_files(self.models)

    def processes(self) -> list[psutil.Process]:
        return processes_of(self.root)

    def end_all(self) -> None:
        for process in self.processes():
            process.kill()
        for started in self._started:
            started.communicate()
        shutil.rmtree(self.root)


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own at `folder`, so that it can be full; skips the test where this account may not mount."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"this account may not mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_up(file: Path) -> None:
    """Writes until the file system takes not one more byte."""
    with file.open("wb", buffering=0) as opened, suppress(OSError):
        while opened.write(bytes(1 << 16)):
            pass


def model_files(models: Path) -> dict[str, bytes]:
    """Everything in a models folder except the program's own folder: relative path -> content."""
    folder = models.resolve()
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".comfyui-model-sync" not in path.parts
    }


def processes_of(root: Path) -> list[psutil.Process]:
    """Everything that runs with this node's root, whoever started it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get("COMFYUI_NODE_ROOT") == str(root):
                found.append(process)
    return found


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(0.02)
