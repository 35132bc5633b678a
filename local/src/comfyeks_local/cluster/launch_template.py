"""Compares what Karpenter requested from EC2 with what the charts require."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from comfyeks_local.node import node_config
from comfyeks_local.node.local_node import USER_DATA_LIMIT, shell_parts

Data = Mapping[str, Any]

# Pods and the device plugin find the node by these labels, and people read the instance type from them.
LABELS = ("nvidia.com/gpu.present", "comfyui-on-eks/pool", "karpenter.sh/nodepool", "karpenter.sh/capacity-type")


def of_instance(ec2: Any, instance_id: str) -> dict[str, Any]:
    """The launch template data of an instance. Karpenter deletes a template some minutes after its last use."""
    [reservation] = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    tags = {tag["Key"]: tag["Value"] for tag in reservation["Instances"][0]["Tags"]}
    found = ec2.describe_launch_template_versions(
        LaunchTemplateId=tags["aws:ec2launchtemplate:id"], Versions=[tags["aws:ec2launchtemplate:version"]]
    )
    data: dict[str, Any] = found["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    return data


def user_data(data: Data) -> str:
    return base64.b64decode(data["UserData"]).decode()


def problems(
    data: Data, tags: Mapping[str, str], image_name: str, node_class: Data, taints: list[dict[str, str]], release: str
) -> list[str]:
    """One line for each requirement of the charts that a launch template does not meet.

    Args:
        tags: those of the instance; Karpenter gives them to the fleet, not to the template.
        image_name: name of the template's image in EC2.
        node_class: `spec` of the EC2NodeClass as installed.
        taints: those that the NodePool gives its nodes, including startup taints.
        release: date of the pinned AMI release.
    """
    found = []
    if "-nvidia-" not in image_name or not image_name.endswith(f"-v{release}"):
        found.append(f"image {image_name} is not the NVIDIA variant of release {release}")
    disks = [disk["Ebs"] for disk in data.get("BlockDeviceMappings", [])]
    if not disks or not all(disk.get("Encrypted") for disk in disks):
        found.append(f"a disk is not encrypted: {disks}")
    metadata = data.get("MetadataOptions", {})
    if (metadata.get("HttpTokens"), metadata.get("HttpPutResponseHopLimit")) != ("required", 1):
        found.append(f"instance metadata is not IMDSv2 with one hop: {metadata}")
    if missing := {key: value for key, value in node_class["tags"].items() if tags.get(key) != value}:
        found.append(f"the instance lacks the tags {missing}")
    text = user_data(data)
    if len(text.encode()) > USER_DATA_LIMIT:
        found.append(f"the user data has {len(text.encode())} bytes, EC2 takes at most {USER_DATA_LIMIT}")
    ours = [part.strip() for part in shell_parts(node_class["userData"])]
    theirs = [part.strip() for part in shell_parts(text)]
    if ours != theirs:
        found.append("the scripts of the user data are not those of the chart")
    config = node_config.read(text)
    if config is None:
        return [*found, "no NodeConfig names a cluster"]
    if node_class.get("instanceStorePolicy") == "RAID0" and not config.raid0:
        found.append("the instance's local disks do not form a RAID0 array")
    keys = {(taint["key"], taint["effect"]) for taint in config.taints}
    if missing_taints := {(taint["key"], taint["effect"]) for taint in taints} - keys:
        found.append(f"taints are missing: {sorted(missing_taints)}")
    for label in LABELS:
        if label not in config.labels:
            found.append(f"the label {label} is missing")
    return found
