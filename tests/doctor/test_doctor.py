"""Faults, each put alone into a healthy deployment: found, named, and with how to fix it."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner, Result

from comfyeks.aws_account import ON_DEMAND_QUOTA, SPOT_QUOTA, SPOT_ROLE
from comfyeks.cli import app
from comfyeks.doctor import machine
from comfyeks.errors import OperationError
from comfyeks.findings import ERROR, OK, WARNING
from comfyeks.models.status import NodeStatus
from tests.support.fake_kubernetes import Objects, fake_kubernetes, pod, unscheduled
from tests.support.mocked_aws import mocked_aws

pytestmark = pytest.mark.local  # an account in moto and an API server for each test

ACCOUNT, REGION = "111122223333", "us-west-2"
QUEUE = "comfyui-model-events"


class World:
    """What the checks look at. A test changes one thing and runs `comfyeks doctor`."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.quota = {ON_DEMAND_QUOTA[0]: 64.0, SPOT_QUOTA[0]: 64.0}
        self.nodes: list[NodeStatus] = []

    def ask(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["doctor", "--region", REGION, "--json", *arguments])


def not_fine(answer: Result) -> list[dict[str, str]]:
    return [finding for finding in json.loads(answer.stdout) if finding["severity"] != OK]


def workload(name: str, image: str, ready: int = 2, wanted: int = 2) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"replicas": wanted, "template": {"spec": {"containers": [{"image": image}]}}},
        "status": {"readyReplicas": ready},
    }


def daemon(name: str, image: str) -> dict[str, Any]:
    found = workload(name, image)
    found["status"] = {"desiredNumberScheduled": 1, "numberReady": 1}
    return found


def event(message: str) -> dict[str, Any]:
    return {"metadata": {"name": "e"}, "involvedObject": {"name": "comfyui-0"}, "message": message}


READY = [{"type": "Ready", "status": "True"}]
WELL: Objects = {
    "/api/v1/namespaces/comfyui/events": [],
    "/api/v1/namespaces/comfyui/pods": [pod(phase="Running", conditions=READY)],
    "/apis/apps/v1/deployments": [workload("karpenter", "public.ecr.aws/karpenter/controller:1.14.1")],
    "/apis/apps/v1/daemonsets": [
        daemon("nvidia-device-plugin", "nvcr.io/nvidia/k8s-device-plugin:v0.20.0"),
        daemon("eks-pod-identity-agent", "eks/eks-pod-identity-agent:v0.1"),
    ],
    "/apis/karpenter.sh/v1/nodepools": [{"metadata": {"name": "gpu"}, "status": {"conditions": READY}}],
    "/apis/karpenter.sh/v1/nodeclaims": [],
    "/apis/karpenter.k8s.aws/v1/ec2nodeclasses": [{"metadata": {"name": "gpu"}, "status": {"conditions": READY}}],
    "/apis/elbv2.k8s.aws/v1beta1/targetgroupbindings": [],
    "/apis/storage.k8s.io/v1/csidrivers": [{"metadata": {"name": "s3.csi.aws.com"}}],
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Return a healthy deployment: an account in moto, an API server, new tools."""
    monkeypatch.setattr("comfyeks.deployment.STATE", tmp_path / "state")
    world = World(copy.deepcopy(WELL))
    monkeypatch.setattr("comfyeks.models.status.collect", lambda *_: world.nodes)  # asked over SSM: tests/models
    monkeypatch.setattr(machine, "TOOLS", tmp_path / "none")
    for tool, version in (("terraform", "1.15.0"), ("helm", "v4.3.0"), ("kubectl", "v1.36.1"), ("aws", "2.31.0")):
        put_tool(tmp_path / "bin", tool, version)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with mocked_aws(ACCOUNT), fake_kubernetes(world.objects, tmp_path / "kubeconfig"):
        make_account(monkeypatch, world)
        yield world


def put_tool(folder: Path, name: str, version: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho {version}\n")
    (folder / name).chmod(0o755)


def make_account(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    s3 = boto3.client("s3", region_name=REGION)
    for kind in ("artifacts", "models"):
        s3.create_bucket(
            Bucket=f"comfyui-{kind}-{ACCOUNT}-{REGION}", CreateBucketConfiguration={"LocationConstraint": REGION}
        )
    iam = boto3.client("iam")
    iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")
    if SPOT_ROLE not in {role["RoleName"] for role in iam.list_roles()["Roles"]}:  # moto names it otherwise
        iam.create_role(RoleName=SPOT_ROLE, AssumeRolePolicyDocument="{}")
    sqs = boto3.client("sqs", region_name=REGION)
    queues = {name: sqs.create_queue(QueueName=name)["QueueUrl"] for name in (QUEUE, f"{QUEUE}-dlq")}
    arn = sqs.get_queue_attributes(QueueUrl=queues[QUEUE], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    role = iam.create_role(RoleName="sync", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("app.py", "")
    client = boto3.client("lambda", region_name=REGION)
    name = "comfyui-models-default-sync"
    client.create_function(
        FunctionName=name, Runtime="python3.11", Role=role, Handler="app.sync", Code={"ZipFile": code.getvalue()}
    )
    client.create_event_source_mapping(FunctionName=name, EventSourceArn=arn)

    class Quotas:  # moto has no quotas for EC2's GPU types
        def get_service_quota(self, ServiceCode: str, QuotaCode: str) -> dict[str, Any]:
            return {"Quota": {"Value": world.quota[QuotaCode]}}

    monkeypatch.setattr(
        boto3, "client", lambda name, region_name=REGION: Quotas() if name == "service-quotas" else client_of(name)
    )


@cache
def client_of(service: str) -> Any:
    """Return one client for all tests: creating it takes longer than all its calls."""
    return make_client(service, region_name=REGION)


make_client = boto3.client


def test_a_healthy_deployment_has_no_findings(world: World) -> None:
    answer = world.ask()
    assert not_fine(answer) == []
    assert answer.exit_code == 0


def one(world: World, check: str, severity: str = ERROR) -> dict[str, str]:
    """Return the only finding that is not fine, after checking the exit code."""
    answer = world.ask()
    [finding] = not_fine(answer)
    assert (finding["check"], finding["severity"]) == (check, severity)
    assert finding["fix"]
    assert answer.exit_code == {ERROR: 4, WARNING: 3}[severity]
    return finding


def test_a_tool_that_is_too_old(world: World, tmp_path: Path) -> None:
    put_tool(tmp_path / "bin", "terraform", "1.5.7")
    assert "terraform is 1.5.7, the oldest that works is 1.11" in one(world, "tools")["message"]


def test_a_tool_that_is_missing(world: World, tmp_path: Path) -> None:
    (tmp_path / "bin" / "kubectl").unlink()
    assert "kubectl is not on PATH" in one(world, "tools")["message"]


def test_without_credentials_this_machine_is_examined_all_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_credentials(*_: object) -> None:
        raise OperationError("AWS did not answer which account this is: expired. Check the credentials (aws sts …).")

    monkeypatch.setattr("comfyeks.doctor.cli.current", no_credentials)
    (tmp_path / "bin" / "kubectl").unlink()
    answer = world.ask()
    tool, credentials = not_fine(answer)
    assert (tool["check"], credentials["check"]) == ("tools", "credentials")
    assert "aws sso login" in credentials["fix"]
    assert answer.exit_code == 4


def test_a_quota_that_lets_no_node_start(world: World) -> None:
    world.quota = dict.fromkeys(world.quota, 4.0)
    on_demand, spot = not_fine(world.ask())
    assert {on_demand["severity"], spot["severity"]} == {ERROR}
    assert "4 vCPUs, 1 × g5.2xlarge needs 8" in on_demand["message"]
    assert "request-service-quota-increase --service-code ec2 --quota-code L-DB2E81BA" in on_demand["fix"]


def test_a_quota_without_spot_is_a_warning_since_on_demand_remains(world: World) -> None:
    world.quota[SPOT_QUOTA[0]] = 0
    assert "Spot" in one(world, "quota", WARNING)["message"]


def test_the_role_for_spot_is_missing(world: World) -> None:
    boto3.client("iam").delete_role(RoleName=SPOT_ROLE)
    assert "create-service-linked-role" in one(world, "spot role", WARNING)["fix"]


def test_no_zone_offers_the_type(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto.ec2.models.instance_types.InstanceTypeOfferingBackend."
                        "describe_instance_type_offerings", lambda *_, **__: [])  # fmt: skip
    assert "no zone of us-west-2 offers g5.2xlarge" in one(world, "zones")["message"]


def test_models_that_do_not_fit_a_node(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfyeks.doctor.sync.RESERVED", 10**12)
    assert "nodes leave some out" in one(world, "models")["message"]


def test_a_context_that_leads_to_another_cluster(world: World, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(kubeconfig.read_text().replace("cluster: comfyui", "cluster: payroll"))
    finding = one(world, "kubeconfig")
    assert "points to cluster 'payroll', not to comfyui" in finding["message"]
    assert "aws eks update-kubeconfig" in finding["fix"]


def test_no_kubeconfig(world: World, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").unlink()
    assert "no kubectl context is chosen" in one(world, "kubeconfig")["message"]


def test_an_api_server_that_does_not_answer(world: World, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    text = kubeconfig.read_text()
    port = text.partition("127.0.0.1:")[2].partition("\n")[0]
    kubeconfig.write_text(text.replace(port, "1"))
    finding = one(world, "cluster")
    assert "does not answer" in finding["message"]
    assert "api_allowed_cidrs" in finding["fix"]


def test_a_cluster_without_our_terraform_is_examined_whatever_its_name(world: World, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(kubeconfig.read_text().replace("comfyui", "theirs"))
    boto3.client("s3").delete_bucket(Bucket=f"comfyui-artifacts-{ACCOUNT}-{REGION}")
    del world.objects["/apis/apps/v1/daemonsets"][1]
    [finding] = not_fine(world.ask("--context", "here"))
    assert finding["message"] == "the Pod Identity agent is not installed"
    assert not_fine(world.ask()) == []  # without a context: there is no deployment yet


def test_a_cluster_that_is_older_than_the_charts_accept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfyeks.kubernetes.api.Cluster.version", lambda _: "1.33")
    assert "Kubernetes is 1.33" in one(world, "cluster")["message"]


def test_a_context_that_does_not_exist(world: World) -> None:
    finding = next(f for f in not_fine(world.ask("--context", "gone")))
    assert "gone" in finding["message"]
    assert finding["fix"]


def test_karpenter_is_not_healthy(world: World) -> None:
    world.objects["/apis/apps/v1/deployments"][0]["status"] = {"readyReplicas": 0}
    assert one(world, "add-ons")["message"] == "Karpenter: 0 of 2 pods are ready"


def test_karpenter_is_scaled_to_zero(world: World) -> None:
    world.objects["/apis/apps/v1/deployments"][0] |= {"spec": workload("", "/karpenter/controller", 0, 0)["spec"]}
    world.objects["/apis/apps/v1/deployments"][0]["status"] = {}
    finding = one(world, "add-ons")
    assert finding["message"] == "Karpenter: 0 of 0 pods are ready"
    assert "scale deployment karpenter --replicas" in finding["fix"]


def test_the_device_plugin_is_missing(world: World) -> None:
    del world.objects["/apis/apps/v1/daemonsets"][0]
    assert "NVIDIA device plugin is not installed" in one(world, "add-ons")["message"]


def test_a_cluster_without_the_s3_driver(world: World) -> None:
    world.objects["/apis/storage.k8s.io/v1/csidrivers"].clear()
    assert "aws-mountpoint-s3-csi-driver v" in one(world, "prerequisites")["fix"]


def test_a_cluster_that_does_not_know_karpenter(world: World) -> None:
    del world.objects["/apis/karpenter.sh/v1/nodepools"]
    assert "Karpenter's CRDs (NodePool)" in one(world, "prerequisites")["message"]


def test_a_node_class_that_karpenter_does_not_accept(world: World) -> None:
    broken = [{"type": "Ready", "status": "False", "message": "no subnets found"}]
    world.objects["/apis/karpenter.k8s.aws/v1/ec2nodeclasses"][0]["status"] = {"conditions": broken}
    assert "no subnets found" in one(world, "pools")["message"]


def test_a_node_that_could_not_be_started(world: World) -> None:
    launched = [{"type": "Launched", "status": "False", "message": "insufficient capacity"}]
    world.objects["/apis/karpenter.sh/v1/nodeclaims"].append(
        {"metadata": {"name": "gpu-x"}, "status": {"conditions": launched}}
    )
    assert "gpu-x could not be started: insufficient capacity" in one(world, "pools", WARNING)["message"]


def test_a_pod_that_waits_is_explained(world: World) -> None:
    world.objects["/api/v1/namespaces/comfyui/pods"] = [unscheduled("0/2 nodes are available")]
    world.objects["/api/v1/namespaces/comfyui/events"] = [
        event("all available instance types exceed limits for nodepool")
    ]
    finding = one(world, "pods")
    assert "the pool's own limit of GPUs is reached" in finding["message"]
    assert "maxGpus" in finding["fix"]


def test_a_node_whose_sync_failed(world: World) -> None:
    world.nodes = [NodeStatus("i-1", "g5.2xlarge", "us-west-2a", "failed", problem="no space left")]
    finding = one(world, "model sync")
    assert "i-1: failed: no space left" in finding["message"]


def test_dead_letters(world: World) -> None:
    sqs = boto3.client("sqs", region_name=REGION)
    sqs.send_message(QueueUrl=sqs.get_queue_url(QueueName=f"{QUEUE}-dlq")["QueueUrl"], MessageBody="?")
    assert one(world, "dead letters")["message"].startswith("1 model event")


def test_the_function_is_missing(world: World) -> None:
    boto3.client("lambda", region_name=REGION).delete_function(FunctionName="comfyui-models-default-sync")
    assert one(world, "model events")["fix"] == "comfyeks events deploy"


def test_several_faults_are_all_found_and_the_worst_decides(world: World, tmp_path: Path) -> None:
    put_tool(tmp_path / "bin", "helm", "v3.9.4")
    world.quota[SPOT_QUOTA[0]] = 0  # a warning
    answer = world.ask()
    assert {finding["check"] for finding in not_fine(answer)} == {"tools", "quota"}
    assert answer.exit_code == 4


def test_the_table_has_what_and_what_to_do(world: World) -> None:
    world.quota = dict.fromkeys(world.quota, 0.0)
    printed = " ".join(CliRunner().invoke(app, ["doctor", "--region", REGION]).stdout.split())
    assert "what to do" in printed
    assert "L-DB2E81BA" in printed
