"""The steps that both forms of `comfyeks demo` share: the local AWS, the infrastructure, running a workflow.

The steps run the commands that a person would type; the output names what a stand-in replaces.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from PIL import Image

from comfyeks.console import err
from comfyeks.deployment import Deployment, current
from comfyeks.errors import OperationError
from comfyeks.paths import REPO_ROOT, STATE
from comfyeks.signals import uninterrupted
from comfyeks_local.cli import stop_everything
from comfyeks_local.demo.memory import Peak
from comfyeks_local.demo.timeline import Timeline
from comfyeks_local.emulators.local_aws import LocalAws
from comfyeks_local.processes import Process, wait_until

PROJECT = "demo"
HOME = STATE / "demo"
WORKFLOW = REPO_ROOT / "workflows" / "sdxl-text-to-image.json"


class Demo(ABC):
    """The steps and their common state. A step raises OperationError if its expected result does not appear."""

    title: str

    def __init__(self) -> None:
        self.keep = False
        self.timeline = Timeline()
        self.aws = LocalAws()
        self.env: dict[str, str] = {}
        self.deployment: Deployment
        self.model = HOME / "sd_xl_base_1.0.safetensors"
        self.key = f"checkpoints/{self.model.name}"
        self.image: Path | None = None
        self.peak = Peak()

    def run(self) -> None:
        """Run every step; the timeline is written to files even if a step fails."""
        with self.peak:
            try:
                self.steps()
            finally:
                self.timeline.write_page(HOME / "timeline.html", self.title, self.facts())
                self.timeline.write_json(HOME / "timeline.json", peak_memory_bytes=self.peak.bytes)

    @abstractmethod
    def steps(self) -> None:
        """Run the steps, in the order in which a team would do them."""

    @abstractmethod
    def url(self) -> str:
        """URL of ComfyUI."""

    # -- steps that both forms have -----------------------------------------------------------------------------------

    def start_aws(self) -> None:
        with self.timeline.step("local AWS: two emulators on loopback") as detail:
            self.sweep()
            self.aws.up()
            self.env = {**self.aws.environment(os.environ), "COMFYEKS_PROJECT": PROJECT}
            os.environ.clear()
            os.environ.update(self.env)
            self.deployment = current()
            detail(f"account {self.deployment.account}, {self.deployment.region}")

    def make_infra(self) -> None:
        with self.timeline.step("make infra: terraform apply of the data root and the platform") as detail:
            self.command("infra", "apply")
            detail(f"generated: {', '.join(sorted(p.name for p in self.deployment.dir.glob('*.values.yaml')))}")

    def deploy_events(self) -> None:
        with self.timeline.step("make events: chalice deploy"):
            self.command("events", "deploy")

    def run_workflow(self) -> None:
        with self.timeline.step(f"comfyeks run {WORKFLOW.relative_to(REPO_ROOT)}") as detail:
            results = HOME / "results"
            self.command("run", str(WORKFLOW), "--url", self.url(), "--seed", "42", "--out", str(results))
            [self.image] = list(results.rglob("*.png"))
            with Image.open(self.image) as picture:
                picture.load()
                detail(f"{self.image.name}: PNG of {picture.width}×{picture.height}")
            wanted = self.image.read_bytes()
            objects: dict[str, Any] = {}

            def uploaded() -> bool:
                objects.update({o["Key"]: o for o in self.objects("outputs") if o["Key"].endswith(".png")})
                return bool(objects)

            self.wait("the image in the outputs bucket", uploaded)
            [key] = objects
            if self.bucket_bytes("outputs", key) != wanted:
                raise OperationError(
                    f"s3://{self.deployment.bucket('outputs')}/{key} differs from what the server returned"
                )
            detail(f"s3://{self.deployment.bucket('outputs')}/{key}")

    def refuse_unknown_model(self) -> None:
        with self.timeline.step("a workflow with a missing model is refused with the server's reason") as detail:
            missing = "not-there.safetensors"
            answer = self.command(
                "run", str(WORKFLOW), "--url", self.url(), "--set", f"{self.loader()}.ckpt_name={missing}", expect=1
            )
            if missing not in answer:
                raise OperationError(f"the reason does not name {missing}:\n{answer}")
            detail(next(line.strip() for line in answer.splitlines() if missing in line))

    # -- the summary and the end --------------------------------------------------------------------------------------

    def facts(self) -> list[str]:
        """Lines below the timeline, on the page and in the terminal."""
        return [
            f"peak memory of all processes: {self.peak.bytes / 2**20:.0f} MiB",
            f"the timeline as a page: {HOME / 'timeline.html'}",
        ]

    def figures(self) -> list[str]:
        """Further lines in the terminal."""
        calls = self.aws.calls()
        services: Counter[str] = Counter()
        for name, count in calls.items():
            services[name.partition(".")[0]] += count
        busiest = ", ".join(f"{name} {count}" for name, count in services.most_common())
        return [
            f"resources created by Terraform: {self.resources()}",
            f"AWS API calls: {services.total()} ({busiest})",
        ]

    def summary(self, kept: bool) -> None:
        end = (
            f"still running: {self.kept_address()}; `comfyeks local down` stops it"
            if kept
            else "everything else was removed; KEEP=1 keeps it running"
        )
        err.print(f"\nDone in {self.timeline.elapsed:.0f} s.", style="bold green")
        for line in [*self.facts(), *self.figures(), f"the image: {self.image}", end]:
            err.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)

    def kept_address(self) -> str:
        """How to reach what KEEP=1 keeps running."""
        return self.url()

    def resources(self) -> int:
        """Managed resources in the two Terraform states."""
        count = 0
        for item in self.objects("artifacts"):
            if item["Key"].endswith(".tfstate"):
                state = json.loads(self.bucket_bytes("artifacts", item["Key"]))
                count += sum(len(r["instances"]) for r in state["resources"] if r["mode"] == "managed")
        return count

    def tear_down(self) -> None:
        """Stop everything. An error or a signal may cut the grace period of the workload short, but never the rest."""
        try:
            Process(HOME, "command").kill()
            self.end_workload()
        finally:
            with uninterrupted():
                stop_everything()

    @abstractmethod
    def end_workload(self) -> None:
        """Stop in order what this form of the demo started itself; `tear_down` kills the rest."""

    @staticmethod
    def sweep() -> None:
        """Stop and remove what an earlier demo left behind, even if it was killed."""
        Process(HOME, "command").kill()
        stop_everything()
        shutil.rmtree(HOME, ignore_errors=True)
        HOME.mkdir(parents=True)

    # -- helpers ------------------------------------------------------------------------------------------------------

    def command(self, *arguments: str, expect: int = 0) -> str:
        """Run a comfyeks command as a person would; its output goes to the demo's log.

        Returns its output. Raises OperationError if its exit code is not `expect`.
        """
        process = Process(HOME, "command")  # recorded, so that the next demo can stop it if this one is killed
        process.log.unlink(missing_ok=True)
        process.start([sys.executable, "-m", "comfyeks", *arguments], self.env)
        code = process.wait()
        printed = process.log.read_text(errors="replace")
        with (HOME / "commands.log").open("a") as log:
            log.write(f"$ comfyeks {' '.join(arguments)}\n{printed}\n")
        if code != expect:
            tail = process.tail(25)
            raise OperationError(f"`comfyeks {' '.join(arguments)}` ended with exit code {code}, not {expect}:\n{tail}")
        return printed

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = 60) -> float:
        """Poll until true; returns the seconds it took. Raises OperationError if it takes longer than `seconds`."""
        begun = time.monotonic()
        try:
            wait_until(what, ready, seconds)
        except TimeoutError as error:
            raise OperationError(str(error)) from error
        return time.monotonic() - begun

    def upload_model(self) -> None:
        """Upload a small, valid safetensors file under the name in the workflow, with `comfyeks models add`."""
        data = secrets.token_bytes(8 << 20)
        header = json.dumps({"weight": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
        self.model.write_bytes(len(header).to_bytes(8, "little") + header + data)
        self.command("models", "add", str(self.model), "--to", "checkpoints", "--force")

    def loader(self) -> str:
        """The id of the workflow's checkpoint loader."""
        graph = json.loads(WORKFLOW.read_text())
        return next(str(node_id) for node_id, node in graph.items() if node["class_type"] == "CheckpointLoaderSimple")

    def objects(self, kind: str) -> list[dict[str, Any]]:
        pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.deployment.bucket(kind))
        return [dict(item) for page in pages for item in page.get("Contents", [])]

    def bucket_bytes(self, kind: str, key: str) -> bytes:
        body = boto3.client("s3").get_object(Bucket=self.deployment.bucket(kind), Key=key)["Body"]
        return bytes(body.read())
