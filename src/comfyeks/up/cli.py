"""`comfyeks up` and `comfyeks down`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from comfyeks.aws_account import find_cluster
from comfyeks.console import confirm_name, log_file, note, out, plain
from comfyeks.cost import prices as price_table
from comfyeks.cost.model import HOURS_PER_MONTH, add, dollars
from comfyeks.cost.platform import standing_lines, zone_count
from comfyeks.cost.prices import Key
from comfyeks.deployment import Deployment, current
from comfyeks.errors import UserError
from comfyeks.kubernetes import kubeconfig
from comfyeks.options import Project, Region
from comfyeks.platform.cli import Admins, Cidrs, Private, access_flags
from comfyeks.settings import FILE, DeploymentSettings
from comfyeks.signals import exit_code, termination_as_interrupt
from comfyeks.terraform import state_bucket
from comfyeks.terraform.variables import AccessFlags
from comfyeks.up import down as down_steps
from comfyeks.up import engine
from comfyeks.up.engine import CHECK, Step, StepResult
from comfyeks.up.run_context import RunContext
from comfyeks.up.steps import UP

AnyContext = TypeVar("AnyContext", bound=RunContext)

Context = Annotated[str | None, typer.Option(help="kubectl context; default: the current one.")]


def up(
    project: Project = None,
    region: Region = None,
    context: Context = None,
    api_allowed_cidrs: Cidrs = None,
    private_api: Private = None,
    cluster_admin_arns: Admins = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the steps and the cost, and change nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the first pod is ready.")] = True,
) -> None:
    """Create or update the whole deployment; what is up to date is not changed.

    Safe to stop with Ctrl-C and to repeat: every run looks at what exists and does only what is pending.
    """
    deployment = current(project, region)
    settings = deployment.settings()
    flags = access_flags(api_allowed_cidrs, private_api, cluster_admin_arns)
    _refuse_guessing(deployment, project)
    if not state_bucket.exists(deployment):
        flags.check(deployment)  # after the first apply, its stored settings count too
    run_context = RunContext(
        deployment=deployment,
        settings=settings,
        flags=flags,
        log=log_file(deployment.dir / "logs", "up"),
        kube_context=kubeconfig.existing_context(deployment, context),
        wait=wait,
    )
    announce(run_context)
    if plan:
        out.print(plan_table(UP, run_context))
        for line in cost_lines(settings, deployment.region):
            note(line)
        return
    summarise(run(UP, run_context, "up"))


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
        typer.Option(
            metavar="NAME",
            help="The name that the command asks for: the deployment's, or with --delete-data its models bucket's.",
        ),
    ] = None,
) -> None:
    """Remove the deployment; models, inputs, outputs and images are kept unless --delete-data is given.

    GPU nodes are removed first. At the end, resources that still cost money are listed. Safe to repeat.
    """
    deployment = current(project, region)
    settings = deployment.settings()
    run_context = down_steps.DownContext(
        deployment=deployment,
        settings=settings,
        flags=AccessFlags(),
        log=log_file(deployment.dir / "logs", "down"),
        kube_context=kubeconfig.existing_context(deployment, context),
        with_data=delete_data,
    )
    announce(run_context)
    if plan:
        out.print(plan_table(down_steps.DOWN, run_context))
        return
    if delete_data:
        note(f"This deletes every model, input, output and image of {deployment.name}; they cannot be restored.")
        confirm_name("the models bucket", deployment.bucket("models"), confirm)
    else:
        confirm_name("the deployment", deployment.name, confirm)
    summarise(run(down_steps.DOWN, run_context, "down"))


def run(steps: Sequence[Step[AnyContext]], run_context: AnyContext, verb: str) -> list[StepResult]:
    """Run a plan, alone in this checkout; Ctrl-C ends it in order and prints how to resume it."""
    project = run_context.deployment.project
    again = f"comfyeks {verb}" + (f" --project {project}" if project else "")
    try:
        with engine.alone(again) as lock, termination_as_interrupt():
            run_context.lock = lock
            return engine.run(steps, run_context, run_context.log)
    except KeyboardInterrupt as signalled:
        note(f"interrupted: `{again}` resumes from here; log: {run_context.log}")
        raise typer.Exit(exit_code(signalled)) from None


def announce(run_context: RunContext) -> None:
    """Print what is about to be changed: account, region, project and kubectl context."""
    deployment = run_context.deployment
    note(
        f"{deployment.name}: account {deployment.account}, {deployment.region}, project {deployment.project or '-'}, "
        f"kubectl context {run_context.kube_context or '- (created once there is a cluster)'}"
    )


def plan_table(steps: Sequence[Step[AnyContext]], run_context: AnyContext) -> Table:
    """Return every step with what is pending. Changes nothing."""
    has_cluster = run_context.kube_context is not None and find_cluster(run_context.deployment) is not None
    has_state = state_bucket.exists(run_context.deployment)
    rows = Table("", "step", "what", "pending", box=None, header_style="bold", padding=(0, 1))
    for number, step in enumerate(steps, start=1):
        if step.cluster and not has_cluster:
            pending: str | None = "known once there is a cluster"
        elif not has_state and step.name not in ("preflight", "aws"):
            pending = "everything"
        else:
            pending = step.pending(run_context)
        style = "dim" if pending is None else ""
        rows.add_row(str(number), step.name, step.title, plain(pending or "nothing"), style=style)
    return rows


def cost_lines(settings: DeploymentSettings, region: str) -> list[str]:
    """Return the estimated cost of a deployment with these settings: what runs always, and an hour of a GPU node."""
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
        "`comfyeks cost` has every item, and what depends on use: storage, transfer, logs",
    ]


def summarise(results: Sequence[StepResult]) -> None:
    """Print how many steps had something to do, and how long all took."""
    seconds = sum(step.seconds for step in results)
    worked = [step for step in results if step.did not in (None, CHECK)]
    note(f"{len(worked)} of {len(results)} steps had something to do; {seconds:.0f} s")


def _refuse_guessing(deployment: Deployment, project: str | None) -> None:
    """Raise UserError if no project is named, but this checkout has settings of other deployments only."""
    if project is not None or deployment.settings_file.exists() or state_bucket.exists(deployment):
        return
    others = sorted(path.parent.name for path in deployment.dir.parent.glob(f"comfyui-*/{FILE}"))
    if others:
        names = ", ".join(f"--project {name.removeprefix('comfyui-')}" for name in others)
        raise UserError(
            f"this checkout has settings of {', '.join(others)}, none of {deployment.name}: "
            f"give {names}, or create settings with `comfyeks init`"
        )
