"""What the node pools' chart makes of its values."""

from __future__ import annotations

from typing import Any

import pytest

from tests.charts.harness import node_pools, refused, scenario_of


def pool(values: dict[str, Any] | None = None, name: str = "default") -> dict[str, Any]:
    return dict(node_pools(values).get("NodePool", f"karpenter-gpu-{name}")["spec"])


def requirement(spec: dict[str, Any], key: str) -> list[str]:
    [found] = [item for item in spec["template"]["spec"]["requirements"] if item["key"] == key]
    assert found["operator"] == "In"
    return list(found["values"])


def node_class(values: dict[str, Any] | None = None, name: str = "default") -> dict[str, Any]:
    return dict(node_pools(values).get("EC2NodeClass", f"karpenter-gpu-{name}")["spec"])


@pytest.mark.parametrize(
    ("scenario", "objects"),
    [
        ("default", [("EC2NodeClass", "karpenter-gpu-default"), ("NodePool", "karpenter-gpu-default")]),
        (
            "everything",
            [
                ("EC2NodeClass", "karpenter-gpu-default"),
                ("EC2NodeClass", "karpenter-gpu-large-root"),
                ("NodePool", "karpenter-gpu-default"),
                ("NodePool", "karpenter-gpu-four"),
                ("NodePool", "karpenter-gpu-video"),
            ],
        ),
    ],
)
def test_the_objects_are_exactly_these(scenario: str, objects: list[tuple[str, str]]) -> None:
    assert scenario_of("karpenter-gpu", scenario).inventory == objects


# -- Pools -----------------------------------------------------------------------------------------------------------


def test_a_pool_takes_only_the_types_that_it_names() -> None:
    spec = pool({"pools": {"default": {"instanceTypes": ["g5.xlarge", "g6.xlarge"]}}})
    assert requirement(spec, "node.kubernetes.io/instance-type") == ["g5.xlarge", "g6.xlarge"]
    assert requirement(spec, "kubernetes.io/arch") == ["amd64"]
    assert requirement(spec, "kubernetes.io/os") == ["linux"]


def test_a_pool_of_families_takes_every_size_with_that_many_gpus_and_names_no_type() -> None:
    spec = pool({"pools": {"default": {"instanceFamilies": ["g6", "g6e"], "instanceGpus": 4}}})
    assert requirement(spec, "karpenter.k8s.aws/instance-family") == ["g6", "g6e"]
    assert requirement(spec, "karpenter.k8s.aws/instance-gpu-count") == ["4"]
    assert "node.kubernetes.io/instance-type" not in str(spec)
    assert "instance-family" not in str(pool())


@pytest.mark.parametrize(
    ("family", "why"), [("g6f", "a fraction"), ("gr6f", "a fraction"), ("g7", "595"), ("g5g", "arm64"), ("g4ad", "AMD")]
)
def test_a_family_that_cannot_work_is_refused_with_the_reason(family: str, why: str) -> None:
    with refused(f"pools.default.instanceFamilies holds {family},", why):
        pool({"pools": {"default": {"instanceFamilies": [family]}}})
    pool({"pools": {"default": {"instanceFamilies": ["g7e"]}}})


def test_types_and_families_together_are_refused() -> None:
    both = {"instanceTypes": ["g5.xlarge"], "instanceFamilies": ["g6"]}
    with refused("pools.default has instanceTypes and instanceFamilies", "Leave one of them out."):
        pool({"pools": {"default": both}})
    pool({"poolDefaults": {"instanceTypes": ["g5.xlarge"]}, "pools": {"default": {"instanceFamilies": ["g6"]}}})


def test_each_pool_may_have_a_way_of_its_own_to_make_nodes() -> None:
    rendered = scenario_of("karpenter-gpu", "everything")
    named = {item["metadata"]["name"]: item for item in rendered.of_kind("EC2NodeClass")}
    for item in rendered.of_kind("NodePool"):
        assert item["spec"]["template"]["spec"]["nodeClassRef"]["name"] in named
    assert named["karpenter-gpu-large-root"]["spec"]["userData"] != named["karpenter-gpu-default"]["spec"]["userData"]
    assert "a part of the user's own" in named["karpenter-gpu-large-root"]["spec"]["userData"]


def test_spot_and_on_demand_are_both_there_by_default() -> None:
    assert requirement(pool(), "karpenter.sh/capacity-type") == ["spot", "on-demand"]
    only = pool({"pools": {"default": {"capacityTypes": ["on-demand"]}}})
    assert requirement(only, "karpenter.sh/capacity-type") == ["on-demand"]


def test_zones_are_required_only_when_named() -> None:
    keys = [item["key"] for item in pool()["template"]["spec"]["requirements"]]
    assert "topology.kubernetes.io/zone" not in keys
    zoned = pool({"pools": {"default": {"zones": ["us-west-2a"]}}})
    assert requirement(zoned, "topology.kubernetes.io/zone") == ["us-west-2a"]


def test_the_cost_of_every_pool_is_bounded() -> None:
    for item in scenario_of("karpenter-gpu", "everything").of_kind("NodePool"):
        assert item["spec"]["limits"]["nvidia.com/gpu"] > 0


def test_nodes_are_tainted_until_they_can_mount_and_for_gpu_pods_only() -> None:
    template = pool()["template"]["spec"]
    assert template["taints"] == [{"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"}]
    assert template["startupTaints"] == [{"key": "s3.csi.aws.com/agent-not-ready", "effect": "NoExecute"}]


def test_no_startup_taint_when_there_is_none() -> None:
    assert "startupTaints" not in pool({"startupTaints": []})["template"]["spec"]


def test_own_taints_and_labels_come_beside_the_charts() -> None:
    taint = {"key": "team", "value": "film", "effect": "NoSchedule"}
    spec = pool({"pools": {"default": {"taints": [taint], "labels": {"team": "film"}}}})
    assert spec["template"]["spec"]["taints"][1:] == [taint]
    assert spec["template"]["metadata"]["labels"] == {
        "nvidia.com/gpu.present": "true",
        "comfyui-on-eks/pool": "default",
        "team": "film",
    }


def test_a_node_goes_only_when_it_is_empty_and_never_waits_for_ever() -> None:
    spec = pool()
    assert spec["disruption"] == {
        "consolidationPolicy": "WhenEmpty",
        "consolidateAfter": "10m",
        "budgets": [{"nodes": "1"}],
    }
    assert spec["template"]["spec"]["expireAfter"] == "720h"
    assert spec["template"]["spec"]["terminationGracePeriod"] == "1h"


def test_a_weight_is_there_only_when_given() -> None:
    assert "weight" not in pool()
    assert pool({"pools": {"default": {"weight": 10}}})["weight"] == 10


def test_a_pool_says_only_what_differs_from_the_defaults() -> None:
    values = {"poolDefaults": {"maxGpus": 9, "expireAfter": "24h"}, "pools": {"video": {"maxGpus": 2}}}
    assert pool(values)["limits"] == {"nvidia.com/gpu": 9}
    video = pool(values, "video")
    assert video["limits"] == {"nvidia.com/gpu": 2}
    assert video["template"]["spec"]["expireAfter"] == "24h"
    assert video["template"]["metadata"]["labels"]["comfyui-on-eks/pool"] == "video"


def test_null_removes_a_pool_of_the_charts_own() -> None:
    rendered = node_pools({"pools": {"default": None, "video": {}}})
    assert [name for kind, name in rendered.inventory if kind == "NodePool"] == ["karpenter-gpu-video"]


def test_a_pool_uses_the_node_class_that_it_names() -> None:
    values = {"nodeClasses": {"big": {}}, "pools": {"default": {"nodeClass": "big"}}}
    reference = pool(values)["template"]["spec"]["nodeClassRef"]
    assert reference == {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "karpenter-gpu-big"}
    assert node_class(values, "big")


# -- Node classes ----------------------------------------------------------------------------------------------------


def test_a_node_is_found_by_the_sync_command_and_carries_own_tags() -> None:
    spec = node_class({"cluster": {"name": "comfyui-film"}, "tags": {"team": "film"}})
    assert spec["tags"] == {"ComfyUIModelSync": "comfyui-film", "team": "film"}


def test_subnets_and_security_group_are_found_by_the_clusters_tag() -> None:
    spec = node_class({"cluster": {"name": "comfyui-film"}})
    by_tag = [{"tags": {"karpenter.sh/discovery": "comfyui-film"}}]
    assert spec["subnetSelectorTerms"] == spec["securityGroupSelectorTerms"] == by_tag


def test_pods_cannot_reach_the_instances_credentials() -> None:
    options = node_class()["metadataOptions"]
    assert (options["httpTokens"], options["httpPutResponseHopLimit"]) == ("required", 1)


def test_the_root_volume_is_encrypted_and_goes_with_the_node() -> None:
    [mapping] = node_class({"nodeClassDefaults": {"rootVolumeSize": "80Gi"}})["blockDeviceMappings"]
    assert mapping["ebs"] == {
        "volumeSize": "80Gi",
        "volumeType": "gp3",
        "encrypted": True,
        "deleteOnTermination": True,
    }


def test_the_instances_disks_become_one_array_unless_told_otherwise() -> None:
    assert node_class()["instanceStorePolicy"] == "RAID0"
    assert "instanceStorePolicy" not in node_class({"nodeClasses": {"x": {"instanceStorePolicy": None}}}, "x")


def test_the_role_is_the_one_that_terraform_made() -> None:
    assert node_class({"nodeRole": "film-node"})["role"] == "film-node"


# -- Refusals, each with the nearest legal value -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("cluster.name", {"cluster": {"name": ""}}),
        ("nodeRole", {"nodeRole": ""}),
        ("modelSync.bucket", {"modelSync": {"bucket": ""}}),
        ("modelSync.files.path.sha256", {"modelSync": {"files": {"path": {"sha256": ""}}}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_terraform_knows_must_be_there(path: str, values: dict[str, Any]) -> None:
    with refused(f"karpenter-gpu: not set: {path}.", "-f .comfyeks/<name>/karpenter-gpu.values.yaml"):
        node_pools(values)


@pytest.mark.parametrize(
    ("refused_type", "reason", "legal"),
    [
        ("g6f.xlarge", "EC2 reports 0 GPUs", "g6.xlarge"),
        ("gr6f.4xlarge", "EC2 reports 0 GPUs", "gr6.4xlarge"),
        ("g7.2xlarge", "needs NVIDIA driver 595", "g7e.2xlarge"),
        ("g5g.xlarge", "arm64", "g5.xlarge"),
        ("g4ad.xlarge", "an AMD GPU", "g4dn.xlarge"),
    ],
)
def test_a_type_that_cannot_work_is_refused_with_the_reason(refused_type: str, reason: str, legal: str) -> None:
    with refused(f"pools.default.instanceTypes holds {refused_type}", reason):
        node_pools({"pools": {"default": {"instanceTypes": [refused_type]}}})
    assert requirement(
        pool({"pools": {"default": {"instanceTypes": [legal]}}}), "node.kubernetes.io/instance-type"
    ) == [legal]


def test_a_type_that_cannot_work_is_found_in_the_defaults_too() -> None:
    with refused("pools.default.instanceTypes holds g6f.xlarge"):
        node_pools({"poolDefaults": {"instanceTypes": ["g6f.xlarge"]}})


def test_no_pool_at_all_is_refused() -> None:
    with refused("pools is empty"):
        node_pools({"pools": {"default": None}})


def test_an_unknown_node_class_is_refused_with_the_known_ones() -> None:
    with refused("pools.default.nodeClass=big is no key of nodeClasses (default)"):
        node_pools({"pools": {"default": {"nodeClass": "big"}}})


@pytest.mark.parametrize(
    "key", ["ComfyUIModelSync", "karpenter.sh/nodepool", "kubernetes.io/cluster/x", "eks:eks-cluster-name"]
)
def test_a_tag_that_is_set_already_is_refused(key: str) -> None:
    with refused(f"tags holds {key}"):
        node_pools({"tags": {key: "x"}})
    assert node_pools({"tags": {"example.com/kubernetes": "x"}})


@pytest.mark.parametrize("key", ["nvidia.com/gpu.present", "comfyui-on-eks/pool"])
def test_a_label_that_the_chart_sets_is_refused(key: str) -> None:
    with refused(f"pools.default.labels holds {key}"):
        node_pools({"pools": {"default": {"labels": {key: "x"}}}})


def test_a_name_too_long_for_a_label_is_refused() -> None:
    with refused("64 characters", "takes 63"):
        node_pools({"pools": {"p" * 32: {}}}, release="r" * 31)
    node_pools({"pools": {"p" * 32: {}}}, release="r" * 30)


@pytest.mark.parametrize(
    ("values", "at"),
    [
        ({"pools": {"default": {"instanceType": []}}}, "at '/pools/default': additional properties 'instanceType'"),
        ({"pools": {"default": {"instanceTypes": []}}}, "at '/pools/default/instanceTypes': minItems: got 0, want 1"),
        ({"pools": {"default": {"instanceTypes": ["m5.large"]}}}, "at '/pools/default/instanceTypes/0'"),
        ({"pools": {"default": {"capacityTypes": ["cheap"]}}}, "value must be one of 'spot', 'on-demand'"),
        ({"pools": {"default": {"maxGpus": 0}}}, "at '/pools/default/maxGpus': minimum: got 0, want 1"),
        ({"pools": {"Default": {}}}, "invalid propertyName 'Default'"),
        ({"nodeClassDefaults": {"amiAlias": "al2023@latest"}}, "at '/nodeClassDefaults/amiAlias'"),
        ({"modelSync": {"files": {"program": {"sha256": "abc"}}}}, "at '/modelSync/files/program/sha256'"),
        ({"modelSync": {"region": "us west"}}, "at '/modelSync/region'"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_a_wrong_value_is_refused_with_its_place(values: dict[str, Any], at: str) -> None:
    with refused(at):
        node_pools(values)
