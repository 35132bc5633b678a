"""Checks that the image has what its lock files list, and that ComfyUI starts: verify_image.py

The last step of the build, run in the image itself, as its user and without a network. Each problem is one line that
says what to change; the build then fails with exit code 1.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(os.environ.get("COMFYUI_ROOT", "/app/ComfyUI"))
BILL = Path(os.environ.get("COMFYUI_BILL", "/app/bill-of-materials"))
START = Path(os.environ.get("COMFYUI_START", "/usr/local/bin/comfyui-start"))
UPLOADER = Path(os.environ.get("COMFYUI_UPLOADER", "/opt/uploader"))


def requirement_lines(text: str) -> list[str]:
    """A requirements file without comments and empty lines."""
    return [line for raw in text.splitlines() if (line := re.sub(r"(^|\s)#.*", "", raw).strip())]


def machine() -> Iterator[str]:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        yield f"built for {platform.system()} {platform.machine()}, not Linux x86_64: build with --platform linux/amd64"
    if os.getuid() == 0:
        yield "runs as root"


def sources(lock: dict[str, Any]) -> Iterator[str]:
    version = re.search(r'__version__ = "([^"]+)"', (ROOT / "comfyui_version.py").read_text())
    if not version or f"v{version[1]}" != lock["comfyui"]["ref"]:
        yield f"ComfyUI reports version {version and version[1]}, the lock file has {lock['comfyui']['ref']}"
    folders = {"comfyui": (ROOT, lock["comfyui"])}
    folders |= {node["name"]: (ROOT / "custom_nodes" / node["name"], node) for node in lock["nodes"]}
    for name, (folder, source) in folders.items():
        file = folder / "requirements.txt"
        if file.exists() and requirement_lines(file.read_text()) != source["requirements"]:
            yield f"{name} requires other packages than the lock file lists: run comfyeks custom-nodes update {name}"


def packages() -> Iterator[str]:
    backend = os.environ["COMFYUI_TORCH_BACKEND"]
    lock = (BILL / ("comfyui.cpu.lock" if backend == "cpu" else "comfyui.lock")).read_text()
    locked = dict(re.findall(r"^([a-z0-9][\w.-]*)==([^\s;\\]+)", lock, re.MULTILINE))
    if not locked:
        yield f"no package in {BILL}"
    for name, version in locked.items():
        try:
            installed = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            installed = "absent"
        if installed != version:
            yield f"{name} is {installed}, the lock file has {version}"
    import torch  # type: ignore[import-not-found]

    built = f"cu{torch.version.cuda.replace('.', '')}" if torch.version.cuda else "cpu"
    if built != backend:
        yield f"torch is built for {built}, the image for {backend}"
    try:
        subprocess.run([UPLOADER / "bin" / "python", "-c", "import boto3"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        yield f"{UPLOADER} has no boto3: {error}"


def flags() -> Iterator[str]:
    """Checks that this ComfyUI supports every flag that comfyui-start may add."""
    sys.path.insert(0, str(ROOT))
    from comfy import cli_args  # type: ignore[import-not-found]

    for flag in load(START).ADDED_FLAGS:
        if flag not in cli_args.parser._option_string_actions:
            yield f"this ComfyUI does not support {flag}, which comfyui-start may add"


def load(path: Path) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("comfyui_start", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def start(timeout: float = 900) -> Iterator[str]:
    """Checks that ComfyUI loads all custom nodes on the CPU, writes only to scratch folders, and exits with 0."""
    with tempfile.TemporaryDirectory() as scratch:
        writable = [f"--{kind}-directory={scratch}" for kind in ("output", "input", "temp", "user")]
        command = [str(START), sys.executable, str(ROOT / "main.py"), "--cpu", "--quick-test-for-ci", *writable]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    log = done.stdout + done.stderr
    if done.returncode != 0:
        yield f"ComfyUI ended with exit code {done.returncode}:\n" + "\n".join(log.splitlines()[-30:])
    for line in log.splitlines():
        if "IMPORT FAILED" in line:
            yield f"a custom node does not load: {line.strip()}"


def main() -> int:
    lock = yaml.safe_load((BILL / "custom-nodes.lock.yaml").read_text())
    wrong = [*machine(), *sources(lock), *packages(), *flags(), *start()]
    for line in wrong:
        print(f"verify_image: {line}", file=sys.stderr)
    if not wrong:
        print(f"verify_image: ComfyUI {lock['comfyui']['ref']} with {len(lock['nodes'])} custom nodes starts")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
