"""What each instance type offers a pod, compared with Karpenter's own arithmetic and EC2's own facts."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import moto
import pytest
import yaml

from comfyeks.charts import CHARTS_ROOT
from comfyeks.charts.crds import karpenter_crds
from comfyeks.charts.instance_types import InstanceType, read_table
from tests.charts.harness import INSTANCE_TYPES, SCENARIOS, Pod, comfyui, need_tool, node_pools, node_program, render

TYPES = read_table()
SYNC = node_program()
each_type = pytest.mark.parametrize("kind", TYPES.values(), ids=lambda kind: kind.name)


def mebibytes(quantity: str) -> int:
    units = {"Mi": 1, "Gi": 1024}
    return int(quantity[:-2]) * units[quantity[-2:]]


def millicpu(quantity: str) -> int:
    return int(quantity.removesuffix("m")) if quantity.endswith("m") else int(quantity) * 1000


def workload(name: str) -> Pod:
    return Pod(render("comfyui", files=[SCENARIOS["comfyui", "minimal"], INSTANCE_TYPES["comfyui", name]]))


def test_every_single_gpu_type_of_the_four_families_is_there_and_no_other() -> None:
    sizes = ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge")
    assert set(TYPES) == {f"{family}.{size}" for family in ("g4dn", "g5", "g6", "g6e") for size in sizes}
    for chart in ("comfyui", "karpenter-gpu"):
        assert {name for c, name in INSTANCE_TYPES if c == chart} == set(TYPES)


@each_type
def test_the_table_agrees_with_ec2(kind: InstanceType) -> None:
    dump = Path(moto.__file__).parent / "ec2" / "resources" / "instance_types.json.gz"
    facts: dict[str, Any] = json.loads(gzip.decompress(dump.read_bytes()))[kind.name]
    [gpu] = facts["GpuInfo"]["Gpus"]
    network = facts["NetworkInfo"]
    assert gpu["Count"] == 1
    assert gpu["Name"].lower() == kind.gpu_name
    assert gpu["MemoryInfo"]["SizeInMiB"] == kind.gpu_memory_mib
    assert facts["VCpuInfo"]["DefaultVCpus"] == kind.vcpu
    assert facts["MemoryInfo"]["SizeInMiB"] == kind.memory_mib
    assert facts["InstanceStorageInfo"]["TotalSizeInGB"] == kind.nvme_total_gb
    interfaces, addresses = network["MaximumNetworkInterfaces"], network["Ipv4AddressesPerInterface"]
    assert interfaces * (addresses - 1) + 2 == kind.max_pods


@each_type
def test_the_number_of_pods_is_that_of_karpenter(kind: InstanceType) -> None:
    need_tool("go")
    limits = (karpenter_crds().parents[1] / "providers" / "instancetype" / "zz_generated.vpclimits.go").read_text()
    block = limits.split(f'"{kind.name}": {{', 1)[1]
    [interfaces, addresses] = [
        int(re.search(rf"{field}:\s+(\d+)", block)[1])  # type: ignore[index]
        for field in ("Interface", "IPv4PerInterface")
    ]
    assert interfaces * (addresses - 1) + 2 == kind.max_pods


def test_the_arithmetic_of_one_type_by_hand() -> None:
    kind = TYPES["g5.2xlarge"]
    assert kind.allocatable_millicpu == 8000 - 60 - 10 - 10 - 10
    assert kind.allocatable_mib == 32768 - 2458 - (255 + 58 * 11) - 100 == 29317
    assert kind.pod_millicpu == 7250  # 7910 - 400 - 100, rounded down to 250
    assert kind.pod_mib == 27136  # 29317 - 512 - 1024 - 512, rounded down to 256


@each_type
def test_the_whole_pod_fits_beside_the_daemons_and_mountpoint(kind: InstanceType) -> None:
    """As the scheduler counts: the larger of the init container and the sum of what runs."""
    files = [SCENARIOS["comfyui", "minimal"], INSTANCE_TYPES["comfyui", kind.name]]
    pod = Pod(render("comfyui", {"monitoring": {"enabled": True}}, files))
    running = [pod.container("exporter"), pod.container("uploader"), pod.comfyui]
    cpu = sum(millicpu(container["resources"]["requests"]["cpu"]) for container in running)
    memory = sum(mebibytes(container["resources"]["requests"]["memory"]) for container in running)
    assert cpu <= kind.allocatable_millicpu - 400
    assert memory <= kind.allocatable_mib - 512 - 1024
    # Their limits and Mountpoint together must stay below kubelet's eviction threshold.
    limits = sum(mebibytes(container["resources"]["limits"]["memory"]) for container in running)
    assert limits <= kind.allocatable_mib - 1024


@each_type
def test_a_second_pod_does_not_fit_beside_the_first(kind: InstanceType) -> None:
    assert 2 * kind.pod_mib > kind.allocatable_mib


@each_type
def test_most_of_the_disk_is_left_for_models_and_images(kind: InstanceType) -> None:
    pod = workload(kind.name)
    requested = mebibytes(pod.comfyui["resources"]["requests"]["ephemeral-storage"])
    assert requested / 1024 <= kind.disk_gib * 0.1
    assert int(pod.env("uploader")["KEEP_LOCAL_GIB"]) <= requested / 1024 / 2


@each_type
def test_the_models_of_a_type_leave_kubelet_its_reserve_and_the_pod_its_share(kind: InstanceType) -> None:
    """By the node program's own arithmetic, with the settings that its user data writes."""
    files = [SCENARIOS["karpenter-gpu", "minimal"], INSTANCE_TYPES["karpenter-gpu", kind.name]]
    [node_class] = render("karpenter-gpu", files=files).of_kind("EC2NodeClass")
    [scratch] = re.findall(r"SCRATCH_RESERVE=(\w+)", node_class["spec"]["userData"])
    settings = SYNC.Settings("bucket", "region", scratch_reserve=SYNC.parse_bytes(scratch))
    disk = int(kind.nvme_total_gb * 1e9)
    budget = SYNC.Budget.of(settings, disk, others=0).bytes
    assert abs(budget - kind.models_bytes) <= 1  # the last byte of a rounded float
    requested = mebibytes(workload(kind.name).comfyui["resources"]["requests"]["ephemeral-storage"]) * 2**20
    images = SYNC.IMAGE_RESERVE
    assert budget + requested + images <= 0.85 * disk, "kubelet would remove images and evict pods"
    assert budget > 0.5 * disk
    for chart in ("comfyui", "karpenter-gpu"):
        assert f"of which {budget // 10**9} GB for models" in INSTANCE_TYPES[chart, kind.name].read_text()


@each_type
def test_the_pool_of_a_type_holds_this_type(kind: InstanceType) -> None:
    files = [SCENARIOS["karpenter-gpu", "minimal"], INSTANCE_TYPES["karpenter-gpu", kind.name]]
    [pool] = render("karpenter-gpu", files=files).of_kind("NodePool")
    requirements = {item["key"]: item["values"] for item in pool["spec"]["template"]["spec"]["requirements"]}
    assert requirements["node.kubernetes.io/instance-type"] == [kind.name]


def test_the_workloads_defaults_fit_every_type_of_the_default_pool_and_waste_nothing() -> None:
    [pool] = node_pools().of_kind("NodePool")
    requirements = {item["key"]: item["values"] for item in pool["spec"]["template"]["spec"]["requirements"]}
    kinds = [TYPES[name] for name in requirements["node.kubernetes.io/instance-type"]]
    assert len(kinds) == 16
    requests = Pod(comfyui()).comfyui["resources"]["requests"]
    assert millicpu(requests["cpu"]) == min(kind.pod_millicpu for kind in kinds)
    assert mebibytes(requests["memory"]) == min(kind.pod_mib for kind in kinds)
    assert mebibytes(requests["ephemeral-storage"]) == min(kind.pod_ephemeral_gib for kind in kinds) * 1024


def test_the_generator_counts_with_the_uploader_that_the_chart_has() -> None:
    resources = yaml.safe_load((CHARTS_ROOT / "comfyui" / "values.yaml").read_text())["outputs"]["uploader"][
        "resources"
    ]
    assert resources == {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}
