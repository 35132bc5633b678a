"""`comfyeks demo` with a cluster: the whole life of a GPU node, on a real control plane with the real Karpenter.

From a pending pod to an image in the bucket, through a spot interruption, to zero nodes. It has the stand-ins of the
short form, and those for kubelet, EC2's hosts and the daemons of a node (`comfyeks_local.cluster`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import requests

from comfyeks.errors import OperationError
from comfyeks.kubernetes.api import Api, Object, is_true
from comfyeks.versions import VERSIONS
from comfyeks_local.cluster import launch_template
from comfyeks_local.cluster.local_cluster import LocalCluster, wait_for
from comfyeks_local.demo.base import HOME, PROJECT, WORKFLOW, Demo
from comfyeks_local.node.local_node import LocalNode
from comfyeks_local.processes import Process

NAMESPACE = "comfyui"
RELEASE = "comfyui"
CONSOLIDATE_AFTER = "10s"  # ten minutes by default
SLOW_STEPS = 600  # of the sampler: about twelve seconds in the stand-in


class ClusterDemo(Demo):
    """The whole life of a GPU node."""

    title = "comfyeks demo: a GPU node's life on a local cluster"

    def __init__(self, programs: Mapping[str, Path]) -> None:
        super().__init__()
        self._programs = programs
        self.cluster = LocalCluster(self.aws, project=PROJECT)
        self.api: Api
        self._instances: list[str] = []

    def steps(self) -> None:
        self.start_aws()
        self.make_infra()
        self.deploy_events()
        self.start_cluster()
        self.add_model()
        self.install_charts()
        self.launch_node()
        self.join()
        self.start_pod()
        self.run_workflow()
        self.refuse_unknown_model()
        self.interrupt()
        if not self.keep:  # whoever keeps it running wants to use it
            self.scale_to_zero()

    # -- steps --------------------------------------------------------------------------------------------------------

    def start_cluster(self) -> None:
        kubernetes, karpenter = (VERSIONS["go_tools"][name] for name in ("kubernetes", "karpenter"))
        with self.timeline.step(f"Kubernetes {kubernetes}; Karpenter {karpenter} from its own chart") as detail:
            self.cluster.up(self._programs)
            self.api = self.cluster.api()
            detail(f"export KUBECONFIG={self.cluster.kubeconfig}")
            self.cluster.install_addons(self.deployment.dir)
            detail("Karpenter is ready, with the values that `comfyeks infra apply` wrote")

    def add_model(self) -> None:
        with self.timeline.step(f"comfyeks models add {self.model.name}, while there is no node"):
            self.upload_model()

    def install_charts(self) -> None:
        with self.timeline.step("helm upgrade --install: karpenter-gpu, comfyui → the pod is pending") as detail:
            self.cluster.namespace(NAMESPACE)
            self.cluster.install_chart(
                "karpenter-gpu",
                self.deployment.dir,
                "kube-system",
                f"poolDefaults.consolidateAfter={CONSOLIDATE_AFTER}",
            )
            self.wait("EC2NodeClass and NodePool ready", self._pools_ready, 60)
            detail("Karpenter found the subnets, security group, role and AMI that Terraform created")
            self.cluster.install_chart(RELEASE, self.deployment.dir, NAMESPACE)
            self.wait("a pod", lambda: bool(self._pods()), 30)
            detail(f"{self._pods()[0]['metadata']['name']} is {self._pods()[0]['status']['phase']}")

    def launch_node(self) -> None:
        with self.timeline.step("Karpenter launches a node for it") as detail:
            self.wait("an instance", lambda: bool(self._gpu_instances()), 60)
            [instance] = self._gpu_instances()
            self._instances.append(instance["InstanceId"])
            self._check_launch_template(instance)
            lifecycle = instance.get("InstanceLifecycle", "on-demand")
            detail(f"{instance['InstanceId']}: {instance['InstanceType']}, {lifecycle}")
            detail("its launch template is as the charts require")

    def join(self) -> None:
        with self.timeline.step("the node boots its user data and joins") as detail:
            self.wait("a Node", lambda: self._node() is not None, 120)
            node = self._node()
            assert node
            detail(f"{node['metadata']['name']}, pool {node['metadata']['labels']['comfyui-on-eks/pool']}")
            self.wait("the startup taints gone", self._no_startup_taints, 60)
            detail("startup taints gone: Karpenter's and the S3 CSI driver's")

    def start_pod(self) -> None:
        with self.timeline.step("models ready on the node → readiness gate opens → ComfyUI (stand-in) runs") as detail:
            self.wait("models on the node", (self._local_node().models / self.key).exists, 60)
            detail(f"{self.key} is on the node")
            self.wait("the pod ready", lambda: any(_is_ready(pod) for pod in self._pods()), 60)
            self.wait("its Service", self._answers, 30)
            detail(f"svc/{RELEASE} answers at {self.url()}")

    def interrupt(self) -> None:
        with self.timeline.step("spot interruption while a job runs → drained, replaced") as detail:
            before = len(self._images())
            job = self._begin_slow_job()
            self.wait("the job in the queue", lambda: self._queue() > 0, 30)
            [old] = self._gpu_instances()
            self._send_interruption(old["InstanceId"])
            begun = time.monotonic()
            detail(f"two-minute notice for {old['InstanceId']} in the queue that Terraform created")
            self.wait("its replacement", lambda: self._others_than(old["InstanceId"]) != [], 120)
            new = self._others_than(old["InstanceId"])[0]
            self._instances.append(new["InstanceId"])
            detail(f"replacement launched after {time.monotonic() - begun:.1f} s: {new['InstanceId']}")
            self.wait("the old instance terminated", lambda: self._state(old["InstanceId"]) == "terminated", 180)
            took = time.monotonic() - begun
            self.wait("the end of the job", lambda: not job.alive())
            if job.wait() != 0:
                raise OperationError(f"the job was lost:\n{job.tail()}")
            self.wait("its image in the bucket", lambda: len(self._images()) > before, 30)
            detail(f"the job finished, its image is in the bucket; drained and terminated after {took:.1f} s")
            if took > 120:
                raise OperationError(f"the drain took {took:.0f} s; EC2 allows two minutes")
            self.wait("the new pod ready", lambda: any(_is_ready(pod) for pod in self._pods()), 180)
            detail(f"the new pod is ready {time.monotonic() - begun:.1f} s after the notice")

    def scale_to_zero(self) -> None:
        with self.timeline.step("scaled to zero → no GPU node, every instance terminated") as detail:
            self.api.patch("Deployment", NAMESPACE, RELEASE, {"spec": {"replicas": 0}})
            self.wait("no pod", lambda: not self._pods(), 120)
            detail("no pod")
            gone = self.wait("no GPU node", lambda: not self.api.list("NodeClaim") and self._node() is None, 180)
            detail(f"no node, {gone:.1f} s later (empty nodes stay {CONSOLIDATE_AFTER} here, 10m by default)")
            self.wait("instances terminated", lambda: not self._gpu_instances(), 30)
            states = {instance: self._state(instance) for instance in self._instances}
            if set(states.values()) != {"terminated"}:
                raise OperationError(f"not every instance is terminated: {states}")
            detail(f"{len(states)} instances terminated")

    # -- the summary and the end --------------------------------------------------------------------------------------

    def url(self) -> str:
        found = self.cluster.url(RELEASE, NAMESPACE)
        if found is None:
            raise OperationError(f"svc/{RELEASE} has no address yet")
        return found

    def facts(self) -> list[str]:
        return [*super().facts(), "stand-ins: AWS, EC2's hosts, kubelet, node daemons, ComfyUI; see docs/local.md"]

    def end_workload(self) -> None:
        Process(HOME, "slow-job").kill()

    def kept_address(self) -> str:
        return f"KUBECONFIG={self.cluster.kubeconfig}"

    # -- helpers ------------------------------------------------------------------------------------------------------

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = 60) -> float:
        return wait_for(what, ready, seconds, self.explain)

    def explain(self) -> str:
        """The last events of the cluster, which explain why a step does not succeed."""
        events = sorted(self.api.list("Event"), key=lambda event: event["metadata"]["creationTimestamp"])
        lines = [
            f"{event['involvedObject']['kind']}/{event['involvedObject'].get('name')}: {event.get('message', '')}"
            for event in events
            if event.get("type") == "Warning" or event["involvedObject"]["kind"] in ("NodeClaim", "EC2NodeClass")
        ]
        return "The last events:\n" + "\n".join(lines[-8:])

    def _pods(self) -> list[Object]:
        return self.api.list("Pod", NAMESPACE, labelSelector=f"app.kubernetes.io/instance={RELEASE}")

    def _pools_ready(self) -> bool:
        return all(is_true(item, "Ready") for kind in ("EC2NodeClass", "NodePool") for item in self.api.list(kind))

    def _node(self) -> Object | None:
        found = self.api.list("Node", labelSelector="karpenter.sh/nodepool")
        return found[0] if found else None

    def _no_startup_taints(self) -> bool:
        node = self._node()
        keys = {taint["key"] for taint in node["spec"].get("taints", [])} if node else {"?"}
        return keys == {"nvidia.com/gpu"}

    def _gpu_instances(self) -> list[dict[str, Any]]:
        pages = (
            boto3.client("ec2")
            .get_paginator("describe_instances")
            .paginate(
                Filters=[
                    {"Name": "tag-key", "Values": ["karpenter.sh/nodepool"]},
                    {"Name": "instance-state-name", "Values": ["pending", "running"]},
                ]
            )
        )
        return [dict(item) for page in pages for each in page["Reservations"] for item in each["Instances"]]

    def _others_than(self, instance_id: str) -> list[dict[str, Any]]:
        return [instance for instance in self._gpu_instances() if instance["InstanceId"] != instance_id]

    @staticmethod
    def _state(instance_id: str) -> str:
        [found] = boto3.client("ec2").describe_instances(InstanceIds=[instance_id])["Reservations"]
        return str(found["Instances"][0]["State"]["Name"])

    def _local_node(self) -> LocalNode:
        return LocalNode(self.cluster.nodes / self._instances[-1], {})

    def _check_launch_template(self, instance: Mapping[str, Any]) -> None:
        ec2 = boto3.client("ec2")
        data = launch_template.of_instance(ec2, instance["InstanceId"])
        [image] = ec2.describe_images(ImageIds=[data["ImageId"]])["Images"]
        [node_class], [pool] = self.api.list("EC2NodeClass"), self.api.list("NodePool")
        template = pool["spec"]["template"]["spec"]
        taints = [*template["taints"], *template["startupTaints"]]
        release = str(VERSIONS["ami_alias"]).rpartition("@v")[2]
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        if found := launch_template.problems(data, tags, image["Name"], node_class["spec"], taints, release):
            raise OperationError("the launch template is not as the charts require: " + "; ".join(found))

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url()}/system_stats", timeout=5).ok
        except (requests.RequestException, OperationError):
            return False

    def _queue(self) -> int:
        answer = requests.get(f"{self.url()}/prompt", timeout=5).json()
        return int(answer["exec_info"]["queue_remaining"])

    def _begin_slow_job(self) -> Process:
        graph = json.loads(WORKFLOW.read_text())
        sampler = next(str(name) for name, node in graph.items() if "steps" in node["inputs"])
        arguments = ["run", str(WORKFLOW), "--url", self.url(), "--seed", "7", "--out", str(HOME / "interrupted")]
        process = Process(HOME, "slow-job")
        process.start(
            [sys.executable, "-m", "comfyeks", *arguments, "--set", f"{sampler}.steps={SLOW_STEPS}"], self.env
        )
        return process

    def _images(self) -> list[str]:
        return [item["Key"] for item in self.objects("outputs") if item["Key"].endswith(".png")]

    def _send_interruption(self, instance_id: str) -> None:
        """Send EventBridge's message to the queue: the emulated EventBridge rejects events of AWS's own sources."""
        sqs = boto3.client("sqs")
        queue = sqs.get_queue_url(QueueName=self.deployment.interruption_queue)["QueueUrl"]
        event = {
            "version": "0",
            "id": f"demo-{instance_id}",
            "detail-type": "EC2 Spot Instance Interruption Warning",
            "source": "aws.ec2",
            "account": self.deployment.account,
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": self.deployment.region,
            "resources": [f"arn:aws:ec2:{self.deployment.region}:{self.deployment.account}:instance/{instance_id}"],
            "detail": {"instance-id": instance_id, "instance-action": "terminate"},
        }
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(event))


def _is_ready(pod: Object) -> bool:
    return "deletionTimestamp" not in pod["metadata"] and is_true(pod, "Ready")
