"""The command line: imports a command only when it is used, and turns errors into exit codes."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

from comfyeks.console import err
from comfyeks.errors import ComfyeksError

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class Command(NamedTuple):
    """`target` is "module:attribute" of a Typer app, or of the function that is the command."""

    target: str
    panel: str


_PLATFORM, _WORK = "The whole platform", "Models, workflows and results"
_PARTS, _CHECKOUT = "Parts of the platform", "This machine and this checkout"

# Name → command, in the order of the help. Whole-platform verbs stand alone, everything else is noun, then verb.
COMMANDS = {
    "init": Command("comfyeks.init:run", _PLATFORM),
    "up": Command("comfyeks.up.cli:up", _PLATFORM),
    "down": Command("comfyeks.up.cli:down", _PLATFORM),
    "status": Command("comfyeks.status:run", _PLATFORM),
    "doctor": Command("comfyeks.doctor.cli:run", _PLATFORM),
    "cost": Command("comfyeks.cost.cli:run", _PLATFORM),
    "scale": Command("comfyeks.scale:run", _PLATFORM),
    "models": Command("comfyeks.models.cli:app", _WORK),
    "run": Command("comfyeks.client.cli:run", _WORK),
    "batch": Command("comfyeks.client.batch_cli:batch", _WORK),
    "infra": Command("comfyeks.platform.cli:app", _PARTS),
    "addons": Command("comfyeks.kubernetes.addons:app", _PARTS),
    "image": Command("comfyeks.image.cli:app", _PARTS),
    "custom-nodes": Command("comfyeks.image.custom_nodes:app", _PARTS),
    "events": Command("comfyeks.model_events:app", _PARTS),
    "dev": Command("comfyeks.dev.cli:app", _CHECKOUT),
}
# Other installed distributions add commands by this entry point: comfyeks-local adds `local` and `demo`.
ENTRY_POINTS = "comfyeks.commands"


@cache
def added_commands() -> dict[str, Command]:
    """Return the commands of other installed distributions by name. Reading every distribution's metadata is slow."""
    return {found.name: Command(found.value, _CHECKOUT) for found in entry_points(group=ENTRY_POINTS)}


class LazyGroup(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *added_commands()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = COMMANDS.get(cmd_name) or added_commands().get(cmd_name)
        if found is None:
            return None
        module, attribute = found.target.split(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, typer.Typer):
            single = typer.Typer(add_completion=False, context_settings=HELP_OPTIONS, pretty_exceptions_enable=False)
            single.command(cmd_name)(command)
            command = single
        group: Any = typer.main.get_command(command)
        group.name = cmd_name
        group.rich_help_panel = found.panel
        return group


app = typer.Typer(
    cls=LazyGroup,
    name="comfyeks",
    no_args_is_help=True,
    add_completion=False,
    context_settings=HELP_OPTIONS,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Run ComfyUI for a team on Amazon EKS."""


def main() -> None:
    """Run a command; a known error ends it with one line on stderr and the error's exit code, without a traceback."""
    try:
        app()
    except ComfyeksError as error:
        err.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
