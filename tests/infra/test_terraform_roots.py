"""Both roots are well-formed and keep the rules that concern more than one resource."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
import yaml

from comfyeks.dev import terraform_reference
from comfyeks.paths import REPO_ROOT
from comfyeks.terraform.runner import ROOTS

from .conftest import Terraform

CHARTS = ("comfyui", "karpenter-gpu")
PLANS = ("defaults", "everything")  # the other tests read them
SUITES = [
    (root, name)
    for root, folder in ROOTS.items()
    for name in sorted(path.name.removesuffix(".tftest.hcl") for path in folder.glob("tests/*.tftest.hcl"))
    if name not in PLANS
]
FILES = [*ROOTS["platform"].glob("*.tf"), *ROOTS["data"].glob("*.tf")]


def blocks(kind: str) -> dict[str, str]:
    """`root/name` → text of every block of a kind (`variable`, `output`) in both roots."""
    found = {}
    for path in FILES:
        for match in re.finditer(rf'^{kind} "(\w+)" \{{\n(.*?)^\}}', path.read_text(), re.MULTILINE | re.DOTALL):
            found[f"{path.parent.name}/{match[1]}"] = match[2]
    assert found, f"no {kind} found"
    return found


@pytest.mark.local  # the plans of the other tests are made from the same files, so a fault shows there first
@pytest.mark.parametrize("root", ROOTS)
def test_root_is_valid(terraform: Terraform, root: str) -> None:
    answer = terraform(root, "validate", "-no-color")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.local
@pytest.mark.parametrize(("root", "suite"), SUITES)
def test_every_variable_has_the_effect_and_the_validation_that_it_documents(
    terraform: Terraform, root: str, suite: str, measured: Callable[[str], None]
) -> None:
    answer = terraform(root, "test", "-no-color", f"-filter=tests/{suite}.tftest.hcl")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    measured(f"terraform test, {root}, {suite}: {answer.stdout.strip().splitlines()[-1]}")


def runs(root: str) -> list[str]:
    """Text of every run of a root's tests, and of the variables that all runs of a file share."""
    texts = [path.read_text() for path in sorted(ROOTS[root].glob("tests/*.tftest.hcl"))]
    return [run for text in texts for run in re.findall(r"^(?:run|variables) .*?^\}", text, re.MULTILINE | re.DOTALL)]


RULES = {
    (root, name): block["validation"]
    for root, folder in ROOTS.items()
    for name, block in terraform_reference.blocks(folder, "variable").items()
    if "validation" in block
}


@pytest.mark.parametrize(("root", "name"), RULES)
def test_each_rule_of_a_variable_is_broken_by_a_run_and_kept_by_another(root: str, name: str) -> None:
    refused = [run for run in runs(root) if f"expect_failures = [var.{name}]" in run]
    assert len(refused) >= len(RULES[root, name])
    setting = re.compile(rf"^ +{name} +=", re.MULTILINE)
    assert [run for run in runs(root) if setting.search(run) and "expect_failures" not in run]


@pytest.mark.parametrize("name", blocks("variable"))
def test_variable_has_a_type_and_a_description(name: str) -> None:
    text = blocks("variable")[name]
    assert re.search(r"^  type +=", text, re.MULTILINE)
    assert re.search(r'^  description += "', text, re.MULTILINE)


@pytest.mark.parametrize("name", blocks("output"))
def test_output_has_a_description(name: str) -> None:
    assert re.search(r'^  description += "', blocks("output")[name], re.MULTILINE)


def test_region_has_one_pattern_in_both_roots_and_both_charts() -> None:
    """The charts also accept an empty one, and require it later with a better message."""
    terraform = {
        match
        for name in blocks("variable")
        for match in re.findall(r'regex\("\^(\S+)\$", var\.region', blocks("variable")[name])
    }
    schemas = [json.loads((REPO_ROOT / "charts" / c / "values.schema.json").read_text())["properties"] for c in CHARTS]
    comfyui, gpu = schemas
    charts = {s["properties"]["region"]["pattern"] for s in (comfyui["aws"], gpu["modelSync"])}
    [pattern] = terraform
    assert charts == {f"^({pattern})?$"}


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("region", ["us-west-2", "us-gov-east-1", "eusc-de-east-1", "mx-central-1"])
def test_region_of_any_partition_is_accepted(root: str, region: str) -> None:
    text = (ROOTS[root] / "variables.tf").read_text()
    [pattern] = re.findall(r'regex\("(\S+)", var\.region', text)
    assert re.fullmatch(pattern, region)
    assert not re.fullmatch(pattern, f"{region}a")


def test_no_arn_contains_a_fixed_partition() -> None:
    assert not [
        path.name for path in FILES if "arn:aws" in re.sub(r"(?s)variable .*?^}", "", path.read_text(), flags=re.M)
    ]


def test_no_resource_or_provider_is_changed_for_an_emulator() -> None:
    text = "".join(path.read_text() for path in FILES)
    assert not re.search(r"endpoints\s*\{|ignore_changes|s3_use_path_style|skip_|localhost|127\.0\.0\.1", text)


def test_sync_document_takes_its_parameter_as_environment_and_not_as_text() -> None:
    document = yaml.safe_load((ROOTS["platform"] / "sync-models.ssm.yaml").read_text())
    assert document["schemaVersion"] == "2.2"
    assert document["parameters"]["action"]["allowedValues"] == ["sync", "verify", "status"]
    assert document["parameters"]["action"]["interpolationType"] == "ENV_VAR"
    [step] = document["mainSteps"]
    assert step["inputs"]["runCommand"] == [
        'exec "${COMFYUI_NODE_ROOT:-}/usr/local/bin/comfyui-model-sync" "$SSM_action"'
    ]
    assert "{{" not in str(step)
