"""What each GPU instance type offers to one ComfyUI pod, and the chart values that follow from it.

Karpenter starts a node only for a pod that fits what it expects the node to have, so this module computes like
Karpenter: capacity, less its estimate for the hypervisor, less what kubelet reserves. Daemons, Mountpoint's pods (which
Karpenter does not count) and the uploader are subtracted; the rest is the pod's. Real nodes have more memory than that.

The disk is divided the same way: kubelet's reserve, images, what the pod may write, and the rest for models.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyeks.errors import UserError

TABLE = Path(__file__).with_name("instance_types.csv")

# Karpenter's vmMemoryOverheadPercent, and the hard eviction threshold of kubelet.
_HYPERVISOR_SHARE = 0.075
_EVICTION_MIB = 100
# Share of the disk at which kubelet begins to remove images and evict pods: 100 % less its 15 % for images.
_DISK_SHARE = 0.85

# aws-node 50m, kube-proxy 100m, s3-csi-node 30m, and as much again for what a team adds (metrics, logs).
_DAEMONS_MILLICPU = 400
_DAEMONS_MIB = 512
# One Mountpoint pod each for inputs and (mode `mount`) outputs; its memory target is at least 512 MiB.
_MOUNTPOINT_MIB = 2 * 512
# outputs.uploader.resources: the request of CPU, and of memory the limit, because it is used when it matters.
_UPLOADER_MILLICPU = 100
_UPLOADER_MIB = 512

# Requests are rounded down to multiples of these.
_MILLICPU_STEP = 250
_MIB_STEP = 256

# Default of modelSync.settings.imageReserve, which the node program defines.
_IMAGES_BYTES = 30 * 10**9
# The pod's own share of the disk, half of it for uploaded results that stay; models and images have the rest.
_EPHEMERAL_SHARE = 0.1
_EPHEMERAL_MAX_GIB = 100


@dataclass(frozen=True)
class InstanceType:
    name: str
    vcpu: int
    memory_mib: int
    gpu_name: str
    gpu_memory_mib: int
    nvme_total_gb: int
    max_pods: int

    @property
    def allocatable_millicpu(self) -> int:
        """CPU for pods: kubelet reserves 6 % of the first CPU, 1 % of the second, 0.5 % of two more, then 0.25 %."""
        reserved, shares = 0.0, [0.06, 0.01, 0.005, 0.005]
        for cpu in range(self.vcpu):
            reserved += 1000 * (shares[cpu] if cpu < len(shares) else 0.0025)
        return self.vcpu * 1000 - int(reserved)

    @property
    def allocatable_mib(self) -> int:
        """Memory that Karpenter expects kubelet to leave to pods: it reserves 255 MiB, and 11 MiB per possible pod."""
        hypervisor = math.ceil(self.memory_mib * _HYPERVISOR_SHARE)
        return self.memory_mib - hypervisor - (255 + 11 * self.max_pods) - _EVICTION_MIB

    @property
    def disk_gib(self) -> float:
        """Space of the instance store that can be used before kubelet begins to clean up."""
        return self.nvme_total_gb * 1e9 / 2**30 * _DISK_SHARE

    @property
    def pod_millicpu(self) -> int:
        remaining = self.allocatable_millicpu - _DAEMONS_MILLICPU - _UPLOADER_MILLICPU
        return remaining // _MILLICPU_STEP * _MILLICPU_STEP

    @property
    def pod_mib(self) -> int:
        remaining = self.allocatable_mib - _DAEMONS_MIB - _MOUNTPOINT_MIB - _UPLOADER_MIB
        return remaining // _MIB_STEP * _MIB_STEP

    @property
    def pod_ephemeral_gib(self) -> int:
        return min(_EPHEMERAL_MAX_GIB, int(self.disk_gib * _EPHEMERAL_SHARE))

    @property
    def models_bytes(self) -> int:
        """Disk space for models; the node computes the same from the real size of its file system."""
        usable = int(self.nvme_total_gb * 1e9 * _DISK_SHARE)
        return max(0, usable - _IMAGES_BYTES - self.pod_ephemeral_gib * 2**30)

    def comfyui_values(self) -> dict[str, Any]:
        """Return values for one pod that fills the node. Its memory limit is its request: a leak ends only the pod."""
        memory = f"{self.pod_mib}Mi"
        requests = {
            "cpu": f"{self.pod_millicpu}m",
            "memory": memory,
            "ephemeral-storage": f"{self.pod_ephemeral_gib}Gi",
        }
        return {
            "resources": {"requests": requests, "limits": {"memory": memory}},
            "outputs": {"keepLocalGiB": self.pod_ephemeral_gib // 2},
        }

    def karpenter_values(self) -> dict[str, Any]:
        """Return values for pools of this type, whose models leave the pod of `comfyui_values` its disk space."""
        return {
            "poolDefaults": {"instanceTypes": [self.name]},
            "modelSync": {"settings": {"scratchReserve": f"{self.pod_ephemeral_gib}GiB"}},
        }


def read_table(table: Path = TABLE) -> dict[str, InstanceType]:
    """Return the instance types by name, in the table's order."""
    with table.open(newline="") as rows:
        return {
            row["instance_type"]: InstanceType(
                name=row["instance_type"],
                vcpu=int(row["vcpu"]),
                memory_mib=int(row["memory_mib"]),
                gpu_name=row["gpu_name"],
                gpu_memory_mib=int(row["gpu_memory_mib"]),
                nvme_total_gb=int(row["nvme_total_gb"]),
                max_pods=int(row["max_pods"]),
            )
            for row in csv.DictReader(rows)
        }


def instance_type(name: str) -> InstanceType:
    """Return the instance type of that name. Raises UserError if the charts have no values for it."""
    table = read_table()
    if name not in table:
        raise UserError(f"instance type {name!r} is not supported; expected one of {', '.join(table)}")
    return table[name]
