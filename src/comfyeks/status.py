"""`comfyeks status`: the state of a deployment on one screen."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import boto3
import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Group
from rich.table import Table
from rich.text import Text

from comfyeks.aws_account import find_cluster
from comfyeks.console import out, plain
from comfyeks.cost import prices as price_table
from comfyeks.cost.model import HOURS_PER_MONTH, add, dollars
from comfyeks.cost.platform import standing_lines
from comfyeks.cost.running import Running, hourly, hours_this_month
from comfyeks.deployment import Deployment, current
from comfyeks.doctor.pods import explained
from comfyeks.errors import ComfyeksError, OperationError
from comfyeks.kubernetes.api import Cluster, Object
from comfyeks.kubernetes.kubeconfig import checked_context
from comfyeks.models import status as models_status
from comfyeks.models.store import ModelStore
from comfyeks.options import Project, Region
from comfyeks.terraform import outputs

PORT = 8848
MODELS_SECONDS = 10.0
T = TypeVar("T")


@dataclass(frozen=True)
class Node:
    """A GPU node. `models`: the state of its model sync."""

    id: str
    type: str
    capacity: str
    zone: str
    age: str
    models: str


@dataclass(frozen=True)
class Pod:
    """A ComfyUI pod. `jobs`: running and waiting ones, None if not known; `why` it is not ready, and the `fix`."""

    name: str
    state: str
    node: str
    jobs: int | None
    why: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Status:
    """The state of a deployment. `problems`: what could not be found out, and why."""

    deployment: str
    account: str
    region: str
    address: str | None = None
    nodes: list[Node] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    model_events: int | None = None
    dead_letters: int | None = None
    month_to_date_usd: str | None = None
    hour_usd: str | None = None
    problems: list[str] = field(default_factory=list)


def run(
    project: Project = None,
    region: Region = None,
    context: Annotated[str | None, typer.Option(help="kubectl context; default: the current one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show GPU nodes, pods, queues, address and what the month has cost so far, on one screen. Changes nothing."""
    deployment = current(project, region)
    found = collect(deployment, context)
    if as_json:
        out.print_json(json.dumps(asdict(found)))
    else:
        out.print(screen(found))


def collect(deployment: Deployment, context: str | None) -> Status:
    """Collect everything at once; what does not answer is one of the status's `problems`, not an error."""
    problems: list[str] = []

    def answer(what: str, ask: Callable[[], T], otherwise: T) -> T:
        try:
            return ask()
        except (ComfyeksError, BotoCoreError, ClientError) as error:
            problems.append(f"{what}: {error}")
            return otherwise

    with ThreadPoolExecutor() as pool:
        nodes = pool.submit(answer, "nodes", lambda: _nodes(deployment), ([], []))
        pods = pool.submit(answer, "pods", lambda: _pods(deployment, context), [])
        queues = pool.submit(answer, "queues", lambda: _queues(deployment), (None, None))
        address = pool.submit(answer, "address", lambda: outputs.platform(deployment).get("url"), None)
        shown, running = nodes.result()
        money = pool.submit(answer, "cost", lambda: cost_so_far(deployment, running), (None, None))
        month, hour = money.result()
        waiting, dead = queues.result()
        return Status(
            deployment=deployment.name,
            account=deployment.account,
            region=deployment.region,
            address=address.result(),
            nodes=shown,
            pods=pods.result(),
            model_events=waiting,
            dead_letters=dead,
            month_to_date_usd=month,
            hour_usd=hour,
            problems=problems,
        )


def _nodes(deployment: Deployment) -> tuple[list[Node], list[Running]]:
    """Return every live GPU node, and since when it is paid."""
    session = boto3.Session(region_name=deployment.region)
    instances = models_status.live_instances(session, deployment)
    reports = {}
    if instances:
        models = ModelStore(session, deployment.bucket("models")).models()
        collected = models_status.collect(session, deployment, models, wait=MODELS_SECONDS)
        reports = {report.node: report for report in collected}
    shown, running = [], []
    for instance_id, instance in instances.items():
        report = reports.get(instance_id)
        capacity = "spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand"
        launched = instance["LaunchTime"]
        running.append(Running(instance["InstanceType"], capacity, launched))
        shown.append(
            Node(
                id=instance_id,
                type=instance["InstanceType"],
                capacity=capacity,
                zone=instance["Placement"]["AvailabilityZone"],
                age=_age(launched),
                models=f"{report.files} models, {report.state}" if report else "no answer",
            )
        )
    return shown, running


def _pods(deployment: Deployment, context: str | None) -> list[Pod]:
    cluster = Cluster(checked_context(context, deployment))
    return [
        Pod(
            name=pod["metadata"]["name"],
            state="ready" if reason is None else pod.get("status", {}).get("phase", "Unknown").lower(),
            node=pod.get("spec", {}).get("nodeName", "-"),
            jobs=_jobs(cluster, pod) if reason is None else None,
            why=reason.message if reason else "",
            fix=reason.fix if reason else "",
        )
        for pod, reason in explained(cluster, deployment.settings().namespace)
    ]


def _jobs(cluster: Cluster, pod: Object) -> int | None:
    """Return the number of a pod's jobs, as ComfyUI answers through the API server; None if it does not."""
    metadata = pod["metadata"]
    try:
        queue = cluster.get(f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}:{PORT}/proxy/queue")
    except OperationError:
        return None
    return None if queue is None else len(queue.get("queue_running", [])) + len(queue.get("queue_pending", []))


def _queues(deployment: Deployment) -> tuple[int, int]:
    """Return the number of waiting model events, and of dead letters."""
    sqs = boto3.client("sqs", region_name=deployment.region)

    def count(name: str) -> int:
        url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
        return int(answer["Attributes"]["ApproximateNumberOfMessages"])

    return count(deployment.model_events_queue), count(deployment.dead_letter_queue)


def cost_so_far(deployment: Deployment, nodes: list[Running]) -> tuple[str, str]:
    """Return USD of this month so far, and of an hour with the current nodes. Raises UserError for a missing price."""
    cluster = find_cluster(deployment)
    if cluster is None:
        raise OperationError(f"{deployment.name} has no EKS cluster")
    prices = price_table.load(deployment.region)
    now = datetime.now(UTC)
    always = add(standing_lines(deployment.settings()), prices) / HOURS_PER_MONTH
    hour, month = always, always * hours_this_month(cluster["createdAt"], now)
    for node in nodes:
        price = hourly(node, prices)
        hour += price
        month += price * hours_this_month(node.since, now)
    return dollars(month.quantize(Decimal("0.01"))), dollars(hour.quantize(Decimal("0.001")))


def _age(since: datetime) -> str:
    minutes = int((datetime.now(UTC) - since).total_seconds()) // 60
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 48 * 60 else f"{minutes // 1440} days"


def screen(found: Status) -> Group:
    """Return the status as a person reads it."""
    parts: list[Any] = [Text(f"{found.deployment}, account {found.account}, {found.region}", style="bold")]
    nodes = _rows("node", "type", "capacity", "zone", "age", "models")
    for node in found.nodes:
        nodes.add_row(node.id, node.type, node.capacity, node.zone, node.age, plain(node.models))
    parts += [Text(), nodes] if found.nodes else [Text("no GPU node runs", style="dim")]
    pods = _rows("pod", "state", "node", "jobs", "")
    for pod in found.pods:
        jobs = "-" if pod.jobs is None else str(pod.jobs)
        why = plain(f"{pod.why} → {pod.fix}" if pod.fix else pod.why)
        pods.add_row(pod.name, pod.state, pod.node, jobs, why, style="" if pod.state == "ready" else "yellow")
    parts += [Text(), pods] if found.pods else [Text("no ComfyUI pod", style="dim")]
    known = {
        "model events waiting": found.model_events,
        "dead letters": found.dead_letters,
        "address": found.address or "by port-forward only; comfyeks up prints the command",
        "this month so far": found.month_to_date_usd
        and f"about {found.month_to_date_usd} USD, {found.hour_usd} an hour now; no storage, transfer or ended nodes",
    }
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in known.items():
        if value is not None:
            facts.add_row(name, str(value))
    parts += [Text(), facts]
    parts += [Text(f"not known: {problem}", style="yellow") for problem in found.problems]
    return Group(*parts)


def _rows(*columns: str) -> Table:
    return Table(*columns, box=None, header_style="bold", padding=(0, 2, 0, 0))
