"""What the operator decides, from flags, the environment or a file, and how it reaches Terraform.

Flags win over COMFYEKS_* variables, these over `.comfyeks/<name>/terraform.tfvars` (platform) and `data.tfvars` (data
root), these over the flags and variables of earlier applies, these over the defaults in
infra/terraform/*/variables.tf.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from comfyeks.deployment import Deployment
from comfyeks.errors import UserError
from comfyeks.infra import node_files

WIDEST_PREFIX = 8
_ARN = re.compile(r"arn:[a-z-]+:iam::\d{12}:(role|user)/.+")


@dataclass(frozen=True)
class Settings:
    """Choices for the platform; None leaves it to the tfvars file and Terraform's default."""

    api_allowed_cidrs: tuple[str, ...] | None = None
    api_public_access: bool | None = None
    cluster_admin_arns: tuple[str, ...] | None = None

    def check(self, deployment: Deployment) -> None:
        """Refuse what Terraform would refuse a minute later, when the data root is already there. Raises UserError."""
        public = self.api_public_access is not False
        if public and not self.api_allowed_cidrs and not user_file(deployment, "platform").exists():
            raise UserError(
                "nobody may reach the Kubernetes API yet: name address ranges with --api-allowed-cidrs or "
                "COMFYEKS_API_ALLOWED_CIDRS (for one address: 198.51.100.7/32), or pass --private-api and work from "
                "inside the VPC. Either is remembered."
            )
        for cidr in self.api_allowed_cidrs or ():
            _check_range(cidr)
        for arn in self.cluster_admin_arns or ():
            if not _ARN.fullmatch(arn):
                raise UserError(
                    f"--cluster-admin-arns: {arn!r} is no ARN of an IAM role or user, such as "
                    "arn:aws:iam::111122223333:role/admin (of a role, not of its session)"
                )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Settings:
        """The opposite of `decided`; names that this version does not know are left out."""
        known = {field.name for field in fields(cls)} & values.keys()
        decided: dict[str, Any] = {
            name: tuple(values[name]) if isinstance(values[name], list) else values[name] for name in known
        }
        return cls(**decided)

    def decided(self) -> dict[str, Any]:
        """Terraform's variables that are not left to it."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def over(self, earlier: Settings) -> Settings:
        """These, and what they leave open from an earlier apply."""
        return Settings(**(earlier.decided() | self.decided()))

    def for_destroy(self) -> Settings:
        """Destroying needs no ranges, but Terraform checks the rule that one must be named all the same."""
        if self.api_allowed_cidrs:
            return self
        return Settings(api_public_access=False, cluster_admin_arns=self.cluster_admin_arns)


def listed(text: str | None) -> tuple[str, ...] | None:
    """Values separated by commas or blanks; None for none."""
    values = tuple(part for part in re.split(r"[,\s]+", text or "") if part)
    return values or None


def user_file(deployment: Deployment, root: str) -> Path:
    """The operator's own variables of a root."""
    return deployment.dir / {"data": "data.tfvars", "platform": "terraform.tfvars"}[root]


def arguments(deployment: Deployment, root: str, settings: Settings, earlier: Settings | None = None) -> list[str]:
    """Terraform's arguments for the variables of a root; writes the generated variables files. Later files win.

    `earlier` are flags of an earlier apply: below the operator's file, which may have been edited since.
    """
    values: dict[str, Any] = {"project": deployment.project, "region": deployment.region}
    if root == "platform":
        values["node_files"] = node_files.describe()
        values |= settings.decided()
    folder = deployment.dir / "terraform"
    folder.mkdir(parents=True, exist_ok=True)
    generated = folder / f"{root}.tfvars.json"
    generated.write_text(json.dumps(values, indent=2) + "\n")
    files = [user_file(deployment, root), generated]
    if root == "platform" and earlier is not None:
        files.insert(0, folder / "earlier.tfvars.json")
        files[0].write_text(json.dumps(earlier.decided(), indent=2) + "\n")
    return [f"-var-file={path}" for path in files if path.exists()]


def sets(deployment: Deployment, name: str) -> bool:
    """Whether the operator's file of the platform root names a variable."""
    path = user_file(deployment, "platform")
    return path.exists() and re.search(rf"^\s*{name}\s*=", path.read_text(), re.MULTILINE) is not None


def _check_range(cidr: str) -> None:
    allowed = f"IPv4 ranges from /{WIDEST_PREFIX} to /32, such as 198.51.100.7/32"
    try:
        network = ipaddress.IPv4Network(cidr)
    except ValueError as error:
        raise UserError(f"--api-allowed-cidrs: {cidr!r} is no address range ({error}); allowed: {allowed}") from error
    if "/" not in cidr or network.prefixlen < WIDEST_PREFIX:
        raise UserError(
            f"--api-allowed-cidrs: {cidr!r} is refused, it opens the Kubernetes API to "
            f"{network.num_addresses:,} addresses; allowed: {allowed}"
            if "/" in cidr
            else f"--api-allowed-cidrs: {cidr!r} lacks its length; allowed: {allowed}"
        )
