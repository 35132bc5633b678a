"""`comfyeks local`: the AWS that runs on this machine."""

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
    help="Run an emulated AWS and local GPU nodes on this machine; needs no AWS account.",
    no_args_is_help=True,
)
app.add_typer(node, name="node")


@app.command()
def up(
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Also start a Kubernetes control plane and the machines of its nodes.")
    ] = False,
    project: Project = None,
) -> None:
    """Start the local AWS (both emulators). May be repeated; starts from empty if an emulator has died.

    With --cluster it also starts a local cluster. It uses the cluster of KUBECONFIG if that is on this machine and has
    no nodes. Otherwise it starts its own, from the programs in KUBEBUILDER_ASSETS, or from programs that it builds once
    at the versions pinned in tools/.
    """
    aws = LocalAws()
    started = aws.up()
    if started.already_running:
        note("the local AWS is already up")
    else:
        if started.dead:
            note(
                f"{' and '.join(started.dead)} had died: both emulators start again, empty, because state is in memory"
            )
        note(f'local AWS up in {started.seconds:.1f} s; to use it in a shell: eval "$(comfyeks local env)"')
    if cluster:
        _cluster_up(aws, project_name(project))
    _print_status(_parts(aws))


def _cluster_up(aws: LocalAws, project: str | None) -> None:
    given = given_kubeconfig(os.environ, note)
    programs = binaries.build(note, wanted=binaries.BESIDE_A_CLUSTER if given else binaries.PROGRAMS)
    local = LocalCluster(aws, project=project)
    if local.up(programs, given):
        note(f"local cluster up: export KUBECONFIG={local.kubeconfig}")
        note("`comfyeks infra apply` creates its nodes; then `comfyeks local addons` installs Karpenter")
    else:
        note("the local cluster is already up")


@app.command()
def build(
    keda: Annotated[bool, typer.Option("--keda", help="Also build KEDA, which one test of the charts runs.")] = False,
) -> None:
    """Build what `up --cluster` needs (etcd, control plane, Karpenter) into the user's cache, unless already built."""
    wanted = (*binaries.PROGRAMS, binaries.KEDA) if keda else binaries.PROGRAMS
    for name, path in binaries.build(note, wanted=wanted).items():
        out.print(f"{name}: {path}", highlight=False, soft_wrap=True)


@app.command()
def addons(project: Project = None) -> None:
    """Install Karpenter and the CRDs into the local cluster, as `comfyeks addons install` does. May be repeated."""
    aws = LocalAws()
    deployment = Deployment(project_name(project), aws.env()["AWS_REGION"], ACCOUNT)
    LocalCluster(aws).install_addons(deployment.dir)
    note("Karpenter is ready")


@app.command()
def down() -> None:
    """Stop the local pods, nodes and AWS. Deletes their state and keeps their logs. May be repeated."""
    stop_everything()
    note("the local AWS is down")


@app.command()
def status(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with the paths of the logs, instead of a table.")
    ] = False,
) -> None:
    """Show the emulators, and the cluster if it was started. Exits with 1 unless all of them run."""
    parts = _parts(LocalAws())
    if as_json:
        typer.echo(json.dumps([vars(part) | {"log": str(part.log)} for part in parts], indent=2))
    else:
        _print_status(parts)
    if any(part.state != "running" for part in parts):
        raise typer.Exit(1)


@app.command()
def env() -> None:
    """Print shell commands that point AWS tools at the local AWS: eval "$(comfyeks local env)"."""
    variables = LocalAws().env()
    foreign = {name for name in os.environ if name.startswith("AWS_ENDPOINT_URL")} - variables.keys()
    lines = [f"unset {name}" for name in sorted({*UNSET, *foreign})]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(variables.items())]
    typer.echo("\n".join(lines))


def stop_everything() -> None:
    """Stop pods, then nodes, then the emulators: only the emulators know the nodes' instances."""
    with contextlib.ExitStack() as last_first:  # each one runs, even if an earlier one fails
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
