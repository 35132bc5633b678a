"""The configuration of kubelet in an instance's user data: the NodeConfig documents, merged as nodeadm merges them.

The parts of the chart and of Karpenter are one MIME text; nodeadm merges the documents in order: a later value replaces
an earlier one, and lists are concatenated. Only the settings that decide how a node looks to Kubernetes are read.
"""

from __future__ import annotations

import email
import email.policy
import re
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

import yaml

from comfyeks.errors import OperationError

NODE_CONFIG = "application/node.eks.aws"
API_VERSION = "node.eks.aws/v1alpha1"
_LABELS_FLAG = re.compile(r"--node-labels=\"?([^\"]*)\"?")


@dataclass(frozen=True)
class NodeConfig:
    """Cluster to join, and the node's labels, taints, number of pods and disk policy."""

    cluster: str
    endpoint: str
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[dict[str, str]] = field(default_factory=list)
    max_pods: int = 110
    raid0: bool = False


def documents(user_data: str) -> list[dict[str, Any]]:
    """The NodeConfig documents of MIME user data, in order.

    Raises OperationError for a text that nodeadm would not read: not MIME multipart, or a part that is not a
    NodeConfig.
    """
    message = email.message_from_string(user_data, policy=email.policy.default)
    if not message.is_multipart():
        raise OperationError("the user data is not MIME multipart: nodeadm finds no NodeConfig in it")
    found = []
    for part in message.walk():
        if part.get_content_type() != NODE_CONFIG or not isinstance(part, EmailMessage):
            continue
        try:
            document = yaml.safe_load(str(part.get_payload()))
        except yaml.YAMLError as error:
            raise OperationError(f"a NodeConfig part of the user data is not YAML: {error}") from error
        if not isinstance(document, dict) or (document.get("apiVersion"), document.get("kind")) != (
            API_VERSION,
            "NodeConfig",
        ):
            raise OperationError(
                f"a part of type {NODE_CONFIG} is not a NodeConfig of {API_VERSION}: {str(document)[:100]}"
            )
        found.append(document)
    return found


def read(user_data: str) -> NodeConfig | None:
    """The merged NodeConfig; None if no document names a cluster to join. Raises OperationError as `documents` does."""
    cluster: dict[str, Any] = {}
    labels: dict[str, str] = {}
    taints: list[dict[str, str]] = []
    max_pods, raid0 = 110, False
    for document in documents(user_data):
        spec = document.get("spec") or {}
        cluster |= spec.get("cluster") or {}
        kubelet = spec.get("kubelet") or {}
        config = kubelet.get("config") or {}
        taints += config.get("registerWithTaints") or []
        max_pods = int(config.get("maxPods", max_pods))
        for flag in kubelet.get("flags") or []:
            if match := _LABELS_FLAG.fullmatch(flag):
                labels |= dict(pair.split("=", 1) for pair in match[1].split(",") if pair)
        strategy = ((spec.get("instance") or {}).get("localStorage") or {}).get("strategy")
        raid0 = raid0 or strategy == "RAID0"
    if not cluster.get("name") or not cluster.get("apiServerEndpoint"):
        return None
    return NodeConfig(str(cluster["name"]), str(cluster["apiServerEndpoint"]), labels, taints, max_pods, raid0)
