"""`comfyeks doctor`: all checks of tools, account, deployment and cluster, at once."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated

import typer
from rich.table import Table

from comfyeks.charts.instance_types import instance_type
from comfyeks.console import note, out, plain
from comfyeks.deployment import Deployment, current
from comfyeks.doctor import cluster, machine, sync
from comfyeks.errors import OperationError, UserError
from comfyeks.findings import ERROR, OK, WARNING, Check, Finding, examine, examine_all, worst
from comfyeks.kubernetes.api import Cluster
from comfyeks.kubernetes.kubeconfig import checked_context
from comfyeks.options import Project, Region
from comfyeks.platform import preflight
from comfyeks.settings import DeploymentSettings
from comfyeks.terraform import state_bucket

# Not 1 and 2, which mean that the command itself failed or was misused.
EXIT_CODES = {OK: 0, WARNING: 3, ERROR: 4}
NAMESPACE = "comfyui"
_STYLES = {OK: "green", WARNING: "yellow", ERROR: "red"}


def run(
    project: Project = None,
    region: Region = None,
    context: Annotated[
        str | None,
        typer.Option(
            help="kubectl context, also of a cluster that this project did not create; default: the current one."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Also show the checks that found no problem.")] = False,
) -> None:
    """Check tools, account, deployment and cluster, and show how to fix what is wrong. Changes nothing.

    Exit code: 0 no problem, 3 warnings, 4 errors; 1 and 2 as for every command.
    """
    about, findings = _examined(project, region, context)
    if as_json:
        out.print_json(json.dumps([vars(finding) for finding in findings]))
    else:
        shown = [finding for finding in findings if every or finding.severity != OK]
        if shown:
            out.print(table(shown))
        fine = sum(finding.severity == OK for finding in findings)
        note(f"{about}{fine} checks are fine")
    raise typer.Exit(EXIT_CODES[worst(findings)])


def _examined(project: str | None, region: str | None, context: str | None) -> tuple[str, list[Finding]]:
    """Return what was examined, and the findings; without credentials, only this machine is examined."""
    try:
        deployment = current(project, region)
    except OperationError as error:
        message, _, fix = str(error).partition(". ")
        return "", [
            *examine_all([("tools", machine.tools)]),
            Finding("credentials", ERROR, message, f"aws sso login, or AWS_PROFILE. {fix}"),
        ]
    settings = deployment.settings()
    credentials = Finding("credentials", OK, f"of account {deployment.account}")
    findings = [
        credentials,
        *findings_before_apply(deployment, settings),
        *findings_after_apply(deployment, settings, context),
    ]
    return f"{deployment.name}, account {deployment.account}, {deployment.region}: ", findings


def findings_before_apply(deployment: Deployment, settings: DeploymentSettings) -> list[Finding]:
    """Check what can be known before anything exists: this machine's tools, and the account."""
    return examine_all([("tools", machine.tools), *preflight.checks(deployment, settings)])


def findings_after_apply(deployment: Deployment, settings: DeploymentSettings, context: str | None) -> list[Finding]:
    """Check what can be known once a deployment exists: model sync, then the cluster.

    `context` may lead to a cluster of any name: charts also run in clusters that our Terraform did not create.
    """
    ours = state_bucket.exists(deployment)
    if not ours and context is None:
        return [Finding("deployment", OK, f"{deployment.name} does not exist yet")]
    kind = instance_type(settings.instance_type)
    checks: list[Check] = []
    if ours:
        checks += [
            ("models", partial(sync.budget, deployment, kind)),
            ("model sync", partial(sync.nodes, deployment)),
            ("model events", partial(sync.function, deployment)),
            ("dead letters", partial(sync.dead_letters, deployment)),
        ]
    try:
        api = Cluster(context or checked_context(None, deployment))
    except UserError as error:
        message, _, fix = str(error).partition("; ")
        return [
            *examine_all(checks),
            Finding("kubeconfig", ERROR, message, fix or "kubectl config get-contexts lists the contexts"),
        ]
    reached = examine("cluster", partial(cluster.reachable, api))
    if worst(reached) != OK:
        return [*examine_all(checks), *reached]
    checks += [
        ("prerequisites", partial(cluster.prerequisites, api, settings.keda)),
        ("add-ons", partial(cluster.workloads, api)),
        ("pools", partial(cluster.pools, api)),
        ("pods", partial(cluster.pods, api, NAMESPACE)),
    ]
    return [*reached, *examine_all(checks)]


def table(findings: list[Finding]) -> Table:
    rows = Table("", "check", "finding", "what to do", box=None, header_style="bold", padding=(0, 1))
    for column in rows.columns:
        column.overflow = "fold"
    for finding in sorted(findings, key=lambda f: list(EXIT_CODES).index(f.severity), reverse=True):
        rows.add_row(
            finding.severity, finding.check, plain(finding.message), plain(finding.fix), style=_STYLES[finding.severity]
        )
    return rows
