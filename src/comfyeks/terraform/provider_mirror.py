"""Where Terraform gets its provider from: the user's own settings, a mirror on this machine, or the registry.

A machine without a way to the registry often has the provider on disk. Terraform looks into a few folders by itself;
this module looks a little further and writes a CLI configuration, but never in place of one that the user has.
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

# Where add-on software is put by hand or by an image's builder. Searched to a small depth and number of folders,
# because any of them can hold a whole file server.
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
    result["CHECKPOINT_DISABLE"] = "1"  # no call home for newer versions
    mirror = _named_mirror(result)
    if mirror is None:
        if _user_configuration(result) is not None:
            return result
        # It names a file that does not exist: Terraform would warn before every command and then do without.
        result.pop("TF_CLI_CONFIG_FILE", None)
        if any(holds_provider(place) for place in implied_mirrors(result)):
            return result
        mirror = find_mirror(Path(place).expanduser() for place in USUAL_PLACES)
    if mirror is not None:
        result["TF_CLI_CONFIG_FILE"] = str(_write_configuration(state, mirror))
    return result


def holds_provider(mirror: Path) -> bool:
    """Whether a mirror folder has the AWS provider, in a version that we accept, for this machine."""
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
    """The first mirror with our provider in or below `places`, nearest the top first."""
    left = SEARCH_FOLDERS
    for place in places:
        level = [place]
        for _ in range(SEARCH_DEPTH + 1):
            below: list[Path] = []
            for folder in level:
                if left == 0:
                    return None
                left -= 1
                if holds_provider(folder):
                    return folder
                below += _subfolders(folder)
            level = below
    return None


def implied_mirrors(env: Mapping[str, str]) -> list[Path]:
    """The folders in which Terraform itself looks before it asks the registry."""
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
            f"{MIRROR_VARIABLE}={named} holds no AWS provider ~> {VERSIONS['terraform_provider_aws']} for {_target()}: "
            f"it must contain {PROVIDER}/<version>/{_target()}/. Unset it to use the registry."
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
        "# Written by comfyeks: the AWS provider was found on this machine.\n"
        "provider_installation {\n"
        f"  filesystem_mirror {{\n    path    = {json.dumps(str(mirror))}\n    include = {provider}\n  }}\n"
        f"  direct {{\n    exclude = {provider}\n  }}\n"
        "}\n"
    )
    if not path.exists() or path.read_text() != text:
        note(f"Terraform's AWS provider is taken from {mirror}")
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
    """This machine as providers name it, for example `linux_amd64`."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}_{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(machine, machine) }"


def _subfolders(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
        return [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
    except OSError:
        return []
