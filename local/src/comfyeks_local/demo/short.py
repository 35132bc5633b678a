"""`comfyeks demo` without Kubernetes: a model reaches two GPU nodes, and the image of a workflow reaches the bucket.

AWS is emulated (`comfyeks_local.emulators.local_aws`). Stand-ins: the GPU node (`comfyeks_local.node.local_node`),
kubelet (`comfyeks_local.node.pod`) and ComfyUI (`comfyeks_local.comfyui`).
"""

from __future__ import annotations

import hashlib
import time

from comfyeks.charts.render import Rendered, render
from comfyeks.errors import OperationError
from comfyeks.paths import REPO_ROOT
from comfyeks_local.demo.base import Demo
from comfyeks_local.node.cli import NODES
from comfyeks_local.node.local_node import LocalNode
from comfyeks_local.node.pod import PODS, LocalPod

INSTANCE_TYPE = "g5.2xlarge"
NODE_COUNT = 2


class ShortDemo(Demo):
    """Model in, image out."""

    title = "comfyeks demo: model in, image out, without an account"

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[LocalNode] = []
        self.pod: LocalPod | None = None

    def steps(self) -> None:
        self.start_aws()
        self.make_infra()
        self.deploy_events()
        self.boot_nodes()
        self.add_model()
        self.start_pod()
        self.run_workflow()
        self.refuse_unknown_model()
        if not self.keep:  # whoever keeps it running wants to use it
            self.remove_model()

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
            self.upload_model()
            uploaded = time.monotonic()
            self.wait("the model on every node", lambda: all((node.models / self.key).exists() for node in self.nodes))
            detail(f"on both nodes {time.monotonic() - uploaded:.1f} s after the upload")
            wanted = hashlib.sha256(self.bucket_bytes("models", self.key)).hexdigest()
            for node in self.nodes:
                if hashlib.sha256((node.models / self.key).read_bytes()).hexdigest() != wanted:
                    raise OperationError(f"{node.instance_id}: {self.key} differs from the bucket")
            detail(f"sha256 on the nodes equals the bucket's: {wanted[:16]}…")

    def start_pod(self) -> None:
        with self.timeline.step("the pod of charts/comfyui: readiness gate, uploader, ComfyUI (stand-in)") as detail:
            self.pod = LocalPod.of_chart(
                PODS / "comfyui-0", self.chart("comfyui"), self.nodes[0].models, self.aws.env()
            )
            self.pod.start()
            detail(f"ready at {self.pod.url}")

    def url(self) -> str:
        assert self.pod
        return self.pod.url

    def remove_model(self) -> None:
        with self.timeline.step(f"comfyeks models rm {self.key}: deleted from every node") as detail:
            self.command("models", "rm", self.key, "--yes")
            removed = time.monotonic()
            self.wait("the model gone", lambda: not any((node.models / self.key).exists() for node in self.nodes))
            detail(f"deleted from both nodes {time.monotonic() - removed:.1f} s after the delete")

    # -- the summary and the end --------------------------------------------------------------------------------------

    def figures(self) -> list[str]:
        commands = self.aws.calls()["ssm.SendCommand"]
        return [*super().figures(), f"SSM commands for one upload and one delete: {commands}"]

    def end_workload(self) -> None:
        if self.pod:
            self.pod.stop()

    # -- helpers ------------------------------------------------------------------------------------------------------

    def chart(self, name: str) -> Rendered:
        """A chart rendered with the instance type's values and those that `comfyeks infra apply` generated."""
        return render(
            name,
            files=[
                REPO_ROOT / "charts" / name / "instance-types" / f"{INSTANCE_TYPE}.yaml",
                self.deployment.chart_values(name),
            ],
        )

    @staticmethod
    def ready(node: LocalNode) -> bool:
        return bool(node.status().get("ready"))
