"""Draws docs/pictures: the output of commands for a made-up deployment, by the code that prints it."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

from comfyeks.cost import cli as cost
from comfyeks.cost import prices as price_table
from comfyeks.cost.model import Usage, estimate, plans
from comfyeks.cost.prices import Key
from comfyeks.doctor import cli as doctor
from comfyeks.findings import ERROR, WARNING, Finding
from comfyeks.paths import REPO_ROOT
from comfyeks.status import Node, Pod, Status, screen

FOLDER = REPO_ROOT / "docs" / "pictures"
COLUMNS = 110

STATUS = Status(
    deployment="comfyui-film",
    account="111122223333",
    region="us-west-2",
    address="https://comfyui.example.com",
    nodes=[
        Node("i-0a1b2c3d4e5f60718", "g5.2xlarge", "spot", "us-west-2a", "3 h 12 min", "41 models, idle"),
        Node("i-0918273645546372a", "g6.2xlarge", "on-demand", "us-west-2b", "4 min", "17 models, syncing"),
    ],
    pods=[
        Pod("comfyui-7c9d8b6f5-4xk2p", "ready", "i-0a1b2c3d4e5f60718", 3),
        Pod(
            "comfyui-7c9d8b6f5-m8w7q",
            "pending",
            "i-0918273645546372a",
            None,
            "it waits for the node's models",
            "kubectl -n comfyui logs comfyui-7c9d8b6f5-m8w7q -c wait-for-models shows how far they are",
        ),
    ],
    model_events=0,
    dead_letters=0,
    month_to_date_usd="214.06",
    hour_usd="2.641",
)
FINDINGS = [
    Finding("pods", ERROR, "comfyui-7c9d8b6f5-m8w7q does not run: the pool's own limit of GPUs is reached",
            "raise pools.default.maxGpus of charts/karpenter-gpu, or scale something else down"),
    Finding("quota", WARNING, "All G and VT Spot Instance Requests: 0 vCPUs, 1 × g5.2xlarge needs 8",
            "aws service-quotas request-service-quota-increase --service-code ec2 --quota-code L-3819A6DF "
            "--desired-value 8 --region us-west-2"),
]  # fmt: skip


def pictures() -> dict[Path, str]:
    """Path → SVG of every picture."""
    usage = Usage()
    month = estimate(usage)
    own = {Key("spot.g5.2xlarge", "hour"): price_table.amount("0.50", "example")}
    prices = price_table.load("us-west-2", own=FOLDER / "none").plus(own)
    return {
        FOLDER / "cost.svg": draw(
            "comfyeks cost --price spot.g5.2xlarge=0.50/hour --seconds-per-image 8",
            cost.month_table(month, prices),
            Text(),
            cost.plans_table(usage, plans(Usage(seconds_per_image=price_table.amount("8", "example"))), prices),
        ),
        FOLDER / "doctor.svg": draw("comfyeks doctor --project film", doctor.table(FINDINGS)),
        FOLDER / "status.svg": draw("comfyeks status --project film", screen(STATUS)),
    }


def draw(command: str, *printed: RenderableType) -> str:
    """Draw a terminal window with a command and its output; return the SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ {command}", style="bold"))
    for part in printed:
        console.print(part)
    svg = console.export_svg(title=command.split(" --")[0], unique_id=command.split()[1])
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"
