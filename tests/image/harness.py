"""Stand-ins for what the image's scripts use: a driver, git repositories behind https, a package index."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from comfyeks.paths import REPO_ROOT
from tests.support import modules

IMAGE = REPO_ROOT / "image"
HOST = "https://git.example/"


def load(script: str) -> ModuleType:
    """A script of the image as a module."""
    return modules.load(IMAGE / f"{script}.py", script)


def nvidia_smi(folder: Path, *lines: str, exit_code: int = 0, stderr: str = "") -> Path:
    """A folder for PATH with an nvidia-smi that prints `text`; its arguments are in the file `asked` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "nvidia-smi"
    text = "\n".join(lines)
    script.write_text(
        f"#!/bin/sh\necho \"$@\" > '{folder}/asked'\ncat <<'END'\n{text}\nEND\n"
        f"printf '%s' '{stderr}' >&2\nexit {exit_code}\n"
    )
    script.chmod(0o755)
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


class GitHost:
    """Repositories below a folder that git finds at HOST."""

    def __init__(self, folder: Path):
        self.folder = folder

    def environment(self) -> dict[str, str]:
        settings = {f"url.file://{self.folder}/.insteadOf": HOST, "protocol.file.allow": "always"}
        found = {"GIT_CONFIG_COUNT": str(len(settings))}
        for i, (key, value) in enumerate(settings.items()):
            found |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}
        return found

    def commit(self, name: str, files: Mapping[str, str], tag: str = "", submodule: str = "") -> str:
        """Commit files to a repository, which is created if needed; return the commit."""
        folder = self.folder / name
        if not folder.exists():
            folder.mkdir(parents=True)
            git(folder, "init", "--quiet")
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        if submodule:
            other = f"file://{self.folder}/{submodule}"
            git(folder, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", other, "vendored")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--allow-empty", "-m", "change")
        if tag:
            git(folder, "tag", "-a", tag, "-m", tag)
        return git(folder, "rev-parse", "HEAD")


class Index:
    """Wheels in a folder, and the settings that make uv use nothing else."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def environment(self) -> dict[str, str]:
        settings = self.folder.parent / "uv.toml"
        settings.write_text(f'no-index = true\nfind-links = ["{self.folder}"]\noffline = true\n')
        return {"UV_CONFIG_FILE": str(settings)}

    def wheel(self, name: str, version: str, requires: Sequence[str] = ()) -> None:
        module = name.replace("-", "_")
        info = f"{module}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        files = {
            f"{module}/__init__.py": "",
            f"{info}/METADATA": metadata,
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(
            f"{path},sha256={hashlib.sha256(text.encode()).hexdigest()},\n" for path, text in files.items()
        )
        with zipfile.ZipFile(self.folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
            for path, text in {**files, f"{info}/RECORD": record}.items():
                wheel.writestr(path, text)


def is_root() -> bool:
    return os.getuid() == 0
