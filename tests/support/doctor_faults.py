"""Faults of a deployment that is up, on the local AWS and a real API server: seeded, to be found, and taken back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from comfyeks.kubernetes.api import Api, Cluster, Object
from comfyeks.platform.preflight import SPOT_ROLE
from comfyeks_local.emulators.local_aws import LocalAws
from tests.support.clones import Clone

NOWHERE = "comfyeks.example/none"


@dataclass
class Ground:
    """What faults are seeded into: the clone whose doctor is asked, its account, its cluster, a folder for files."""

    clone: Clone
    aws: LocalAws
    name: str
    folder: Path

    @property
    def kubeconfig(self) -> Path:
        return Path(self.clone.env["KUBECONFIG"])

    @property
    def api(self) -> Api:
        return Api(Cluster(kubeconfig=self.kubeconfig))

    def with_environment(self, **more: str) -> Clone:
        return replace(self.clone, env={**self.clone.env, **more})


Seed = Callable[[Ground], AbstractContextManager[Clone]]


@dataclass(frozen=True)
class Fault:
    """`seed` yields the clone whose doctor then has a finding of `check` that has `says` in what it says."""

    name: str
    check: str
    says: str
    seed: Seed

    def is_named_by(self, finding: dict[str, str]) -> bool:
        return finding["check"] == self.check and self.says in finding["message"]


FAULTS: list[Fault] = []


def fault(check: str, says: str) -> Callable[[Callable[[Ground], Iterator[Clone]]], Seed]:
    """Register a generator as the seed of a fault, named by its function."""

    def register(seed: Callable[[Ground], Iterator[Clone]]) -> Seed:
        made: Seed = contextmanager(seed)
        FAULTS.append(Fault(seed.__name__.replace("_", " "), check, says, made))
        return made

    return register


def _tools(ground: Ground, label: str, **instead: str | None) -> Clone:
    """PATH with the tools of this machine, but `instead` of some: a version they say, None for none."""
    folder = ground.folder / label
    folder.mkdir()
    for tool in ("terraform", "helm", "kubectl", "aws"):
        if tool in instead:
            if (version := instead[tool]) is not None:
                (folder / tool).write_text(f"#!/bin/sh\necho {version}\n")
                (folder / tool).chmod(0o755)
        elif found := shutil.which(tool, path=ground.clone.env["PATH"]):
            (folder / tool).symlink_to(found)
    return ground.with_environment(PATH=str(folder))


def _kubeconfig(ground: Ground, label: str, change: Callable[[dict[str, Any]], None]) -> Clone:
    config = yaml.safe_load(ground.kubeconfig.read_text())
    change(config)
    path = ground.folder / label
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return ground.with_environment(KUBECONFIG=str(path))


@contextmanager
def _settings(ground: Ground, **more: Any) -> Iterator[Clone]:
    path = ground.clone.root / ".comfyeks" / ground.name / "settings.yaml"
    before = path.read_text() if path.exists() else None
    path.write_text(yaml.safe_dump({**(yaml.safe_load(before) if before else {}), **more}))
    try:
        yield ground.clone
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)


@contextmanager
def _pod(ground: Ground, name: str, spec: Object) -> Iterator[None]:
    container = {"name": "it", "image": "nowhere.example/it:1"}
    ground.api.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "comfyui"},
            "spec": {"containers": [container], **spec},
        }
    )
    try:
        yield
    finally:
        ground.api.delete("Pod", "comfyui", name, grace_seconds=0)


@fault("tools", "terraform is 1.5.7, the oldest that works is")
def a_tool_that_is_too_old(ground: Ground) -> Iterator[Clone]:
    yield _tools(ground, "old", terraform="1.5.7")


@fault("tools", "kubectl is not on PATH")
def a_tool_that_is_missing(ground: Ground) -> Iterator[Clone]:
    yield _tools(ground, "without", kubectl=None)


@fault("quota", "10 × g5.2xlarge needs 80")
def more_pods_than_the_quota_allows(ground: Ground) -> Iterator[Clone]:
    with _settings(ground, comfyui={"replicas": 10}) as clone:
        yield clone


@fault("spot role", f"the account has no {SPOT_ROLE}")
def no_role_for_spot(ground: Ground) -> Iterator[Clone]:
    iam = ground.aws.client("iam")
    iam.delete_role(RoleName=SPOT_ROLE)
    yield ground.clone
    iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")


@fault("kubeconfig", "leads to cluster 'payroll', not to comfyui-try")
def a_context_that_leads_elsewhere(ground: Ground) -> Iterator[Clone]:
    def elsewhere(config: dict[str, Any]) -> None:
        config["clusters"][0]["name"] = config["contexts"][0]["context"]["cluster"] = "payroll"

    yield _kubeconfig(ground, "payroll", elsewhere)


@fault("kubeconfig", "no kubectl context is chosen")
def no_kubeconfig(ground: Ground) -> Iterator[Clone]:
    yield ground.with_environment(KUBECONFIG=str(ground.folder / "none"))


@fault("cluster", "does not answer")
def an_api_server_that_is_out_of_reach(ground: Ground) -> Iterator[Clone]:
    def unreachable(config: dict[str, Any]) -> None:
        config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"

    yield _kubeconfig(ground, "unreachable", unreachable)


@fault("add-ons", "the NVIDIA device plugin is not installed")
def no_device_plugin(ground: Ground) -> Iterator[Clone]:
    path = "/apis/apps/v1/namespaces/kube-system/daemonsets/nvidia-device-plugin"
    plugin = ground.api.cluster.get(path)
    assert plugin
    ground.api.cluster.delete(path)
    yield ground.clone
    kept = ("name", "namespace", "labels", "annotations")
    plugin["metadata"] = {name: value for name, value in plugin["metadata"].items() if name in kept}
    ground.api.create({**plugin, "apiVersion": "apps/v1", "kind": "DaemonSet"})


@fault("pools", "is not ready: ")
def a_node_class_without_subnets(ground: Ground) -> Iterator[Clone]:
    [node_class] = ground.api.list("EC2NodeClass")
    name, terms = node_class["metadata"]["name"], node_class["spec"]["subnetSelectorTerms"]
    nowhere = {"spec": {"subnetSelectorTerms": [{"tags": {NOWHERE: "here"}}]}}
    ground.api.patch("EC2NodeClass", None, name, nowhere)
    yield ground.clone
    ground.api.patch("EC2NodeClass", None, name, {"spec": {"subnetSelectorTerms": terms}})


@fault("pods", "no pool and no node takes this pod")
def a_pod_that_fits_nowhere(ground: Ground) -> Iterator[Clone]:
    with _pod(ground, "nowhere", {"nodeSelector": {NOWHERE: "here"}}):
        yield ground.clone


@fault("pods", "the image cannot be pulled")
def an_image_that_is_not_there(ground: Ground) -> Iterator[Clone]:
    """The kubelet of this machine pulls nothing: its word is written into the pod's status."""
    waiting = {"reason": "ImagePullBackOff", "message": "not found"}
    state = {"name": "it", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": {"waiting": waiting}}
    with _pod(ground, "without-image", {"nodeName": "nobody"}):
        status = {"status": {"phase": "Pending", "containerStatuses": [state]}}
        ground.api.patch("Pod", "comfyui", "without-image", status, subresource="status")
        yield ground.clone


@fault("dead letters", "1 model events could not be handled")
def an_event_that_nobody_could_use(ground: Ground) -> Iterator[Clone]:
    sqs = ground.aws.client("sqs")
    queue = sqs.get_queue_url(QueueName=f"{ground.name}-model-events-dlq")["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody="?")
    yield ground.clone
    sqs.purge_queue(QueueUrl=queue)


@fault("model events", "receives no events: its queue mapping is Disabled")
def a_function_that_does_not_listen(ground: Ground) -> Iterator[Clone]:
    client = ground.aws.client("lambda")
    [mapping] = client.list_event_source_mappings()["EventSourceMappings"]
    client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
    yield ground.clone
    client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True)


@fault("add-ons", "Karpenter: 0 of 0 pods are ready")
def a_controller_that_was_scaled_to_zero(ground: Ground) -> Iterator[Clone]:
    """The last one: pods and node classes before it need Karpenter's word."""
    pods = ground.api.get("Deployment", "kube-system", "karpenter")
    assert pods
    ground.api.patch("Deployment", "kube-system", "karpenter", {"spec": {"replicas": 0}})
    yield ground.clone
    ground.api.patch("Deployment", "kube-system", "karpenter", {"spec": {"replicas": pods["spec"]["replicas"]}})
