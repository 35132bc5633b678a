"""`comfyeks dev reference`: writes the pages and pictures that are generated from what they describe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer

from comfyeks.console import note
from comfyeks.dev import terraform_reference
from comfyeks.dev.pictures import pictures
from comfyeks.errors import OperationError
from comfyeks.files import write_atomically
from comfyeks.paths import REPO_ROOT
from comfyeks.settings import DeploymentSettings

FOLDER = REPO_ROOT / "docs" / "reference"

_COMMANDS = """\
# Commands

`comfyeks -h` lists the commands, `-h` after a command explains it. Data goes to standard output, progress and messages
to standard error. Exit codes: 0 success, 1 failure, 2 invalid input and nothing was changed, 130 and 143 stopped by a
signal; `comfyeks doctor` also 3 when it found warnings and 4 when it found errors.

This page is generated from the commands by `make generate`; `make lint` fails when it is stale.
"""

_SETTINGS = """\
# The settings file

`.comfyeks/<name>/settings.yaml`, one for each deployment. `comfyeks init` writes it, you edit it, `comfyeks up` and
`comfyeks infra apply` store it with the deployment, so that a colleague's clone uses the same
([0007](../decisions/0007-settings-stay-with-the-deployment.md)). Flags and environment win over it. It contains no
secret.

| setting | default | description |
| --- | --- | --- |
"""

_MEANING = {
    "account": "AWS account, 12 digits in quotes. Credentials of another one are rejected.",
    "region": "AWS region. Another one in the environment is rejected.",
    "instance_type": "GPU instance type of the node pools and of the pod's size; quotas, zones and disks are checked.",
    "image_tag": "Tag of an image that is in the registry. Empty: the tag that this checkout's `image/` has.",
    "keda": "Install KEDA, which scheduled and queue-based autoscaling need.",
    "models": "Models or groups of the catalogue that `comfyeks up` pulls into the bucket if it lacks them.",
    "platform": "Inputs of the Terraform root [platform](../../infra/terraform/platform/README.md).",
    "data": "Inputs of the Terraform root [data](../../infra/terraform/data/README.md).",
    "comfyui": "Values of [charts/comfyui](../../charts/comfyui/README.md), over the generated ones.",
    "karpenter_gpu": "Values of [charts/karpenter-gpu](../../charts/karpenter-gpu/README.md), over the generated ones.",
}


def pages() -> dict[Path, str]:
    """Path → text of every page and picture."""
    return {
        FOLDER / "commands.md": commands(),
        FOLDER / "settings.md": settings(),
        **terraform_reference.pages(),
        **pictures(),
    }


def commands() -> str:
    """Every command with its arguments and options."""
    from comfyeks.cli import app

    return _COMMANDS + "".join(
        f"\n## `{' '.join(['comfyeks', *names])}`\n\n{_prose(command.help)}\n{_parameters(command)}"
        for names, command in every(typer.main.get_command(app))
    )


def settings() -> str:
    """Every setting of the settings file."""
    plain = DeploymentSettings()
    rows = [
        f"| `{f.name.replace('_', '-')}` | {_shown(getattr(plain, f.name))} | {_MEANING[f.name]} |\n"
        for f in fields(DeploymentSettings)
    ]
    return _SETTINGS + "".join(rows)


def every(group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(names, command) of every command below a group, in the order of its help."""
    if not hasattr(group, "list_commands"):
        yield names, group
        return
    for name in group.list_commands(None):
        yield from every(group.get_command(None, name), (*names, name))


def _prose(text: str | None) -> str:
    return "\n".join(line.strip() for line in (text or "").strip().splitlines()) + "\n"


def _parameters(command: Any) -> str:
    rows = []
    for parameter in command.params:
        if parameter.name == "help":
            continue
        names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
        if parameter.param_type_name == "argument":
            names = f"`{(parameter.metavar or parameter.name).upper()}`"
        default = "" if callable(parameter.default) else _shown(parameter.default)
        variable = f" Environment: `{parameter.envvar}`." if getattr(parameter, "envvar", None) else ""
        text = (getattr(parameter, "help", "") or "").replace("|", "\\|")
        rows.append(f"| {names} | {default} | {text}{variable} |\n")
    return "\n| parameter | default | description |\n| --- | --- | --- |\n" + "".join(rows) if rows else ""


def _shown(value: Any) -> str:
    if value is None or value is False or value in ("", (), [], {}):
        return ""
    return f"`{value}`"


def write(*, check: bool) -> None:
    """Write the pages that are out of date; with `check`, raise OperationError naming them instead."""
    stale = {
        path: text for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    names = ", ".join(str(path.relative_to(REPO_ROOT)) for path in stale)
    if check and stale:
        raise OperationError(f"not up to date: {names}. Run `make generate`.")
    for path, text in stale.items():
        write_atomically(path, text)
    note(f"wrote {names}" if stale else f"{len(pages())} pages are up to date")
