"""`comfyeks up` and `comfyeks down`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from comfyeks.aws_account import find_cluster
from comfyeks.console import log_file, note, out, plain
from comfyeks.cost import prices as price_table
from comfyeks.cost.model import HOURS_PER_MONTH, add, dollars
from comfyeks.cost.platform import standing_lines, zone_count
from comfyeks.cost.prices import Key
from comfyeks.deployment import Deployment, current
from comfyeks.errors import UserError
from comfyeks.kubernetes import kubeconfig
from comfyeks.options import Project, Region
from comfyeks.platform.cli import Admins, Cidrs, Private
from comfyeks.settings import FILE, DeploymentSettings
from comfyeks.signals import exit_code, termination_as_interrupt
from comfyeks.terraform import state_bucket
from comfyeks.terraform.variables import Settings, listed
from comfyeks.up import down as down_steps
from comfyeks.up import engine
from comfyeks.up.engine import Done, Step
from comfyeks.up.steps import UP
from comfyeks.up.work import Work

AnyWork = TypeVar("AnyWork", bound=Work)

Context = Annotated[str | None, typer.Option(help="kubectl context; default: the current one.")]


def up(
    project: Project = None,
    region: Region = None,
    context: Context = None,
    api_allowed_cidrs: Cidrs = None,
    private_api: Private = None,
    cluster_admin_arns: Admins = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the steps and the cost, and change nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the first pod.")] = True,
) -> None:
    """Bring the whole deployment up, or up to date: what is there already is left alone.

    Safe to stop with Ctrl-C and to repeat: every run asks what exists and does what is left.
    """
    deployment = current(project, region)
    settings = deployment.settings()
    flags = Settings(
        api_allowed_cidrs=listed(api_allowed_cidrs),
        api_public_access=None if private_api is None else not private_api,
        cluster_admin_arns=listed(cluster_admin_arns),
    )
    _refuse_guessing(deployment, project)
    if not state_bucket.exists(deployment):
        flags.check(deployment)  # later, what an earlier apply was given counts too
    work = Work(
        deployment=deployment,
        settings=settings,
        flags=flags,
        log=log_file(deployment.dir / "logs", "up"),
        context=kubeconfig.existing_context(deployment, context),
        wait=wait,
    )
    announce(work)
    if plan:
        out.print(plan_table(UP, work))
        for line in cost_lines(settings, deployment.region):
            note(line)
        return
    summarise(run(UP, work, "up"))


def down(
    project: Project = None,
    region: Region = None,
    context: Context = None,
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Also delete every model, input, output and image.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print the steps, and change nothing.")] = False,
    confirm: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The name that is asked for: of the deployment, or of its models bucket."),
    ] = None,
) -> None:
    """Take the deployment down: GPU nodes first, then everything else. Models, inputs, outputs and images stay.

    Ends by looking for what is still paid for, and names it.
    """
    deployment = current(project, region)
    settings = deployment.settings()
    work = down_steps.Down(
        deployment=deployment,
        settings=settings,
        flags=Settings(),
        log=log_file(deployment.dir / "logs", "down"),
        context=kubeconfig.existing_context(deployment, context),
        with_data=delete_data,
    )
    announce(work)
    if plan:
        out.print(plan_table(down_steps.DOWN, work))
        return
    _confirm(down_steps.name_of(deployment, with_data=delete_data), confirm, delete_data)
    summarise(run(down_steps.DOWN, work, "down"))


def run(steps: Sequence[Step[AnyWork]], work: AnyWork, verb: str) -> list[Done]:
    """Run a plan, alone in this checkout; Ctrl-C ends it in order and says how to go on."""
    again = f"comfyeks {verb}" + (f" --project {work.deployment.project}" if work.deployment.project else "")
    try:
        with engine.alone(again) as lock, termination_as_interrupt():
            work.lock = lock
            return engine.run(steps, work, work.log)
    except KeyboardInterrupt as signalled:
        note(f"interrupted: `{again}` goes on from here; log: {work.log}")
        raise typer.Exit(exit_code(signalled)) from None


def announce(work: Work) -> None:
    """What is about to be changed: account, region, project and kubectl context."""
    deployment = work.deployment
    note(
        f"{deployment.name}: account {deployment.account}, {deployment.region}, project {deployment.project or '-'}, "
        f"kubectl context {work.context or '- (made once there is a cluster)'}"
    )


def plan_table(steps: Sequence[Step[AnyWork]], work: AnyWork) -> Table:
    """Every step with what is left of it. Asks, changes nothing."""
    reachable = work.context is not None and find_cluster(work.deployment) is not None
    there = state_bucket.exists(work.deployment)
    rows = Table("", "step", "what", "left", box=None, header_style="bold", padding=(0, 1))
    for number, step in enumerate(steps, start=1):
        if step.cluster and not reachable:
            left: str | None = "asked once there is a cluster"
        elif not there and step.name not in ("preflight", "aws"):
            left = "all of it"
        else:
            left = step.left(work)
        rows.add_row(str(number), step.name, step.title, plain(left or "nothing"), style="dim" if left is None else "")
    return rows


def cost_lines(settings: DeploymentSettings, region: str) -> list[str]:
    """The estimate of a deployment as its settings are: what runs always, and an hour of a GPU node."""
    prices = price_table.load(region)
    standing, gpu = standing_lines(settings), Key(f"ec2.{settings.instance_type}", "hour")
    if missing := prices.missing({gpu, *(term.price for line in standing for term in line.terms)}):
        wanted = " ".join(f"--price {key.name}=USD/{key.unit}" for key in missing)
        return [f"cost: not known for {region} without `comfyeks cost {wanted}`"]
    always = add(standing, prices)
    endpoint = Key("endpoint.interface", "hour")
    extra: list[str] = []
    if settings.platform.get("interface_endpoints") and not prices.missing([endpoint]):
        zones = zone_count(settings.platform)
        hour = prices.of(endpoint)
        extra = [f"interface endpoints: {hour} USD an hour more for each service in each of {zones} zones"]
    return [
        f"cost: about {dollars(always)} USD a month ({dollars(always / HOURS_PER_MONTH)} an hour) while it is up, and "
        f"{dollars(prices.of(gpu))} USD for each hour of a {settings.instance_type}, on-demand",
        *extra,
        "`comfyeks cost` has every line, and what comes with use: storage, transfer, logs",
    ]


def summarise(done: Sequence[Done]) -> None:
    seconds = sum(step.seconds for step in done)
    worked = [step for step in done if step.did not in (None, "look")]
    note(f"{len(worked)} of {len(done)} steps had something to do; {seconds:.0f} s")


def _refuse_guessing(deployment: Deployment, project: str | None) -> None:
    """Without a name, settings of other deployments only: one of them is probably meant. Raises UserError."""
    if project is not None or deployment.settings_file.exists() or state_bucket.exists(deployment):
        return
    others = sorted(path.parent.name for path in deployment.dir.parent.glob(f"comfyui-*/{FILE}"))
    if others:
        names = ", ".join(f"--project {name.removeprefix('comfyui-')}" for name in others)
        raise UserError(
            f"which deployment? This checkout has settings of {', '.join(others)}, none of {deployment.name}: "
            f"give {names}, or make settings with `comfyeks init`"
        )


def _confirm(name: str, typed: str | None, with_data: bool) -> None:
    """Raises UserError unless the name was typed."""
    if with_data:
        note(f"Every model, input, output and image is deleted, and cannot be brought back: {name} and its like.")
    if typed is None:
        try:
            typed = typer.prompt(f"Type {'the models bucket' if with_data else 'its name'} to go on", err=True)
        except typer.Abort as error:
            raise UserError(f"nobody typed the name; without a terminal, give --confirm {name}") from error
    if typed != name:
        raise UserError(f"{typed!r} is not {name!r}: nothing was deleted")
