"""`comfyeks local`: the AWS that runs inside this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from typing import Annotated

import typer
from rich.table import Table

from comfyeks.console import note, out
from comfyeks.deployment import Deployment, project_name
from comfyeks.options import Project
from comfyeks_local.cluster import binaries
from comfyeks_local.cluster.local_cluster import LocalCluster, given_kubeconfig
from comfyeks_local.emulators.local_aws import ACCOUNT, UNSET, LocalAws, PartStatus
from comfyeks_local.node import pod
from comfyeks_local.node.cli import app as node
from comfyeks_local.node.cli import remove_all

app = typer.Typer(
    help="An embedded AWS and local GPU nodes: everything runs on this machine, no account needed.",
    no_args_is_help=True,
)
app.add_typer(node, name="node")


@app.command()
def up(
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Also a Kubernetes control plane and the machines of its nodes.")
    ] = False,
    project: Project = None,
) -> None:
    """Start the local AWS (both emulators). Starts nothing twice; starts from empty when a part had died.

    With --cluster also a local cluster: that of KUBECONFIG when it is on this machine and has no nodes, else an own
    one, from programs of KUBEBUILDER_ASSETS where it has them, else from programs built once from the pins in tools/.
    """
    aws = LocalAws()
    started = aws.up()
    if started.already_running:
        note("the local AWS is up already")
    else:
        if started.dead:
            note(f"{' and '.join(started.dead)} had died: all parts start anew and empty, because state is in memory")
        note(f'local AWS up in {started.seconds:.1f} s; point a shell at it: eval "$(comfyeks local env)"')
    if cluster:
        _cluster_up(aws, project_name(project))
    _print_status(_parts(aws))


def _cluster_up(aws: LocalAws, project: str | None) -> None:
    given = given_kubeconfig(os.environ, note)
    programs = binaries.build(note, wanted=binaries.BESIDE_A_CLUSTER if given else binaries.PROGRAMS)
    local = LocalCluster(aws, project=project)
    if local.up(programs, given):
        note(f"local cluster up: export KUBECONFIG={local.kubeconfig}")
        note("its nodes appear with `make infra`; then `comfyeks local addons` installs Karpenter")
    else:
        note("the local cluster is up already")


@app.command()
def build(
    keda: Annotated[bool, typer.Option("--keda", help="Also KEDA, which a test of the charts runs.")] = False,
) -> None:
    """Build what `up --cluster` needs, unless it is there: etcd, control plane and Karpenter, into the user's cache."""
    wanted = (*binaries.PROGRAMS, binaries.KEDA) if keda else binaries.PROGRAMS
    for name, path in binaries.build(note, wanted=wanted).items():
        out.print(f"{name}: {path}", highlight=False, soft_wrap=True)


@app.command()
def addons(project: Project = None) -> None:
    """Install CRDs and Karpenter into the local cluster, from their own charts, as `make addons` does on a real one."""
    aws = LocalAws()
    deployment = Deployment(project_name(project), aws.env()["AWS_REGION"], ACCOUNT)
    LocalCluster(aws).install_addons(deployment.dir)
    note("Karpenter is ready")


@app.command()
def down() -> None:
    """Stop the local pods, nodes and AWS. Their state is gone with them; logs stay."""
    stop_everything()
    note("the local AWS is down")


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the emulators, and the cluster if it was started (--json: also logs). Exits 1 unless all of them run."""
    parts = _parts(LocalAws())
    if as_json:
        typer.echo(json.dumps([vars(part) | {"log": str(part.log)} for part in parts], indent=2))
    else:
        _print_status(parts)
    if any(part.state != "running" for part in parts):
        raise typer.Exit(1)


@app.command()
def env() -> None:
    """Print shell commands that point the AWS tools here: eval "$(comfyeks local env)"."""
    variables = LocalAws().env()
    foreign = {name for name in os.environ if name.startswith("AWS_ENDPOINT_URL")} - variables.keys()
    lines = [f"unset {name}" for name in sorted({*UNSET, *foreign})]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(variables.items())]
    typer.echo("\n".join(lines))


def stop_everything() -> None:
    """End pods, then nodes, then the emulators, which alone know the nodes' instances."""
    with contextlib.ExitStack() as last_first:  # each of them, whatever happens to the ones before
        last_first.callback(LocalAws().down)
        last_first.callback(remove_all)
        last_first.callback(LocalCluster(LocalAws()).down)
        last_first.callback(pod.kill_all)


def _parts(aws: LocalAws) -> list[PartStatus]:
    """The emulators; the cluster too when it was started."""
    cluster = LocalCluster(aws).status()
    return [*aws.status(), *(cluster if any(part.state != "stopped" for part in cluster) else [])]


def _print_status(parts: list[PartStatus]) -> None:
    table = Table("part", "state", "pid", "endpoint", box=None, header_style="bold")
    for part in parts:
        table.add_row(part.name, part.state, str(part.pid or "-"), part.endpoint or "-")
    out.print(table)
