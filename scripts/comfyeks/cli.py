"""The command line: a sub-command a room, imported only when it is used; one place where errors become exit codes."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from comfyeks.console import err
from comfyeks.errors import ComfyeksError

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}

# Command → "module:attribute" of a Typer app, or of the function that is the command.
COMMANDS = {
    "init": "comfyeks.init:run",
    "up": "comfyeks.up.cli:up",
    "down": "comfyeks.up.cli:down",
    "status": "comfyeks.status:run",
    "doctor": "comfyeks.doctor.cli:run",
    "cost": "comfyeks.cost.cli:run",
    "infra": "comfyeks.infra.cli:app",
    "addons": "comfyeks.addons:app",
    "lambda": "comfyeks.lambda_app:app",
    "image": "comfyeks.image:image",
    "models": "comfyeks.models.cli:app",
    "run": "comfyeks.client.cli:run",
    "batch": "comfyeks.client.batch_cli:batch",
    "scale": "comfyeks.scale:run",
    "nodes": "comfyeks.nodes:app",
    "charts": "comfyeks.charts.cli:app",
    "reference": "comfyeks.reference:run",
    "local": "comfyeks.local.cli:app",
    "demo": "comfyeks.demo.cli:run",
}


class Rooms(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, typer.Typer):
            single = typer.Typer(add_completion=False, context_settings=HELP_OPTIONS, pretty_exceptions_enable=False)
            single.command(cmd_name)(command)
            command = single
        group = typer.main.get_command(command)
        group.name = cmd_name
        return group


app = typer.Typer(
    cls=Rooms,
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
    """Run a command; a known error is one line on stderr and its own exit code, never a traceback."""
    try:
        app()
    except ComfyeksError as error:
        err.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
