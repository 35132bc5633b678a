"""What the operator decides, from flags, the environment or a file, and how it reaches Terraform.

Flags win over COMFYEKS_* variables, these over the sections `platform` and `data` of the
settings file (comfyeks.settings), these over the flags and variables of earlier applies, these over the defaults in
infra/terraform/*/variables.tf.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, fields
from typing import Any

from comfyeks.deployment import Deployment
from comfyeks.errors import UserError
from comfyeks.files import write_atomically
from comfyeks.terraform import node_files

WIDEST_PREFIX = 8
_ARN = re.compile(r"arn:[a-z-]+:iam::\d{12}:(role|user)/.+")


@dataclass(frozen=True)
class Settings:
    """Choices for the platform; None leaves it to the settings file and Terraform's default."""

    api_allowed_cidrs: tuple[str, ...] | None = None
    api_public_access: bool | None = None
    cluster_admin_arns: tuple[str, ...] | None = None

    def check(self, deployment: Deployment) -> None:
        """Refuse what Terraform would refuse a minute later, when the data root is already there. Raises UserError."""
        own = section(deployment, "platform")
        public = self.api_public_access is not False and own.get("api_public_access") is not False
        if public and not self.api_allowed_cidrs and not own.get("api_allowed_cidrs"):
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


def listed(text: str | None) -> tuple[str, ...] | None:
    """Values separated by commas or blanks; None for none."""
    values = tuple(part for part in re.split(r"[,\s]+", text or "") if part)
    return values or None


def section(deployment: Deployment, root: str) -> dict[str, Any]:
    """The operator's own variables of a root."""
    own = deployment.settings()
    return {"data": own.data, "platform": own.platform}[root]


def to_destroy(deployment: Deployment, earlier: Settings) -> Settings:
    """Destroying needs no ranges, but Terraform checks the rule that one must be named all the same."""
    named = earlier.api_allowed_cidrs or section(deployment, "platform").get("api_allowed_cidrs")
    return Settings() if named else Settings(api_public_access=False)


def arguments(deployment: Deployment, root: str, settings: Settings, earlier: Settings | None = None) -> list[str]:
    """Terraform's arguments for the variables of a root; writes the generated variables file.

    `earlier` are flags of an earlier apply: below the operator's file, which may have been edited since.
    """
    values: dict[str, Any] = {}
    if root == "platform" and earlier is not None:
        values |= earlier.decided()
    values |= section(deployment, root)
    if root == "platform":
        values |= {"node_files": node_files.describe(), **settings.decided()}
    values |= {"project": deployment.project, "region": deployment.region}
    generated = deployment.dir / "terraform" / f"{root}.tfvars.json"
    write_atomically(generated, json.dumps(values, indent=2) + "\n")
    return [f"-var-file={generated}"]


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
