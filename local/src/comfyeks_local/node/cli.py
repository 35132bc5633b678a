"""`comfyeks local node`: GPU nodes of the local AWS, booted from what the karpenter-gpu chart renders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from comfyeks.charts.render import render
from comfyeks.console import note, out, plain
from comfyeks.deployment import Deployment, project_name
from comfyeks.errors import OperationError, UserError
from comfyeks.options import Project
from comfyeks.paths import STATE
from comfyeks_local.emulators.local_aws import ACCOUNT, LocalAws
from comfyeks_local.node.local_node import LocalNode

NODES = STATE / "local" / "nodes"

app = typer.Typer(
    help="Run GPU nodes in the local AWS: real user data and node program on emulated hardware.",
    no_args_is_help=True,
)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the node, a folder below .comfyeks/local/nodes.")] = "node-1",
    project: Project = None,
) -> None:
    """Launch a node as Karpenter would, and boot it. A node that is down boots again with its old disk."""
    if not name or Path(name).name != name or name.startswith("."):
        raise UserError(f"node name {name!r} cannot be a folder name: use letters, digits and '-'")
    env = LocalAws().env()
    node = LocalNode(NODES / name, env)
    if name not in _names():
        # Not deployment.current(): the shell may point at a real account.
        deployment = Deployment(project_name(project), env["AWS_REGION"], ACCOUNT)
        node = LocalNode(NODES / name, env, *_rendered(deployment))
    node.start()
    note(f"{name} is up: {node.instance_id}, models in {node.models}, log in {node.log}")


@app.command()
def ls() -> None:
    """Show the nodes and the state of their model sync."""
    columns = ["node", "instance", "up", "state", "ready", "files", "missing", "error"]
    table = Table(*columns, box=None, header_style="bold")
    for name in _names():
        node = LocalNode(NODES / name, {})
        status = node.status()
        table.add_row(
            plain(name),
            plain(node.instance_id),
            "yes" if node.alive() else "no",
            *(plain(status.get(field, "-")) for field in ("state", "ready", "files", "missing_files")),
            plain(status.get("error") or ""),
        )
    out.print(table)


@app.command()
def rm(name: Annotated[str, typer.Argument(help="Name of the node.")]) -> None:
    """Stop a node, terminate its instance and delete its disk."""
    if name not in _names():
        raise UserError(f"there is no local node {name!r}; local nodes: {', '.join(_names()) or 'none'}")
    LocalNode(NODES / name, _env()).remove()
    note(f"{name} was removed")


def remove_all() -> None:
    """Remove every node. Must run before the local AWS stops, because only that knows the nodes' instances."""
    for name in _names():
        LocalNode(NODES / name, _env()).remove()


def _names() -> list[str]:
    return sorted(file.parent.name for file in NODES.glob("*/node.json"))


def _env() -> dict[str, str]:
    """The variables of the local AWS; empty if it is down, which means that there are no instances."""
    try:
        return LocalAws().env()
    except OperationError:
        return {}


def _rendered(deployment: Deployment) -> tuple[str, dict[str, str]]:
    """User data and tags of the deployment's node class."""
    values = deployment.chart_values("karpenter-gpu")
    if not values.is_file():
        raise UserError(
            f"{values} does not exist: run `comfyeks infra apply`, which writes it from Terraform's outputs"
        )
    node_class = render("karpenter-gpu", files=[values]).of_kind("EC2NodeClass")[0]
    return node_class["spec"]["userData"], node_class["spec"]["tags"]
