"""What an apply would do, without doing it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import yaml

from comfyeks.deployment import Deployment
from comfyeks.platform import values_files
from comfyeks.terraform import state_bucket
from comfyeks.terraform.runner import ROOTS, Root
from comfyeks.terraform.settings_store import SettingsStore
from comfyeks.terraform.variables import AccessFlags, arguments

# The only pending change: nothing in the account, only files here.
GENERATED = "generated files of this checkout"


def resources(root: str) -> int:
    """Return the number of resource blocks of a root; with `count` and `for_each` it has more resources than that."""
    return sum(len(re.findall(r'^resource "', path.read_text(), re.MULTILINE)) for path in ROOTS[root].glob("*.tf"))


def pending(deployment: Deployment, given: AccessFlags) -> dict[str, str]:
    """Return what an apply would do, by root, for the roots that it would change. Changes nothing in the account.

    Raises UserError or OperationError.
    """
    new = {root: f"{resources(root)} resource blocks to create" for root in ROOTS}
    if not state_bucket.exists(deployment):
        return new
    earlier = SettingsStore(deployment).fetch(overwrite=False)
    roots = {name: Root(name, deployment) for name in ROOTS}
    with ThreadPoolExecutor() as pool:
        list(pool.map(Root.init, roots.values()))
        if roots["data"].is_empty():
            return new
        variables = {
            "data": arguments(deployment, "data", given),
            "platform": arguments(deployment, "platform", given, earlier),
        }
        plans = dict(zip(ROOTS, pool.map(lambda name: roots[name].preview(variables[name]), ROOTS), strict=True))
    found = {name: plan for name, plan in plans.items() if plan is not None}
    if not found and not _written(deployment, roots["platform"]):
        found["platform"] = GENERATED
    return found


def _written(deployment: Deployment, platform: Root) -> bool:
    """Return whether the generated files here match the outputs."""
    files = values_files.values_files(deployment, platform.outputs())
    return all(path.exists() and yaml.safe_load(path.read_text()) == content for path, content in files.items())
