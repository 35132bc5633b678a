"""Check of this machine's tools: installed, and new enough."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from comfyeks.findings import ERROR, OK, WARNING, Finding
from comfyeks.paths import TOOLS
from comfyeks.versions import VERSIONS

SKEW = 1  # kubectl works with a server one minor version older or newer


@dataclass(frozen=True)
class Tool:
    name: str
    version: tuple[str, ...]
    oldest: str  # version, or empty if any works
    get: str  # where to get it


def required() -> list[Tool]:
    return [
        Tool("terraform", ("version",), str(VERSIONS["terraform"]), "developer.hashicorp.com/terraform/install"),
        Tool(
            "helm",
            ("version", "--short"),
            str(VERSIONS["helm"]),
            "`make install` builds it, helm.sh/docs/intro/install",
        ),
        Tool("kubectl", ("version", "--client"), "", "kubernetes.io/docs/tasks/tools"),
        Tool("aws", ("--version",), "1.27", "docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html"),
    ]


def tools() -> Iterator[Finding]:
    """Check that every tool is installed and new enough."""
    for tool in required():
        path = shutil.which(tool.name, path=None)
        built = TOOLS / "bin" / tool.name
        if built.exists():
            path = str(built)
        if path is None:
            yield Finding("tools", ERROR, f"{tool.name} is not on PATH", f"install it: {tool.get}")
            continue
        done = subprocess.run([path, *tool.version], capture_output=True, text=True, check=False)
        match = re.search(r"(\d+)\.(\d+)(?:\.\d+)?", done.stdout)
        found = match[0] if match else "unknown"
        if tool.oldest and (match is None or _older(match[0], tool.oldest)):
            yield Finding(
                "tools",
                ERROR,
                f"{tool.name} is {found}, the oldest that works is {tool.oldest}",
                f"update it: {tool.get}",
            )
        elif tool.name == "kubectl" and match and abs(_minor(match[0]) - _minor(str(VERSIONS["kubernetes"]))) > SKEW:
            yield Finding(
                "tools",
                WARNING,
                f"kubectl is {found}, the cluster {VERSIONS['kubernetes']}: more than one minor version apart",
                f"install kubectl {VERSIONS['kubernetes']}: {tool.get}",
            )
        else:
            yield Finding("tools", OK, f"{tool.name} {found}")


def _older(found: str, needed: str) -> bool:
    return [int(part) for part in found.split(".")[:2]] < [int(part) for part in needed.split(".")[:2]]


def _minor(version: str) -> int:
    return int(version.split(".")[1])
