"""Where Terraform gets its provider from: the user's own configuration, a mirror on this machine, or the registry.

A machine that cannot reach the registry often has the provider on disk. Terraform itself searches a few folders; this
module searches a few more and writes a CLI configuration, but never replaces one that the user has.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from comfyeks.console import note
from comfyeks.errors import UserError
from comfyeks.files import write_atomically
from comfyeks.versions import VERSIONS

PROVIDER = Path("registry.terraform.io", "hashicorp", "aws")
MIRROR_VARIABLE = "COMFYEKS_TERRAFORM_MIRROR"

# Where add-on software is installed by hand or by an image build. Depth and number of folders are limited, because any
# of these can contain a whole file server.
USUAL_PLACES = (
    "/opt",
    "/srv",
    "/usr/local/lib",
    "/usr/local/share",
    "/usr/lib",
    "/usr/share",
    "/var/lib",
    "~/.local/share",
    "~/.cache",
)
SEARCH_DEPTH = 3
SEARCH_FOLDERS = 5_000


def environment(state: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """A copy of `env` (default: this process's) in which `terraform init` finds the provider.

    `state` is the folder for a generated CLI configuration. Raises UserError when COMFYEKS_TERRAFORM_MIRROR names a
    folder without the provider.
    """
    result = dict(os.environ if env is None else env)
    result["CHECKPOINT_DISABLE"] = "1"  # do not ask HashiCorp for newer versions
    mirror = _named_mirror(result)
    if mirror is None:
        if _user_configuration(result) is not None:
            return result
        # It names a file that does not exist: Terraform would warn before every command and then ignore it.
        result.pop("TF_CLI_CONFIG_FILE", None)
        if any(holds_provider(place) for place in implied_mirrors(result)):
            return result
        mirror = find_mirror(Path(place).expanduser() for place in USUAL_PLACES)
    if mirror is not None:
        result["TF_CLI_CONFIG_FILE"] = str(_write_configuration(state, mirror))
    return result


def holds_provider(mirror: Path) -> bool:
    """Whether a mirror folder has the AWS provider in an accepted version for this machine's platform."""
    target = _target()
    folder = mirror / PROVIDER
    try:
        unpacked = [entry.name for entry in folder.iterdir() if (entry / target).is_dir()]
        packed = [
            match[1]
            for entry in folder.iterdir()
            if (match := re.fullmatch(rf"terraform-provider-aws_([\d.]+)_{target}\.zip", entry.name))
        ]
    except OSError:
        return False
    return any(_accepted(version) for version in [*unpacked, *packed])


def find_mirror(places: Iterator[Path]) -> Path | None:
    """The first folder in or below `places` that holds the provider, or None; upper folders are searched first."""
    remaining = SEARCH_FOLDERS
    for place in places:
        level = [place]
        for _ in range(SEARCH_DEPTH + 1):
            below: list[Path] = []
            for folder in level:
                if remaining == 0:
                    return None
                remaining -= 1
                if holds_provider(folder):
                    return folder
                below += _subfolders(folder)
            level = below
    return None


def implied_mirrors(env: Mapping[str, str]) -> list[Path]:
    """The folders that Terraform itself searches before it asks the registry."""
    home = Path(env.get("HOME", "~")).expanduser()
    data = [Path(env.get("XDG_DATA_HOME") or home / ".local/share")]
    data += [Path(place) for place in (env.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":") if place]
    folders = [home / ".terraform.d" / "plugins", *(place / "terraform" / "plugins" for place in data)]
    if sys.platform == "darwin":
        folders += [
            home / "Library/Application Support/io.terraform/plugins",
            Path("/Library/Application Support/io.terraform/plugins"),
        ]
    return folders


def _named_mirror(env: Mapping[str, str]) -> Path | None:
    named = env.get(MIRROR_VARIABLE)
    if not named:
        return None
    mirror = Path(named).expanduser().resolve()
    if not holds_provider(mirror):
        raise UserError(
            f"{MIRROR_VARIABLE}={named} does not hold the AWS provider ~> {VERSIONS['terraform_provider_aws']} "
            f"for {_target()}: it must contain {PROVIDER}/<version>/{_target()}/. Unset it to use the registry."
        )
    return mirror


def _user_configuration(env: Mapping[str, str]) -> Path | None:
    """The CLI configuration that Terraform would read, if it exists."""
    named = env.get("TF_CLI_CONFIG_FILE") or env.get("TERRAFORM_CONFIG")
    path = Path(named) if named else Path(env.get("HOME", "~")).expanduser() / ".terraformrc"
    return path if path.is_file() else None


def _write_configuration(state: Path, mirror: Path) -> Path:
    path = state / "terraform.rc"
    provider = json.dumps([str(PROVIDER)])
    text = (
        "# Written by comfyeks, which found the AWS provider on this machine.\n"
        "provider_installation {\n"
        f"  filesystem_mirror {{\n    path    = {json.dumps(str(mirror))}\n    include = {provider}\n  }}\n"
        f"  direct {{\n    exclude = {provider}\n  }}\n"
        "}\n"
    )
    if not path.exists() or path.read_text() != text:
        note(f"using Terraform's AWS provider from {mirror}")
        write_atomically(path, text)
    return path


def _accepted(version: str) -> bool:
    """`~> MAJOR.MINOR`: that minor version or a later one of the same major version."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        return False
    major, minor = (int(part) for part in str(VERSIONS["terraform_provider_aws"]).split("."))
    found_major, found_minor, _ = (int(part) for part in version.split("."))
    return found_major == major and found_minor >= minor


def _target() -> str:
    """This machine's platform in a provider's file name, for example `linux_amd64`."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}_{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(machine, machine) }"


def _subfolders(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
        return [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
    except OSError:
        return []
