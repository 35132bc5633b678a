"""`comfyeks demo`: the main job on an AWS inside this machine, with the project's real parts, as a timeline.

The steps run the commands that a person would type; what has no AWS here is a named stand-in: the AWS itself
(`comfyeks.local.emulators`), the GPU node (`comfyeks.local.node`), kubelet and ComfyUI (`comfyeks.local.pod`,
`comfyeks.local.comfyui`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import boto3
import psutil
import typer
from PIL import Image

from comfyeks.charts.render import Rendered, render
from comfyeks.console import err, note
from comfyeks.deployment import Deployment, current
from comfyeks.errors import ComfyeksError, Failure
from comfyeks.local.cli import stop_everything
from comfyeks.local.emulators import LocalAws
from comfyeks.local.node import LocalNode
from comfyeks.local.node_cli import NODES
from comfyeks.local.pod import PODS, LocalPod
from comfyeks.local.processes import Process, wait_until
from comfyeks.paths import REPO_ROOT, STATE
from comfyeks.signals import exit_code, termination_as_interrupt, uninterrupted
from comfyeks.timeline import Timeline

PROJECT = "demo"
HOME = STATE / "demo"
WORKFLOW = REPO_ROOT / "workflows" / "sdxl-text-to-image.json"
INSTANCE_TYPE = "g5.2xlarge"
NODE_COUNT = 2
_SAMPLE_SECONDS = 2.0


class Demo:
    """The state that the steps share. Each step raises Failure when what it says did not happen."""

    title = "comfyeks demo: model in, image out, without an account"

    def __init__(self) -> None:
        self.keep = False
        self.timeline = Timeline()
        self.aws = LocalAws()
        self.env: dict[str, str] = {}
        self.deployment: Deployment
        self.nodes: list[LocalNode] = []
        self.pod: LocalPod | None = None
        self.model = HOME / "sd_xl_base_1.0.safetensors"
        self.key = f"checkpoints/{self.model.name}"
        self.image: Path | None = None
        self.peak = Peak()

    def run(self) -> None:
        """Every step; the timeline is also written down, whatever happens."""
        with self.peak:
            try:
                self.steps()
            finally:
                self.timeline.write_page(HOME / "timeline.html", self.title, self.facts())
                self.timeline.write_json(HOME / "timeline.json", peak_memory_bytes=self.peak.bytes)

    def steps(self) -> None:
        self.start_aws()
        self.make_infra()
        self.deploy_events()
        self.boot_nodes()
        self.add_model()
        self.start_pod()
        self.run_workflow()
        self.refuse_unknown_model()
        if not self.keep:  # whoever stays wants to use it
            self.remove_model()

    # -- steps --------------------------------------------------------------------------------------------------------

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
            self.command("lambda", "deploy")

    def boot_nodes(self) -> None:
        with self.timeline.step(f"{NODE_COUNT} GPU nodes boot the user data of charts/karpenter-gpu") as detail:
            node_class = self.chart("karpenter-gpu").of_kind("EC2NodeClass")[0]["spec"]
            for number in range(NODE_COUNT):
                node = LocalNode(
                    NODES / f"node-{number}",
                    env=self.env,
                    user_data=node_class["userData"],
                    tags=node_class["tags"],
                    instance_type=INSTANCE_TYPE,
                )
                node.start()
                self.nodes.append(node)
                detail(
                    f"{node.instance_id} ({INSTANCE_TYPE}), user data of {len(node_class['userData'].encode())} bytes"
                )
            self.wait("every node's first sync", lambda: all(self.ready(node) for node in self.nodes))

    def add_model(self) -> None:
        with self.timeline.step(f"comfyeks models add {self.model.name}: S3 → SQS → Lambda → SSM → nodes") as detail:
            self.write_model()
            self.command("models", "add", str(self.model), "--to", "checkpoints", "--force")
            uploaded = time.monotonic()
            self.wait("the model on every node", lambda: all((node.models / self.key).exists() for node in self.nodes))
            detail(f"on both nodes {time.monotonic() - uploaded:.1f} s after the upload")
            wanted = hashlib.sha256(self.bucket_bytes("models", self.key)).hexdigest()
            for node in self.nodes:
                if hashlib.sha256((node.models / self.key).read_bytes()).hexdigest() != wanted:
                    raise Failure(f"{node.instance_id}: {self.key} differs from the bucket")
            detail(f"sha256 on the nodes equals the bucket's: {wanted[:16]}…")

    def start_pod(self) -> None:
        with self.timeline.step("the pod of charts/comfyui: init gate, uploader, ComfyUI (stand-in)") as detail:
            self.pod = LocalPod.of_chart(
                PODS / "comfyui-0", self.chart("comfyui"), self.nodes[0].models, self.aws.env()
            )
            self.pod.start()
            detail(f"ready at {self.pod.url}")

    def url(self) -> str:
        """Where ComfyUI answers."""
        assert self.pod
        return self.pod.url

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
                raise Failure(f"s3://{self.deployment.bucket('outputs')}/{key} differs from what the server returned")
            detail(f"s3://{self.deployment.bucket('outputs')}/{key}")

    def refuse_unknown_model(self) -> None:
        with self.timeline.step("a workflow whose model is not there is refused with the server's reason") as detail:
            missing = "not-there.safetensors"
            answer = self.command(
                "run", str(WORKFLOW), "--url", self.url(), "--set", f"{self.loader()}.ckpt_name={missing}", expect=1
            )
            if missing not in answer:
                raise Failure(f"the reason does not name {missing}:\n{answer}")
            detail(next(line.strip() for line in answer.splitlines() if missing in line))

    def remove_model(self) -> None:
        with self.timeline.step(f"comfyeks models rm {self.key}: gone from every node") as detail:
            self.command("models", "rm", self.key, "--yes")
            removed = time.monotonic()
            self.wait("the model gone", lambda: not any((node.models / self.key).exists() for node in self.nodes))
            detail(f"gone from both nodes {time.monotonic() - removed:.1f} s after the delete")

    # -- the summary and the end --------------------------------------------------------------------------------------

    def facts(self) -> list[str]:
        """What is said below the timeline, on the page and in the terminal."""
        return [
            f"peak memory of all processes: {self.peak.bytes / 2**20:.0f} MiB",
            f"the timeline as a page: {HOME / 'timeline.html'}",
        ]

    def summary(self, kept: bool) -> None:
        calls = self.aws.calls()
        services: dict[str, int] = {}
        for name, count in calls.items():
            service = name.split(".")[0]
            services[service] = services.get(service, 0) + count
        busiest = sorted(services.items(), key=lambda item: -item[1])
        lines = [
            *self.facts(),
            f"resources made by Terraform: {self.resources()}",
            f"AWS API calls: {sum(calls.values())} ({', '.join(f'{name} {count}' for name, count in busiest)})",
            f"SSM commands for one upload and one delete: {calls['ssm.SendCommand']}",
            f"the image: {self.image}",
        ]
        if kept and self.pod:
            lines.append(f"still running: {self.pod.url}; `comfyeks local down` ends it")
        else:
            lines.append("everything else was torn down; KEEP=1 leaves it running")
        self.say_done(lines)

    def say_done(self, lines: list[str]) -> None:
        err.print(f"\nDone in {self.timeline.elapsed:.0f} s.", style="bold green")
        for line in lines:
            err.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)

    def resources(self) -> int:
        """Managed resources in the two Terraform states."""
        count = 0
        for item in self.objects("artifacts"):
            if item["Key"].endswith(".tfstate"):
                state = json.loads(self.bucket_bytes("artifacts", item["Key"]))
                count += sum(len(r["instances"]) for r in state["resources"] if r["mode"] == "managed")
        return count

    def tear_down(self) -> None:
        """End all of it. An error or a signal on the way cuts the pod's grace short, never the end of the rest."""
        try:
            Process(HOME, "command").kill()
            if self.pod:
                self.pod.stop()
        finally:
            with uninterrupted():
                stop_everything()

    @staticmethod
    def sweep() -> None:
        """End and remove what an earlier demo left, also one that was killed."""
        Process(HOME, "command").kill()
        stop_everything()
        shutil.rmtree(HOME, ignore_errors=True)
        HOME.mkdir(parents=True)

    # -- helpers ------------------------------------------------------------------------------------------------------

    def command(self, *words: str, expect: int = 0) -> str:
        """Run a comfyeks command as a person would; its output goes to the demo's log.

        Returns what it printed. Raises Failure when its exit code is not `expect`.
        """
        process = Process(HOME, "command")  # recorded, so that the next demo ends what a killed one left
        process.log.unlink(missing_ok=True)
        process.start([sys.executable, "-m", "comfyeks", *words], self.env)
        code = process.wait()
        printed = process.log.read_text(errors="replace")
        with (HOME / "commands.log").open("a") as log:
            log.write(f"$ comfyeks {' '.join(words)}\n{printed}\n")
        if code != expect:
            tail = process.tail(25)
            raise Failure(f"`comfyeks {' '.join(words)}` ended with exit code {code}, not {expect}:\n{tail}")
        return printed

    def chart(self, name: str) -> Rendered:
        """A chart rendered with the instance type's values and those that `make infra` generated."""
        return render(
            name,
            files=[
                REPO_ROOT / "charts" / name / "instance-types" / f"{INSTANCE_TYPE}.yaml",
                self.deployment.dir / f"{name}.values.yaml",
            ],
        )

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = 60) -> float:
        """Poll until true; how long it took. Raises Failure."""
        begun = time.monotonic()
        try:
            wait_until(what, ready, seconds)
        except TimeoutError as error:
            raise Failure(str(error)) from error
        return time.monotonic() - begun

    @staticmethod
    def ready(node: LocalNode) -> bool:
        return bool(node.status().get("ready"))

    def write_model(self) -> None:
        """A small, valid safetensors file under the name that the workflow asks for."""
        data = secrets.token_bytes(8 << 20)
        header = json.dumps({"weight": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
        self.model.write_bytes(len(header).to_bytes(8, "little") + header + data)

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


class Peak:
    """The most memory that this process and all below it had together inside the block, looked at every two seconds."""

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()

    def __enter__(self) -> Peak:
        threading.Thread(target=self._sample, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _sample(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(_SAMPLE_SECONDS):
            total = 0
            for process in (own, *own.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # it has just ended
                    total += process.memory_info().rss
            self.bytes = max(self.bytes, total)


def run(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running afterwards.")] = False,
    cluster: Annotated[
        bool | None,
        typer.Option(
            "--cluster/--no-cluster",
            help="With a real Kubernetes control plane and Karpenter; --cluster builds them when they are not there. "
            "Default: with them when they are built.",
        ),
    ] = None,
) -> None:
    """Run the main job end to end on an AWS inside this machine: model in, image out. No AWS account, no cluster."""
    demo = chosen(cluster)
    done = False
    try:
        with termination_as_interrupt():
            try:
                demo.keep = keep
                demo.run()
                demo.summary(kept=keep)
                done = True
            finally:
                if not (keep and done):
                    demo.tear_down()
    except ComfyeksError as error:
        raise Failure(f"{error}\nlogs: {HOME}") from error
    except KeyboardInterrupt as signalled:
        note(f"interrupted; everything was torn down. Logs: {HOME}")
        raise typer.Exit(exit_code(signalled)) from None


def chosen(cluster: bool | None) -> Demo:
    """The demo with a cluster or the short one; builds what the former needs only when asked to."""
    from comfyeks.demo_cluster import ClusterDemo  # a part of it is this module
    from comfyeks.local.cluster import binaries

    if cluster is False:
        return Demo()
    missing = [program.name for program in binaries.missing()]
    if missing and cluster is None:
        note(
            f"the short form, without Kubernetes: not built are {', '.join(missing)}. `make demo CLUSTER=yes` builds "
            f"them once (about {binaries.BUILD_MINUTES} minutes on two idle cores)"
        )
        return Demo()
    return ClusterDemo(binaries.build(note))
