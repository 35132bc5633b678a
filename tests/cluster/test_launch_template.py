"""Each unmet requirement of a launch template is named. The demo checks the template that Karpenter created."""

from __future__ import annotations

import base64
import copy
import email
import email.policy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from comfyeks.charts import CHARTS_ROOT
from comfyeks.charts.render import render
from comfyeks_local.cluster import launch_template
from comfyeks_local.node.node_config import API_VERSION, NODE_CONFIG

RELEASE = "20260714"
SCENARIO = CHARTS_ROOT / "karpenter-gpu/ci/minimal-values.yaml"


def karpenters(spec: dict[str, Any], taints: list[dict[str, str]]) -> dict[str, Any]:
    """The NodeConfig that Karpenter appends to the user data of a node class."""
    labels = ",".join(f"{label}=x" for label in launch_template.LABELS)
    kubelet = {"config": {"registerWithTaints": taints}, "flags": [f'--node-labels="{labels}"']}
    cluster = {"name": "comfyui", "apiServerEndpoint": "https://127.0.0.1:1"}
    storage = {"localStorage": {"strategy": spec["instanceStorePolicy"]}}
    return {
        "apiVersion": API_VERSION,
        "kind": "NodeConfig",
        "spec": {"cluster": cluster, "kubelet": kubelet, "instance": storage},
    }


def user_data(spec: dict[str, Any], config: dict[str, Any]) -> str:
    message = email.message_from_string(spec["userData"], policy=email.policy.default)
    ours = [(part.get_content_type(), str(part.get_payload())) for part in message.walk() if not part.is_multipart()]
    parts = [*ours, (NODE_CONFIG, yaml.safe_dump(config))]
    text = "".join(f"--//\nContent-Type: {kind}\n\n{content}\n" for kind, content in parts)
    return f'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="//"\n\n{text}--//--\n'


class Template:
    """A launch template that meets every requirement; a test changes one thing."""

    def __init__(self) -> None:
        rendered = render("karpenter-gpu", files=[SCENARIO])
        [node_class], [pool] = rendered.of_kind("EC2NodeClass"), rendered.of_kind("NodePool")
        self.spec: dict[str, Any] = copy.deepcopy(node_class["spec"])
        template = pool["spec"]["template"]["spec"]
        self.taints = [*template["taints"], *template["startupTaints"]]
        self.tags = dict(self.spec["tags"])
        self.image = f"amazon-eks-node-al2023-x86_64-nvidia-1.36-v{RELEASE}"
        self.config = karpenters(self.spec, list(self.taints))
        self.text = ""
        self.data: dict[str, Any] = {
            "BlockDeviceMappings": [{"Ebs": {"Encrypted": True}}],
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        }

    def problems(self) -> list[str]:
        text = self.text or user_data(self.spec, self.config)
        data = {**self.data, "UserData": base64.b64encode(text.encode()).decode()}
        return launch_template.problems(data, self.tags, self.image, self.spec, self.taints, RELEASE)


def test_a_template_that_meets_every_requirement_has_no_problem() -> None:
    assert Template().problems() == []


def kubelet(template: Template) -> dict[str, Any]:
    found: dict[str, Any] = template.config["spec"]["kubelet"]
    return found


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: setattr(t, "image", t.image.replace("-nvidia", "-standard")), "is not the NVIDIA variant"),
        (lambda t: setattr(t, "image", t.image.replace(RELEASE, "20250101")), "is not the NVIDIA variant of release"),
        (lambda t: t.data["BlockDeviceMappings"][0]["Ebs"].update(Encrypted=False), "a disk is not encrypted"),
        (lambda t: t.data["MetadataOptions"].update(HttpPutResponseHopLimit=2), "not IMDSv2 with one hop"),
        (lambda t: t.data["MetadataOptions"].update(HttpTokens="optional"), "not IMDSv2 with one hop"),
        (lambda t: t.tags.clear(), "the instance lacks the tags"),
        (lambda t: kubelet(t).update(padding="x" * 16_384), "EC2 takes at most 16384"),
        (
            lambda t: setattr(t, "text", user_data({**t.spec, "userData": ""}, t.config)),
            "the scripts of the user data are not those of the chart",
        ),
        (lambda t: t.config["spec"].pop("cluster"), "no NodeConfig names a cluster"),
        (lambda t: t.config["spec"].pop("instance"), "do not form a RAID0 array"),
        (lambda t: kubelet(t)["config"]["registerWithTaints"].clear(), "taints are missing"),
        (lambda t: kubelet(t).update(flags=[]), "the label comfyui-on-eks/pool is missing"),
    ],
)
def test_an_unmet_requirement_is_named(change: Callable[[Template], object], problem: str) -> None:
    template = Template()
    change(template)
    assert problem in "; ".join(template.problems())
