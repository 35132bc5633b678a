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
from comfyeks.terraform.variables import Settings, arguments

# Nothing is left in the account, only here.
GENERATED = "generated files of this checkout"


def resources(root: str) -> int:
    """Resource blocks of a root; with `count` and `for_each` there are more resources than that."""
    return sum(len(re.findall(r'^resource "', path.read_text(), re.MULTILINE)) for path in ROOTS[root].glob("*.tf"))


def pending(deployment: Deployment, given: Settings) -> dict[str, str]:
    """Root → what an apply would do to it; only roots that it would change. Changes nothing in the account.

    Raises UserError or OperationError.
    """
    new = {root: f"{resources(root)} kinds of resources to add" for root in ROOTS}
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
    """Whether the generated files here are those that the outputs call for."""
    files = values_files.values_files(deployment, platform.outputs())
    return all(path.exists() and yaml.safe_load(path.read_text()) == content for path, content in files.items())
