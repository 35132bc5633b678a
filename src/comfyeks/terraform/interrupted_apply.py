"""What a killed Terraform made and never wrote down, brought back into its state.

Terraform saves its state every twenty seconds. Killed in between (SIGKILL, power, an ended CI job), it leaves things
that the next apply would make again: AWS refuses some as existing already, and the rest are paid for twice. The log
of the dead run names all of them. What it saw completed has its id there; what was under way is looked for in the
account by the name that a fresh plan gives it. Both are imported, before anything else is planned.
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
from comfyeks.terraform.import_ids import FINDERS, IMPORTED_BY_OTHER_ID, PARTS, ImportId

_EVENT = re.compile(
    r"^(?P<address>\S.*): (?:"
    r"Creating\.\.\."
    r"|Creation complete after \S+ \[id=(?P<made>.*)\]"
    r"|(?P<gone>Destruction) complete after \S+)$",
    re.MULTILINE,
)
_NOT_THERE = re.compile(r'import\s+an\s+existing\s+object\s+to\s+"(.+?)",\s+the\s+provider', re.DOTALL)
_ABOUT = re.compile(r"^\s*with (\S.*),$", re.MULTILINE)


def read(logs: Iterable[Path]) -> dict[str, str | None]:
    """What the logs of dead runs tell: address → id of what they made, None for what was still being made."""
    text = "\n".join(path.read_text(errors="replace") for path in logs if path.exists())
    left: dict[str, str | None] = {}
    for event in _EVENT.finditer(text):
        if event["gone"]:
            left.pop(event["address"], None)
        elif kind(event["address"]) not in PARTS:
            left[event["address"]] = event["made"]
    return left


def by_id(left: Mapping[str, str | None]) -> dict[str, ImportId]:
    """Import ids of those that can be imported by the id in the log; the others have to be looked for."""
    return {
        address: made
        for address, made in left.items()
        if made is not None and kind(address) not in IMPORTED_BY_OTHER_ID
    }


def kind(address: str) -> str:
    """Resource type of an address: aws_vpc of aws_vpc.this[0]."""
    return address.partition(".")[0]


def look_for(left: Collection[str], planned: Iterable[Mapping[str, Any]], region: str) -> dict[str, ImportId]:
    """Import ids of what of `left` (addresses) may exist. `planned`: `resource_changes` of a plan that would make it.

    Raises OperationError when there are several of something.
    """
    found = {}
    for change in planned:
        address, values = change["address"], change["change"]["after"]
        if address not in left or change["change"]["actions"] != ["create"]:
            continue
        finder = FINDERS.get(change["type"])
        try:
            import_id = finder(values, region) if finder else None
        except (KeyError, IndexError):  # an argument that is not known yet: what it names was not made either
            continue
        if import_id:
            found[address] = import_id
    return found


def folder(root: Path, shadow: Path) -> Path:
    """Where the copy of a root lies in a shadow: as deep as the root, which reads files by relative paths."""
    return shadow / root.relative_to(REPO_ROOT)


def write_shadow(root: Path, shadow: Path, imports: Mapping[str, ImportId]) -> Path:
    """A root in links, with import blocks, so that tracked folders stay as they are; the folder to run Terraform in."""
    shutil.rmtree(shadow, ignore_errors=True)
    copy = folder(root, shadow)
    copy.mkdir(parents=True)
    (shadow / "versions.yaml").symlink_to(REPO_ROOT / "versions.yaml")  # read by the roots
    for path in root.iterdir():
        if path.is_file():
            (copy / path.name).symlink_to(path)
    blocks = [f"import {{\n  to = {address}\n  id = {_quoted(name)}\n}}\n" for address, name in imports.items()]
    (copy / "adopted.tf").write_text("\n".join(blocks))
    return copy


def wait(imports: Mapping[str, ImportId], region: str) -> None:
    """Return once what others are put into works: Terraform waits for what it makes, and not for what it imports.

    Raises WaiterError when something does not come up.
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


def refused(text: str) -> set[str]:
    """Addresses that Terraform's errors are about: not there after all, or not to be imported."""
    plain = re.sub(r"^[│╷╵] ?", "", text, flags=re.MULTILINE)
    found = [match[1] for pattern in (_NOT_THERE, _ABOUT) for match in pattern.finditer(plain)]
    return {" ".join(address.split()).replace('\\"', '"') for address in found}


def _quoted(text: str) -> str:
    return json.dumps(text).replace("${", "$${").replace("%{", "%%{")
