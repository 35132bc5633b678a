"""Terraform's input variables: from flags, the environment or the settings file into a variables file.

Flags win over COMFYEKS_* variables, these over the sections `platform` and `data` of the settings file
(comfyeks.settings), these over the flags and variables of earlier applies, these over the defaults in
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
class AccessFlags:
    """The flags that control access to the Kubernetes API.

    None leaves a value to the settings file or Terraform's default.
    """

    api_allowed_cidrs: tuple[str, ...] | None = None
    api_public_access: bool | None = None
    cluster_admin_arns: tuple[str, ...] | None = None

    def check(self, deployment: Deployment) -> None:
        """Raise UserError for values that Terraform would reject a minute later, after it created the data root."""
        own = section(deployment, "platform")
        public = self.api_public_access is not False and own.get("api_public_access") is not False
        if public and not self.api_allowed_cidrs and not own.get("api_allowed_cidrs"):
            raise UserError(
                "no access to the Kubernetes API is configured: pass address ranges with --api-allowed-cidrs or "
                "COMFYEKS_API_ALLOWED_CIDRS (for one address: 198.51.100.7/32), or pass --private-api and work from "
                "inside the VPC. Later applies use the same choice."
            )
        for cidr in self.api_allowed_cidrs or ():
            _check_range(cidr)
        for arn in self.cluster_admin_arns or ():
            if not _ARN.fullmatch(arn):
                raise UserError(
                    f"--cluster-admin-arns: {arn!r} is not the ARN of an IAM role or user, such as "
                    "arn:aws:iam::111122223333:role/admin (the role itself, not a session of it)"
                )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> AccessFlags:
        """The flags that `decided` returned; names that this version does not know are ignored."""
        known = {field.name for field in fields(cls)} & values.keys()
        decided: dict[str, Any] = {
            name: tuple(values[name]) if isinstance(values[name], list) else values[name] for name in known
        }
        return cls(**decided)

    def decided(self) -> dict[str, Any]:
        """The flags that have a value, by the name of their Terraform variable."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def over(self, earlier: AccessFlags) -> AccessFlags:
        """These flags, completed with those of an earlier apply."""
        return AccessFlags(**(earlier.decided() | self.decided()))


def listed(text: str | None) -> tuple[str, ...] | None:
    """The values in a text, separated by commas or spaces; None when there are none."""
    values = tuple(part for part in re.split(r"[,\s]+", text or "") if part)
    return values or None


def section(deployment: Deployment, root: str) -> dict[str, Any]:
    """The variables of a root in the settings file."""
    own = deployment.settings()
    return {"data": own.data, "platform": own.platform}[root]


def to_destroy(deployment: Deployment, earlier: AccessFlags) -> AccessFlags:
    """The flags for a destroy: it needs no address ranges, but Terraform still validates that there is one."""
    named = earlier.api_allowed_cidrs or section(deployment, "platform").get("api_allowed_cidrs")
    return AccessFlags() if named else AccessFlags(api_public_access=False)


def arguments(deployment: Deployment, root: str, flags: AccessFlags, earlier: AccessFlags | None = None) -> list[str]:
    """Write a root's variables file; return the arguments that make Terraform read it.

    `earlier` are the flags of an earlier apply. The settings file wins over them: it may have been edited since.
    """
    values: dict[str, Any] = {}
    if root == "platform" and earlier is not None:
        values |= earlier.decided()
    values |= section(deployment, root)
    if root == "platform":
        values |= {"node_files": node_files.describe(), **flags.decided()}
    values |= {"project": deployment.project, "region": deployment.region}
    generated = deployment.dir / "terraform" / f"{root}.tfvars.json"
    write_atomically(generated, json.dumps(values, indent=2) + "\n")
    return [f"-var-file={generated}"]


def _check_range(cidr: str) -> None:
    allowed = f"IPv4 ranges from /{WIDEST_PREFIX} to /32, such as 198.51.100.7/32"
    try:
        network = ipaddress.IPv4Network(cidr)
    except ValueError as error:
        raise UserError(
            f"--api-allowed-cidrs: {cidr!r} is not an IPv4 address range ({error}); allowed: {allowed}"
        ) from error
    if "/" not in cidr or network.prefixlen < WIDEST_PREFIX:
        raise UserError(
            f"--api-allowed-cidrs: {cidr!r} is too wide, it would open the Kubernetes API to "
            f"{network.num_addresses:,} addresses; allowed: {allowed}"
            if "/" in cidr
            else f"--api-allowed-cidrs: {cidr!r} has no prefix length; allowed: {allowed}"
        )
