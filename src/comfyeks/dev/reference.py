"""`comfyeks dev reference`: the pages and pictures that are generated from what they describe."""

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

`comfyeks -h` lists them, `-h` works on each. Data goes to standard output, what is for the person watching to standard
error. Exit codes: 0 done, 1 it did not work, 2 the input was wrong and nothing was changed, 130 and 143 stopped by a
signal; `comfyeks doctor` also 3 for warnings and 4 for errors that it found.

This page is generated from the commands by `make generate`; `make lint` fails when it is stale.
"""

_SETTINGS = """\
# The settings file

`.comfyeks/<name>/settings.yaml`, one for each deployment. `comfyeks init` writes it, you edit it, `comfyeks up` and
`comfyeks infra apply` keep it with the deployment, so that a colleague's clone has the same
([0007](../decisions/0007-settings-stay-with-the-deployment.md)). Flags and environment win over it. It holds no secret.

| setting | default | description |
| --- | --- | --- |
"""

_MEANING = {
    "account": "AWS account, 12 digits in quotes. Credentials of another one are refused.",
    "region": "AWS region. Another one in the environment is refused.",
    "instance_type": "GPU instance type whose values the comfyui chart gets; quotas, zones and disks are checked.",
    "image_tag": "Tag of an image that is in the registry. Empty: the one that this checkout's `image/` makes.",
    "keda": "Install KEDA, which pods by the clock or by the queue need.",
    "models": "Models or sets of the catalogue that `comfyeks up` puts into the bucket when they are missing.",
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
        f"\n## `{' '.join(['comfyeks', *words])}`\n\n{_prose(command.help)}\n{_parameters(command)}"
        for words, command in every(typer.main.get_command(app))
    )


def settings() -> str:
    """Every name of the settings file."""
    plain = DeploymentSettings()
    rows = [
        f"| `{f.name.replace('_', '-')}` | {_shown(getattr(plain, f.name))} | {_MEANING[f.name]} |\n"
        for f in fields(DeploymentSettings)
    ]
    return _SETTINGS + "".join(rows)


def every(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of every command below a group, in the order of its help."""
    if not hasattr(group, "list_commands"):
        yield words, group
        return
    for name in group.list_commands(None):
        yield from every(group.get_command(None, name), (*words, name))


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
        said = (getattr(parameter, "help", "") or "").replace("|", "\\|")
        rows.append(f"| {names} | {default} | {said}{variable} |\n")
    return "\n| parameter | default | description |\n| --- | --- | --- |\n" + "".join(rows) if rows else ""


def _shown(value: Any) -> str:
    if value is None or value is False or value in ("", (), [], {}):
        return ""
    return f"`{value}`"


def write(*, check: bool) -> None:
    """Write what is stale; with `check` raise OperationError naming it instead."""
    stale = {
        path: text for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    names = ", ".join(str(path.relative_to(REPO_ROOT)) for path in stale)
    if check and stale:
        raise OperationError(f"not up to date: {names}. Run `make generate`.")
    for path, text in stale.items():
        write_atomically(path, text)
    note(f"wrote {names}" if stale else f"{len(pages())} pages are up to date")
