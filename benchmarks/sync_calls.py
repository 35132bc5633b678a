#!/usr/bin/env python
"""How many commands and AWS calls a burst of uploads causes, for 1 to 1,000 nodes: the number of nodes has no effect.

    .venv/bin/python benchmarks/sync_calls.py

Runs the real handler of lambda-chalice with moto's SSM and EC2, in batches of the size that its trigger declares. Calls
are counted in the clients when they are sent; commands are those that moto has afterwards. `nodes` is the number of
running instances with the tag that the command targets. The last column is the number of commands if each key had its
own, with SSM's limit of 50 instance ids. Prints a Markdown table; the same as JSON with --json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import boto3
from moto import mock_aws

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "lambda-chalice")]

from tests.lambda_chalice.fakes import SETTINGS, s3_document, s3_record  # noqa: E402 - found by the line above

NODES = (1, 10, 100, 1_000)
UPLOADS = (10, 100, 1_000, 10_000)
IDS_OF_A_COMMAND = 50
REGION = "us-west-2"


@dataclass(frozen=True)
class Row:
    uploads: int
    nodes: int
    commands: int
    api_calls: int
    naive_commands: int


def batch_size() -> int:
    """Messages of a batch, as the trigger in app.py declares it."""
    os.environ.update(SETTINGS)
    from app import app

    [trigger] = app.event_sources
    return int(trigger.batch_size)


def launch(count: int) -> None:
    """Launch running nodes with the tag, and one instance without it."""
    tag = {"Key": SETTINGS["SYNC_TAG_KEY"], "Value": SETTINGS["SYNC_TAG_VALUE"]}
    ec2 = boto3.client("ec2", region_name=REGION)
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    tags: Any = [{"ResourceType": "instance", "Tags": [tag]}]
    ec2.run_instances(ImageId=image, MinCount=count, MaxCount=count, TagSpecifications=tags)
    ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)
    pages = ec2.get_paginator("describe_instances").paginate(
        Filters=[{"Name": f"tag:{tag['Key']}", "Values": [tag["Value"]]}]
    )
    found = sum(len(reservation["Instances"]) for page in pages for reservation in page["Reservations"])
    assert found == count, f"{found} of {count} nodes are running"


def burst(uploads: int, nodes: int, batch: int) -> Row:
    """Commands and calls of `uploads` uploads, one message each, with `nodes` nodes."""
    from chalicelib.handler import handle
    from chalicelib.settings import Settings

    with mock_aws():
        launch(nodes)
        calls: Counter[str] = Counter()
        clients: Any = {}
        for name in ("ssm", "sqs"):
            clients[name] = boto3.client(name, region_name=REGION)
            clients[name].meta.events.register("before-send", lambda request, **_: calls.update([request.url]))
        clients["ssm"].create_document(
            Name=SETTINGS["SYNC_DOCUMENT"],
            Content=(ROOT / "infra/terraform/platform/sync-models.ssm.yaml").read_text(),
            DocumentFormat="YAML",
            DocumentType="Command",
        )
        calls.clear()
        records = [
            {"messageId": str(number), "body": s3_document(s3_record(f"loras/{number}.safetensors"))}
            for number in range(uploads)
        ]
        for start in range(0, uploads, batch):
            handle(
                records[start : start + batch],
                settings=Settings.from_environment(SETTINGS),
                ssm=clients["ssm"],
                sqs=clients["sqs"],
                request_id="benchmark",
            )
        api_calls = calls.total()
        commands = len(clients["ssm"].list_commands()["Commands"])
    return Row(uploads, nodes, commands, api_calls, uploads * ceil(nodes / IDS_OF_A_COMMAND))


def table(rows: Sequence[Row]) -> str:
    lines = ["| uploads | nodes | commands | AWS calls | a command per key |", "|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {row.uploads:,} | {row.nodes:,} | {row.commands:,} | {row.api_calls:,} | {row.naive_commands:,} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ[name] = "test"
    batch = batch_size()
    with open(os.devnull, "w") as quiet:  # noqa: PTH123 - not a file of ours
        stdout, sys.stdout = sys.stdout, quiet  # the handler's log
        try:
            rows = [burst(uploads, nodes, batch) for uploads in UPLOADS for nodes in NODES]
        finally:
            sys.stdout = stdout
    print(json.dumps([asdict(row) for row in rows]) if options.json else table(rows))


if __name__ == "__main__":
    main()
