"""Faults of a running deployment, on the local AWS and a real API server: created, to be found, and undone."""

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
class Target:
    """Where faults are created: the clone that runs the doctor, its account, its cluster, a folder for files."""

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


Seed = Callable[[Target], AbstractContextManager[Clone]]


@dataclass(frozen=True)
class Fault:
    """`seed` yields a clone whose doctor has a finding of `check` with `message` in its message."""

    name: str
    check: str
    message: str
    seed: Seed

    def is_named_by(self, finding: dict[str, str]) -> bool:
        return finding["check"] == self.check and self.message in finding["message"]


FAULTS: list[Fault] = []


def fault(check: str, message: str) -> Callable[[Callable[[Target], Iterator[Clone]]], Seed]:
    """Register a generator as the seed of a fault, named by its function."""

    def register(seed: Callable[[Target], Iterator[Clone]]) -> Seed:
        made: Seed = contextmanager(seed)
        FAULTS.append(Fault(seed.__name__.replace("_", " "), check, message, made))
        return made

    return register


def _tools(target: Target, label: str, **instead: str | None) -> Clone:
    """PATH with the tools of this machine, except `instead`: the version that a tool reports, None for no tool."""
    folder = target.folder / label
    folder.mkdir()
    for tool in ("terraform", "helm", "kubectl", "aws"):
        if tool in instead:
            if (version := instead[tool]) is not None:
                (folder / tool).write_text(f"#!/bin/sh\necho {version}\n")
                (folder / tool).chmod(0o755)
        elif found := shutil.which(tool, path=target.clone.env["PATH"]):
            (folder / tool).symlink_to(found)
    return target.with_environment(PATH=str(folder))


def _kubeconfig(target: Target, label: str, change: Callable[[dict[str, Any]], None]) -> Clone:
    config = yaml.safe_load(target.kubeconfig.read_text())
    change(config)
    path = target.folder / label
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return target.with_environment(KUBECONFIG=str(path))


@contextmanager
def _settings(target: Target, **more: Any) -> Iterator[Clone]:
    path = target.clone.root / ".comfyeks" / target.name / "settings.yaml"
    before = path.read_text() if path.exists() else None
    path.write_text(yaml.safe_dump({**(yaml.safe_load(before) if before else {}), **more}))
    try:
        yield target.clone
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)


@contextmanager
def _pod(target: Target, name: str, spec: Object) -> Iterator[None]:
    container = {"name": "it", "image": "nowhere.example/it:1"}
    target.api.create(
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
        target.api.delete("Pod", "comfyui", name, grace_seconds=0)


@fault("tools", "terraform is 1.5.7, the oldest that works is")
def a_tool_that_is_too_old(target: Target) -> Iterator[Clone]:
    yield _tools(target, "old", terraform="1.5.7")


@fault("tools", "kubectl is not on PATH")
def a_tool_that_is_missing(target: Target) -> Iterator[Clone]:
    yield _tools(target, "without", kubectl=None)


@fault("quota", "10 × g5.2xlarge needs 80")
def more_pods_than_the_quota_allows(target: Target) -> Iterator[Clone]:
    with _settings(target, comfyui={"replicas": 10}) as clone:
        yield clone


@fault("spot role", f"the account has no {SPOT_ROLE}")
def no_role_for_spot(target: Target) -> Iterator[Clone]:
    iam = target.aws.client("iam")
    iam.delete_role(RoleName=SPOT_ROLE)
    yield target.clone
    iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")


@fault("kubeconfig", "points to cluster 'payroll', not to comfyui-try")
def a_context_that_leads_elsewhere(target: Target) -> Iterator[Clone]:
    def elsewhere(config: dict[str, Any]) -> None:
        config["clusters"][0]["name"] = config["contexts"][0]["context"]["cluster"] = "payroll"

    yield _kubeconfig(target, "payroll", elsewhere)


@fault("kubeconfig", "no kubectl context is chosen")
def no_kubeconfig(target: Target) -> Iterator[Clone]:
    yield target.with_environment(KUBECONFIG=str(target.folder / "none"))


@fault("cluster", "does not answer")
def an_api_server_that_is_out_of_reach(target: Target) -> Iterator[Clone]:
    def unreachable(config: dict[str, Any]) -> None:
        config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"

    yield _kubeconfig(target, "unreachable", unreachable)


@fault("add-ons", "the NVIDIA device plugin is not installed")
def no_device_plugin(target: Target) -> Iterator[Clone]:
    path = "/apis/apps/v1/namespaces/kube-system/daemonsets/nvidia-device-plugin"
    plugin = target.api.cluster.get(path)
    assert plugin
    target.api.cluster.delete(path)
    yield target.clone
    kept = ("name", "namespace", "labels", "annotations")
    plugin["metadata"] = {name: value for name, value in plugin["metadata"].items() if name in kept}
    target.api.create({**plugin, "apiVersion": "apps/v1", "kind": "DaemonSet"})


@fault("pools", "is not ready: ")
def a_node_class_without_subnets(target: Target) -> Iterator[Clone]:
    [node_class] = target.api.list("EC2NodeClass")
    name, terms = node_class["metadata"]["name"], node_class["spec"]["subnetSelectorTerms"]
    nowhere = {"spec": {"subnetSelectorTerms": [{"tags": {NOWHERE: "here"}}]}}
    target.api.patch("EC2NodeClass", None, name, nowhere)
    yield target.clone
    target.api.patch("EC2NodeClass", None, name, {"spec": {"subnetSelectorTerms": terms}})


@fault("pods", "no pool and no node takes this pod")
def a_pod_that_fits_nowhere(target: Target) -> Iterator[Clone]:
    with _pod(target, "nowhere", {"nodeSelector": {NOWHERE: "here"}}):
        yield target.clone


@fault("pods", "the image cannot be pulled")
def an_image_that_is_not_there(target: Target) -> Iterator[Clone]:
    """The stand-in for kubelet pulls no image, so the error is written into the pod's status."""
    waiting = {"reason": "ImagePullBackOff", "message": "not found"}
    state = {"name": "it", "image": "", "imageID": "", "ready": False, "restartCount": 0, "state": {"waiting": waiting}}
    with _pod(target, "without-image", {"nodeName": "nobody"}):
        status = {"status": {"phase": "Pending", "containerStatuses": [state]}}
        target.api.patch("Pod", "comfyui", "without-image", status, subresource="status")
        yield target.clone


@fault("dead letters", "1 model events could not be handled")
def an_event_that_could_not_be_handled(target: Target) -> Iterator[Clone]:
    sqs = target.aws.client("sqs")
    queue = sqs.get_queue_url(QueueName=f"{target.name}-model-events-dlq")["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody="?")
    yield target.clone
    sqs.purge_queue(QueueUrl=queue)


@fault("model events", "receives no events: its queue mapping is Disabled")
def a_function_that_does_not_listen(target: Target) -> Iterator[Clone]:
    client = target.aws.client("lambda")
    [mapping] = client.list_event_source_mappings()["EventSourceMappings"]
    client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
    yield target.clone
    client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True)


@fault("add-ons", "Karpenter: 0 of 0 pods are ready")
def a_controller_that_was_scaled_to_zero(target: Target) -> Iterator[Clone]:
    """Must be the last one: the pods and node classes of the others need Karpenter."""
    pods = target.api.get("Deployment", "kube-system", "karpenter")
    assert pods
    target.api.patch("Deployment", "kube-system", "karpenter", {"spec": {"replicas": 0}})
    yield target.clone
    target.api.patch("Deployment", "kube-system", "karpenter", {"spec": {"replicas": pods["spec"]["replicas"]}})
