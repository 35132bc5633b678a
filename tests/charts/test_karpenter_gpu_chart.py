"""What the karpenter-gpu chart renders from its values."""

from __future__ import annotations

from typing import Any

import pytest

from tests.charts.harness import node_pools, scenario_of


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
        ("minimal", [("EC2NodeClass", "karpenter-gpu-default"), ("NodePool", "karpenter-gpu-default")]),
        (
            "changed-defaults",
            [
                ("EC2NodeClass", "karpenter-gpu-default"),
                ("EC2NodeClass", "karpenter-gpu-fast"),
                ("NodePool", "karpenter-gpu-default"),
                ("NodePool", "karpenter-gpu-types"),
            ],
        ),
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


def test_a_pool_has_only_the_types_that_it_names() -> None:
    spec = pool({"pools": {"default": {"instanceTypes": ["g5.xlarge", "g6.xlarge"]}}})
    assert requirement(spec, "node.kubernetes.io/instance-type") == ["g5.xlarge", "g6.xlarge"]
    assert requirement(spec, "kubernetes.io/arch") == ["amd64"]
    assert requirement(spec, "kubernetes.io/os") == ["linux"]


def test_a_pool_of_families_has_every_size_with_that_many_gpus_and_names_no_type() -> None:
    spec = pool({"pools": {"default": {"instanceFamilies": ["g6", "g6e"], "instanceGpus": 4}}})
    assert requirement(spec, "karpenter.k8s.aws/instance-family") == ["g6", "g6e"]
    assert requirement(spec, "karpenter.k8s.aws/instance-gpu-count") == ["4"]
    assert "node.kubernetes.io/instance-type" not in str(spec)
    assert "instance-family" not in str(pool())


def test_each_pool_may_have_its_own_node_class() -> None:
    rendered = scenario_of("karpenter-gpu", "everything")
    named = {item["metadata"]["name"]: item for item in rendered.of_kind("EC2NodeClass")}
    for item in rendered.of_kind("NodePool"):
        assert item["spec"]["template"]["spec"]["nodeClassRef"]["name"] in named
    assert named["karpenter-gpu-large-root"]["spec"]["userData"] != named["karpenter-gpu-default"]["spec"]["userData"]
    assert "a part of the user's own" in named["karpenter-gpu-large-root"]["spec"]["userData"]


def test_spot_and_on_demand_are_both_allowed_by_default() -> None:
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


def test_the_users_taints_and_labels_are_added_to_the_charts() -> None:
    taint = {"key": "team", "value": "film", "effect": "NoSchedule"}
    spec = pool({"pools": {"default": {"taints": [taint], "labels": {"team": "film"}}}})
    assert spec["template"]["spec"]["taints"][1:] == [taint]
    assert spec["template"]["metadata"]["labels"] == {
        "nvidia.com/gpu.present": "true",
        "comfyui-on-eks/pool": "default",
        "team": "film",
    }


def test_a_node_is_removed_only_when_empty_and_never_drains_for_ever() -> None:
    spec = pool()
    assert spec["disruption"] == {
        "consolidationPolicy": "WhenEmpty",
        "consolidateAfter": "10m",
        "budgets": [{"nodes": "1"}],
    }
    assert spec["template"]["spec"]["expireAfter"] == "720h"
    assert spec["template"]["spec"]["terminationGracePeriod"] == "1h"


def test_a_pool_has_a_weight_only_when_given() -> None:
    assert "weight" not in pool()
    assert pool({"pools": {"default": {"weight": 10}}})["weight"] == 10


def test_a_pool_needs_only_what_differs_from_the_defaults() -> None:
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


def test_a_node_has_the_tag_of_the_sync_command_and_the_users_tags() -> None:
    spec = node_class({"cluster": {"name": "comfyui-film"}, "tags": {"team": "film"}})
    assert spec["tags"] == {"ComfyUIModelSync": "comfyui-film", "team": "film"}


def test_subnets_and_security_group_are_found_by_the_clusters_tag() -> None:
    spec = node_class({"cluster": {"name": "comfyui-film"}})
    by_tag = [{"tags": {"karpenter.sh/discovery": "comfyui-film"}}]
    assert spec["subnetSelectorTerms"] == spec["securityGroupSelectorTerms"] == by_tag


def test_subnets_that_are_not_ours_to_tag_are_named() -> None:
    spec = node_class({"cluster": {"subnetIds": ["subnet-01", "subnet-02"]}})
    assert spec["subnetSelectorTerms"] == [{"id": "subnet-01"}, {"id": "subnet-02"}]
    assert spec["securityGroupSelectorTerms"] == [{"tags": {"karpenter.sh/discovery": "comfyui"}}]


def test_nodes_have_a_role_or_a_profile_that_exists_and_never_both() -> None:
    assert "instanceProfile" not in node_class()
    spec = node_class({"nodeInstanceProfile": "profile", "nodeRole": ""})
    assert spec["instanceProfile"] == "profile"
    assert "role" not in spec


def test_pods_cannot_reach_the_instances_credentials() -> None:
    options = node_class()["metadataOptions"]
    assert (options["httpTokens"], options["httpPutResponseHopLimit"]) == ("required", 1)


def test_the_root_volume_is_encrypted_and_deleted_with_the_node() -> None:
    [mapping] = node_class({"nodeClassDefaults": {"rootVolumeSize": "80Gi"}})["blockDeviceMappings"]
    assert mapping["ebs"] == {
        "volumeSize": "80Gi",
        "volumeType": "gp3",
        "encrypted": True,
        "deleteOnTermination": True,
    }


def test_the_instances_disks_become_one_array_because_models_have_no_other_place() -> None:
    for item in scenario_of("karpenter-gpu", "everything").of_kind("EC2NodeClass"):
        assert item["spec"]["instanceStorePolicy"] == "RAID0"


def test_the_role_is_the_one_that_terraform_created() -> None:
    assert node_class({"nodeRole": "film-node"})["role"] == "film-node"
