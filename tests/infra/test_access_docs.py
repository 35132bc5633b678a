"""Commands and settings of docs/how-to/access-from-other-vpcs.md exist, according to SDK models and Terraform."""

from __future__ import annotations

import re
import shlex
from typing import Any

import botocore.session
import pytest
import yaml
from botocore import xform_name

from comfyeks.dev import terraform_reference
from comfyeks.paths import REPO_ROOT
from comfyeks.terraform.runner import ROOTS

from .conftest import Plan

TEXT = (REPO_ROOT / "docs" / "how-to" / "access-from-other-vpcs.md").read_text(encoding="utf-8")
GLOBAL_FLAGS = {"--query", "--output", "--region", "--profile"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def aws_commands() -> list[str]:
    """Each `aws SERVICE OPERATION --flag …` of the page, on one line."""
    found = []
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            found += re.findall(r"(?:^|\$\()\s*(aws [^)]*)", line) if "aws " in line else []
    return found


def flags(service: str, operation: str) -> tuple[set[str], set[str]]:
    """(all, required) flags of an operation, by the SDK's model; KeyError when there is no such operation."""
    model = botocore.session.Session().get_service_model(service)
    name = {xform_name(name, "-"): name for name in model.operation_names}[operation]
    shape: Any = model.operation_model(name).input_shape
    every, required = (
        {f"--{xform_name(m, '-')}" for m in members} for members in (shape.members, shape.required_members)
    )
    return every, required


def outputs_read() -> set[str]:
    return set(re.findall(r"(?<=['\s])\.(\w+\.\w+)", " ".join(line for b in blocks("sh") for line in b.splitlines())))


def test_page_has_commands_for_each_way() -> None:
    for service in ("create-vpc-endpoint ", "create-vpc-peering-connection ", "create-transit-gateway-vpc-attachment "):
        assert any(service in command for command in aws_commands())


@pytest.mark.parametrize("command", aws_commands(), ids=lambda c: c.split()[2])
def test_command_and_its_flags_exist(command: str) -> None:
    _, service, operation, *_ = command.split()
    known, required = flags(service, operation)
    given = set(re.findall(r"(?<=\s)--[a-z0-9-]+", command))
    assert required <= given <= known | GLOBAL_FLAGS


def test_flags_named_in_the_text_exist() -> None:
    known, _ = flags("ec2", "create-vpc-peering-connection")
    prose = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(--[a-z-]+)`", prose)) <= known


def test_shell_blocks_are_well_formed() -> None:
    for block in blocks("sh"):
        assert shlex.split(block, comments=True)


def test_settings_are_variables_of_the_platform() -> None:
    known = terraform_reference.blocks(ROOTS["platform"], "variable").keys()
    given = [yaml.safe_load(block)["platform"] for block in blocks("yaml")]
    assert given
    for settings in given:
        assert settings.keys() <= known
    assert {name for name in re.findall(r"`(\w+_\w+)`", TEXT) if name.islower()} <= known


def test_outputs_that_the_commands_read_exist(everything_plan: Plan) -> None:
    names = outputs_read()
    assert names == {
        "load_balancer.dns_name",
        "load_balancer.endpoint_service",
        "load_balancer.port",
        "load_balancer.route_table_ids",
        "load_balancer.subnet_cidrs",
        "load_balancer.subnet_ids",
        "load_balancer.vpc_id",
    }
    text = (ROOTS["platform"] / "outputs.tf").read_text()
    [block] = re.findall(r'^output "load_balancer" \{.*?^\}', text, re.MULTILINE | re.DOTALL)
    assert {f"load_balancer.{key}" for key in re.findall(r"^    (\w+) +=", block, re.MULTILINE)} == names
    assert "load_balancer" in everything_plan.outputs
