"""Stand-ins for everything outside the control plane: EC2's hosts, EKS' node groups, a node's daemons, kube-proxy.

    python -m comfyeks_local.cluster.machines HOME      HOME: the folder of the local cluster

- An EC2 instance that Karpenter or a node group launched becomes a local node, booted from its own user data. When the
  instance is terminated, the node is removed.
- A managed node group has one node, which is enough for one replica of each controller.
- A node joins only if its instance's role has an access entry in EKS.
- The S3 CSI driver removes its startup taint once it is registered on a ready node.
- Each Service has a loopback port (`services.json`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from botocore.exceptions import BotoCoreError, ClientError

from comfyeks.files import write_atomically
from comfyeks.kubernetes.api import Api, Cluster, NotFoundError, Object, RefusedError, UnreachableError, is_true
from comfyeks_local.cluster.control_plane import HOST, ControlPlane
from comfyeks_local.cluster.kubelet import NodeDescription, log
from comfyeks_local.cluster.services import Address, ServiceProxy
from comfyeks_local.emulators.local_aws import local_client
from comfyeks_local.node.local_node import LocalNode
from comfyeks_local.node.node_config import API_VERSION, NODE_CONFIG

_POLL_SECONDS = 0.5
CSI_DRIVER = "s3.csi.aws.com"
CSI_TAINT = "s3.csi.aws.com/agent-not-ready"
NODE_GROUP_TAG = "eks:nodegroup-name"
NODE_POOL_TAG = "karpenter.sh/nodepool"


class Machines:
    """The stand-ins of one cluster. `settings` is the content of `machines.json`, which `LocalCluster` writes."""

    def __init__(self, home: Path, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.home = home
        self.nodes = Path(settings["nodes"])
        self.kubeconfig = home / "kubeconfig"
        self._own = bool(settings["own_control_plane"])
        self._entrypoints = {part: str(path) for part, path in settings["entrypoints"].items()}
        self._environment = dict(environment)
        self._ec2, self._eks, self._iam = (local_client(environment, name) for name in ("ec2", "eks", "iam"))
        self._api = Api(Cluster(kubeconfig=self.kubeconfig))
        self._proxy = ServiceProxy()
        self._pool = ThreadPoolExecutor(8)
        self._boots: dict[str, Future[None]] = {}

    def run(self) -> None:
        """Run until the process ends. A failed request is repeated: AWS or the API server may be restarting."""
        while True:
            for step in (self._start_node_groups, self._follow_instances, self._emulate_daemons, self._follow_services):
                try:
                    step()
                except (BotoCoreError, ClientError, RefusedError, UnreachableError) as error:
                    log(f"{step.__name__}: {error}")
            time.sleep(_POLL_SECONDS)

    # -- EC2's hosts --------------------------------------------------------------------------------------------------

    def _follow_instances(self) -> None:
        instances = self._instances()
        for instance in instances:
            known = instance["InstanceId"] in self._boots
            if instance["State"]["Name"] in ("pending", "running") and not known:
                self._boots[instance["InstanceId"]] = self._pool.submit(self._boot, instance)
        alive = {each["InstanceId"] for each in instances if each["State"]["Name"] in ("pending", "running")}
        for instance_id in set(self._boots) - alive:
            self._boots.pop(instance_id).add_done_callback(partial(self._remove, instance_id))

    def _instances(self) -> list[dict[str, Any]]:
        pages = self._ec2.get_paginator("describe_instances").paginate(
            Filters=[{"Name": "tag-key", "Values": [NODE_POOL_TAG, NODE_GROUP_TAG]}]
        )
        return [instance for page in pages for each in page["Reservations"] for instance in each["Instances"]]

    def _boot(self, instance: Mapping[str, Any]) -> None:
        instance_id = instance["InstanceId"]
        home = self.nodes / instance_id
        try:
            [kind] = self._ec2.describe_instance_types(InstanceTypes=[instance["InstanceType"]])["InstanceTypes"]
            node = LocalNode(
                home,
                self._environment,
                instance_type=instance["InstanceType"],
                local_disks=1 if kind.get("InstanceStorageSupported") else 0,
            )
            if not node.alive():
                self._describe(instance, kind).write(home)
                node.attach(instance_id)
                node.start()
            log(f"{instance_id} ({instance['InstanceType']}) is up")
        except Exception as error:  # an error of one machine; nothing waits for this thread
            log(f"{instance_id} did not boot: {type(error).__name__}: {error}")

    def _describe(self, instance: Mapping[str, Any], kind: Mapping[str, Any]) -> NodeDescription:
        zone = instance["Placement"]["AvailabilityZone"]
        name = instance["PrivateDnsName"]
        kubeconfig = self.home / "nodes" / f"{instance['InstanceId']}.kubeconfig"
        if problem := self._refusal(instance):
            log(f"{instance['InstanceId']} may not join: {problem}")
        else:
            text = ControlPlane(self.home, {}).node_kubeconfig(name) if self._own else self.kubeconfig.read_text()
            write_atomically(kubeconfig, text, mode=0o600)
        return NodeDescription(
            node=name,
            provider_id=f"aws:///{zone}/{instance['InstanceId']}",
            address=instance["PrivateIpAddress"],
            region=zone[:-1],
            zone=zone,
            instance_type=instance["InstanceType"],
            cpu=int(kind["VCpuInfo"]["DefaultVCpus"]),
            memory_mib=int(kind["MemoryInfo"]["SizeInMiB"] * 0.97),  # without the part of the firmware and the kernel
            gpus=sum(int(gpu["Count"]) for gpu in kind.get("GpuInfo", {}).get("Gpus", [])),
            kubeconfig="" if problem else str(kubeconfig),
            entrypoints=self._entrypoints,
        )

    def _refusal(self, instance: Mapping[str, Any]) -> str:
        """Why EKS would not let the instance join; empty if it would."""
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        if NODE_GROUP_TAG in tags:  # EKS creates the access entry of a node group's role itself
            return ""
        template = tags.get("aws:ec2launchtemplate:id", "")
        versions = self._ec2.describe_launch_template_versions(LaunchTemplateId=template)["LaunchTemplateVersions"]
        profile = versions[0]["LaunchTemplateData"].get("IamInstanceProfile", {}).get("Name", "")
        [role] = self._iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
        cluster = tags.get("eks:eks-cluster-name", "")
        try:
            entry = self._eks.describe_access_entry(clusterName=cluster, principalArn=role["Arn"])["accessEntry"]
        except ClientError:
            return f"{role['Arn']} has no access entry in {cluster}"
        return "" if entry["type"] == "EC2_LINUX" else f"the access entry of {role['Arn']} is of type {entry['type']}"

    def _remove(self, instance_id: str, _: Future[None]) -> None:
        home = self.nodes / instance_id
        node = LocalNode(home, {})
        node.kill()
        logs = self.home / "log" / "nodes" / instance_id
        with contextlib.suppress(FileNotFoundError):
            shutil.copytree(home / "log", logs, dirs_exist_ok=True)
            for pod in (home / "pods").glob("*/log"):
                shutil.copytree(pod, logs / pod.parent.name, dirs_exist_ok=True)
        node.remove()
        log(f"{instance_id} was removed")

    # -- EKS' node groups ---------------------------------------------------------------------------------------------

    def _start_node_groups(self) -> None:
        there = {
            tag["Value"]
            for instance in self._instances()
            if instance["State"]["Name"] in ("pending", "running")
            for tag in instance["Tags"]
            if tag["Key"] == NODE_GROUP_TAG
        }
        for cluster in self._eks.list_clusters()["clusters"]:
            for name in self._eks.list_nodegroups(clusterName=cluster)["nodegroups"]:
                if name not in there:
                    self._launch_group_node(cluster, name)

    def _launch_group_node(self, cluster: str, name: str) -> None:
        group = self._eks.describe_nodegroup(clusterName=cluster, nodegroupName=name)["nodegroup"]
        if "launchTemplate" not in group:  # created a moment ago and still incomplete: the next round handles it
            return
        labels = {**group.get("labels", {}), "eks.amazonaws.com/nodegroup": name}
        flag = "--node-labels=" + ",".join(f"{key}={value}" for key, value in labels.items())
        document = {
            "apiVersion": API_VERSION,
            "kind": "NodeConfig",
            "spec": {
                "cluster": {"name": cluster, "apiServerEndpoint": self._server()},
                "kubelet": {"config": {"maxPods": 58}, "flags": [flag]},
            },
        }
        user_data = (
            'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="//"\n\n--//\n'
            f"Content-Type: {NODE_CONFIG}\n\n{yaml.safe_dump(document)}\n--//--\n"
        )
        version = self._ec2.describe_launch_template_versions(
            LaunchTemplateId=group["launchTemplate"]["id"], Versions=[group["launchTemplate"]["version"]]
        )["LaunchTemplateVersions"][0]
        image = self._ec2.register_image(Name=f"node-group-{os.urandom(4).hex()}", RootDeviceName="/dev/xvda")
        tags = {NODE_GROUP_TAG: name, "eks:cluster-name": cluster, "Name": version["LaunchTemplateName"]}
        self._ec2.run_instances(
            ImageId=image["ImageId"],
            InstanceType=group["instanceTypes"][0],
            MinCount=1,
            MaxCount=1,
            SubnetId=group["subnets"][0],
            UserData=user_data,
            TagSpecifications=[
                {
                    "ResourceType": "instance",
                    "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
                }
            ],
        )
        log(f"node group {name} of {cluster}: one node")

    def _server(self) -> str:
        return str(yaml.safe_load(self.kubeconfig.read_text())["clusters"][0]["cluster"]["server"])

    # -- daemons and Services -----------------------------------------------------------------------------------------

    def _emulate_daemons(self) -> None:
        for node in self._api.list("Node"):
            taints = node["spec"].get("taints", [])
            if any(taint["key"] == CSI_TAINT for taint in taints) and is_true(node, "Ready"):
                name = node["metadata"]["name"]
                self._register_driver(node)
                kept = [taint for taint in taints if taint["key"] != CSI_TAINT]
                with contextlib.suppress(NotFoundError):
                    # resourceVersion: Karpenter and the node controller write the same list.
                    version = node["metadata"]["resourceVersion"]
                    body = {"metadata": {"resourceVersion": version}, "spec": {"taints": kept or None}}
                    self._api.patch("Node", None, name, body)
                    log(f"S3 CSI driver: ready on {name}, removed its startup taint")

    def _register_driver(self, node: Object) -> None:
        metadata = node["metadata"]
        owner = {"apiVersion": "v1", "kind": "Node", "name": metadata["name"], "uid": metadata["uid"]}
        self._api.apply(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "CSINode",
                "metadata": {"name": metadata["name"], "ownerReferences": [owner]},
                "spec": {"drivers": [{"name": CSI_DRIVER, "nodeID": metadata["name"], "topologyKeys": []}]},
            }
        )

    def _follow_services(self) -> None:
        ports = self._pod_ports()
        targets: dict[str, list[Address]] = {
            f"{service['metadata']['namespace']}/{service['metadata']['name']}": []
            for service in self._api.list("Service")
            if service["spec"].get("selector")
        }
        for piece in self._api.list("EndpointSlice"):
            metadata = piece["metadata"]
            name = f"{metadata['namespace']}/{metadata.get('labels', {}).get('kubernetes.io/service-name')}"
            for endpoint in piece.get("endpoints") or []:
                if name not in targets or not endpoint.get("conditions", {}).get("ready"):
                    continue
                pod = endpoint.get("targetRef", {}).get("name")
                local = ports.get(f"{metadata['namespace']}_{pod}", {})
                targets[name] += [(HOST, local[str(p["port"])]) for p in piece["ports"] if str(p["port"]) in local]
        self._proxy.update(targets)
        text = json.dumps({name: f"http://{HOST}:{self._proxy.ports[name]}" for name in sorted(targets)}, indent=2)
        path = self.home / "services.json"
        if not path.exists() or path.read_text() != text:
            write_atomically(path, text)

    def _pod_ports(self) -> dict[str, dict[str, int]]:
        """Container port → local port, by "<namespace>_<pod>"."""
        found = {}
        for file in self.nodes.glob("*/pods/*/ports.json"):
            with contextlib.suppress(FileNotFoundError):
                found[file.parent.name] = json.loads(file.read_text())["ports"]
        return found


def main() -> None:
    home = Path(sys.argv[1])
    Machines(home, json.loads((home / "machines.json").read_text()), os.environ).run()


if __name__ == "__main__":
    main()
