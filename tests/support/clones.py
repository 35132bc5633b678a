"""Copies of the project, like fresh clones, and their command line: nothing is written into this tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from comfyeks.paths import REPO_ROOT, TOOLS


@dataclass
class Clone:
    """A copy of the project, and the environment that its commands run in."""

    root: Path
    env: dict[str, str]

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "comfyeks", *arguments]

    def comfyeks(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        answer = subprocess.run(self.argv(*arguments), cwd=self.root, env=self.env, capture_output=True, text=True)
        assert not check or answer.returncode == 0, (
            f"comfyeks {arguments}: {answer.stdout[-3000:]}{answer.stderr[-3000:]}"
        )
        return answer

    def changes(self) -> str:
        """What git reports as changed or untracked."""
        status = ["git", "status", "--porcelain"]
        return subprocess.run(status, cwd=self.root, capture_output=True, text=True, check=True).stdout


def make_clone(target: Path, env: dict[str, str]) -> Clone:
    """A clone of the working tree, including uncommitted changes, with the tools that `make setup` built."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPO_ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, listing.decode().split("\0")):
        source = REPO_ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    me = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    for arguments in (["init", "--quiet"], ["add", "--all"], [*me, "commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *arguments], cwd=target, check=True)
    if TOOLS.exists():
        (target / TOOLS.name).mkdir()
        (target / TOOLS.name / "bin").symlink_to(TOOLS / "bin")
    sources = os.pathsep.join(str(target / folder) for folder in ("src", "local/src"))
    return Clone(target, {**env, "PYTHONPATH": sources})


def plain_environment() -> dict[str, str]:
    """The environment of this process without variables that name an AWS account or a deployment."""
    ours = ("AWS_", "COMFYEKS_", "S3_")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours) or k == "AWS_CA_BUNDLE"}
