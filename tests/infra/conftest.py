"""Terraform without AWS: both roots planned against a mocked provider, the plan handed to the tests as plain data."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from comfyeks import tools
from comfyeks.files import write_atomically
from comfyeks.terraform import provider_mirror
from comfyeks.terraform.runner import ROOTS
from tests.support.deployment import aws, deployment
from tests.support.iam import Iam, evaluator

Terraform = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """`terraform(root, *arguments)` in an initialised root (`data` or `platform`), without a backend."""
    scratch = tmp_path_factory.mktemp("terraform")
    initialised: set[str] = set()

    def run(root: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**provider_mirror.environment(scratch), "TF_DATA_DIR": str(scratch / root)}
        if root not in initialised:
            answer = call(env, root, "init", "-backend=false", "-input=false", "-no-color")
            assert answer.returncode == 0, answer.stderr
            initialised.add(root)
        return call(env, root, *arguments)

    def call(env: dict[str, str], root: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [str(tools.terraform()), f"-chdir={ROOTS[root]}", *arguments]
        return subprocess.run(argv, env=env, capture_output=True, text=True)

    return run


class Plan:
    """What a root would create, by address; values that only AWS knows are left out."""

    def __init__(self, messages: str) -> None:
        parsed = [json.loads(message) for message in messages.splitlines()]
        plans = [message["test_plan"] for message in parsed if message["type"] == "test_plan"]
        assert len(plans) == 1, "\n".join(json.dumps(m["diagnostic"]) for m in parsed if m["type"] == "diagnostic")
        [plan] = plans
        self.resources: dict[str, dict[str, Any]] = {
            change["address"]: change["change"]["after"]
            for change in plan["resource_changes"]
            if change["mode"] == "managed"
        }
        # What only AWS knows, e.g. an identifier: true at the place of the value.
        self.unknown: dict[str, dict[str, Any]] = {
            change["address"]: change["change"]["after_unknown"]
            for change in plan["resource_changes"]
            if change["mode"] == "managed"
        }
        schemas = plan["provider_schemas"]["registry.terraform.io/hashicorp/aws"]["resource_schemas"]
        self.taggable = {kind for kind in schemas if "tags_all" in schemas[kind]["block"]["attributes"]}
        self.outputs: dict[str, Any] = {name: change.get("after") for name, change in plan["output_changes"].items()}

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        return {address: r for address, r in self.resources.items() if address.startswith(f"{kind}.")}

    def statements(self, address: str) -> dict[str, dict[str, Any]]:
        """The statements of a resource's policy, by Sid, with lists for single values."""
        found = {}
        for statement in json.loads(self.resources[address]["policy"])["Statement"]:
            found[statement["Sid"]] = {
                key: [value] if key in ("Action", "Resource") and isinstance(value, str) else value
                for key, value in statement.items()
            }
        return found


PlanOf = Callable[[str, str], Plan]


@pytest.fixture(scope="session")
def plan_of(terraform: Terraform, tmp_path_factory: pytest.TempPathFactory) -> PlanOf:
    """`plan_of(root, run)`: the plan of tests/<run>.tftest.hcl, created once for all workers of a test run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def plan(root: str, run: str) -> Plan:
        messages = folder / f"plan-{root}-{run}.jsonl"
        with messages.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not messages.exists():
                answer = terraform(root, "test", "-json", "-verbose", f"-filter=tests/{run}.tftest.hcl")
                write_atomically(messages, answer.stdout)
        return Plan(messages.read_text())

    return plan


@pytest.fixture(scope="session")
def data_plan(plan_of: PlanOf) -> Plan:
    return plan_of("data", "defaults")


@pytest.fixture(scope="session")
def platform_plan(plan_of: PlanOf) -> Plan:
    return plan_of("platform", "defaults")


@pytest.fixture(scope="session")
def everything_plan(plan_of: PlanOf) -> Plan:
    """The platform with every switch on and the longest names, in another region than `platform_plan`."""
    return plan_of("platform", "everything")


@pytest.fixture(scope="session")
def data_everything_plan(plan_of: PlanOf) -> Plan:
    return plan_of("data", "everything")


@pytest.fixture(scope="session")
def iam() -> Iterator[Iam]:
    with evaluator() as process:
        yield process


@pytest.fixture(autouse=True)
def evaluations(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Counts the questions of a test to IAM's evaluator, for the final summary."""
    if "iam" not in request.fixturenames:
        yield
        return
    asked: Iam = request.getfixturevalue("iam")
    before = asked.evaluations
    yield
    record_property("evaluations", asked.evaluations - before)
