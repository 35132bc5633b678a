"""Imports what an interrupted Terraform created and did not save in its state.

Terraform saves its state every twenty seconds. Killed in between (SIGKILL, power failure, cancelled CI job), it leaves
resources that the next apply would create again: AWS rejects some of them as existing already, and the others would be
paid for twice. The log of the interrupted run names all of them. Completed ones have their id there; unfinished ones
are looked up in the account by the name that a fresh plan gives them. Both are imported before anything else is
planned.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import boto3

from comfyeks.paths import REPO_ROOT
from comfyeks.terraform.import_ids import IMPORTED_BY_OTHER_ID, LOOKUPS, PARTS, ImportId

_EVENT = re.compile(
    r"^(?P<address>\S.*): (?:"
    r"Creating\.\.\."
    r"|Creation complete after \S+ \[id=(?P<id>.*)\]"
    r"|(?P<destroyed>Destruction) complete after \S+)$",
    re.MULTILINE,
)
_NOT_THERE = re.compile(r'import\s+an\s+existing\s+object\s+to\s+"(.+?)",\s+the\s+provider', re.DOTALL)
_ABOUT = re.compile(r"^\s*with (\S.*),$", re.MULTILINE)


def read(logs: Iterable[Path]) -> dict[str, str | None]:
    """Resources that interrupted runs created, from their logs: address → id, None for an unfinished creation."""
    text = "\n".join(path.read_text(errors="replace") for path in logs if path.exists())
    created: dict[str, str | None] = {}
    for event in _EVENT.finditer(text):
        if event["destroyed"]:
            created.pop(event["address"], None)
        elif kind(event["address"]) not in PARTS:
            created[event["address"]] = event["id"]
    return created


def by_id(created: Mapping[str, str | None]) -> dict[str, ImportId]:
    """Address → import id of the resources whose id in the log can be imported; the others need `look_up`."""
    return {
        address: name
        for address, name in created.items()
        if name is not None and kind(address) not in IMPORTED_BY_OTHER_ID
    }


def kind(address: str) -> str:
    """The resource type in an address: aws_vpc in aws_vpc.this[0]."""
    return address.partition(".")[0]


def look_up(addresses: Collection[str], planned: Iterable[Mapping[str, Any]], region: str) -> dict[str, ImportId]:
    """Address → import id of those `addresses` that exist in the account.

    `planned` is `resource_changes` of a plan that would create them. Raises OperationError when several resources match
    one address.
    """
    found = {}
    for change in planned:
        address, values = change["address"], change["change"]["after"]
        if address not in addresses or change["change"]["actions"] != ["create"]:
            continue
        lookup = LOOKUPS.get(change["type"])
        try:
            import_id = lookup(values, region) if lookup else None
        except (
            KeyError,
            IndexError,
        ):  # an argument is unknown: what it refers to was not created, nor was this
            continue
        if import_id:
            found[address] = import_id
    return found


def folder(root: Path, copies: Path) -> Path:
    """Where the copy of a root lies below `copies`: as deep as the root, which reads files by relative paths."""
    return copies / root.relative_to(REPO_ROOT)


def write_copy(root: Path, copies: Path, imports: Mapping[str, ImportId]) -> Path:
    """Write a copy of a root (links to its files) with import blocks; return the folder to run Terraform in.

    The root's own folder is tracked by git and stays as it is.
    """
    shutil.rmtree(copies, ignore_errors=True)
    copy = folder(root, copies)
    copy.mkdir(parents=True)
    (copies / "versions.yaml").symlink_to(REPO_ROOT / "versions.yaml")  # read by the roots
    for path in root.iterdir():
        if path.is_file():
            (copy / path.name).symlink_to(path)
    blocks = [f"import {{\n  to = {address}\n  id = {_quoted(name)}\n}}\n" for address, name in imports.items()]
    (copy / "imported.tf").write_text("\n".join(blocks))
    return copy


def wait(imports: Mapping[str, ImportId], region: str) -> None:
    """Wait until imported clusters, node groups and NAT gateways are ready for what will be created in them.

    Terraform waits for what it creates, and not for what it imports. Raises WaiterError when one does not become ready.
    """
    for address, import_id in imports.items():
        match kind(address):
            case "aws_eks_cluster":
                boto3.client("eks", region_name=region).get_waiter("cluster_active").wait(name=import_id)
            case "aws_eks_node_group":
                cluster, _, group = import_id.partition(":")
                active = boto3.client("eks", region_name=region).get_waiter("nodegroup_active")
                active.wait(clusterName=cluster, nodegroupName=group)
            case "aws_nat_gateway":
                available = boto3.client("ec2", region_name=region).get_waiter("nat_gateway_available")
                available.wait(NatGatewayIds=[import_id])


def failed_imports(text: str) -> set[str]:
    """Addresses in Terraform's error messages: they do not exist after all, or cannot be imported."""
    plain = re.sub(r"^[│╷╵] ?", "", text, flags=re.MULTILINE)
    found = [match[1] for pattern in (_NOT_THERE, _ABOUT) for match in pattern.finditer(plain)]
    return {" ".join(address.split()).replace('\\"', '"') for address in found}


def _quoted(text: str) -> str:
    return json.dumps(text).replace("${", "$${").replace("%{", "%%{")
