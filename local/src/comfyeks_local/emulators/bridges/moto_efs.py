"""moto's EFS."""

from __future__ import annotations

from comfyeks_local.emulators.bridges import bridge


@bridge(
    "efs-policy-removal",
    "moto",
    aws="Deletes a file system's policy, and then reports that there is none.",
    gap="Does not support DeleteFileSystemPolicy.",
    needed_by="changing `efs = true` back to false, `comfyeks infra destroy`",
)
def efs_policy_removal() -> None:
    from moto.efs.responses import EFSResponse

    def delete_file_system_policy(self: EFSResponse) -> tuple[str, dict[str, object]]:
        file_system = self.efs_backend.file_systems_by_id[self._get_param("FileSystemId")]
        file_system.file_system_policy = None
        return "{}", {"status": 204, "Content-Type": "application/json"}

    EFSResponse.delete_file_system_policy = delete_file_system_policy  # type: ignore[attr-defined]
