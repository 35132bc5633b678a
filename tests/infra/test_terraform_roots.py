"""Both roots are well-formed and keep the rules that no single resource can state."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from comfyeks import tools
from comfyeks.infra import provider
from comfyeks.infra.terraform import ROOTS
from comfyeks.paths import REPO_ROOT
from comfyeks.versions import VERSIONS

from .conftest import Terraform

FILES = [*ROOTS["platform"].glob("*.tf"), *ROOTS["data"].glob("*.tf")]


def blocks(kind: str) -> dict[str, str]:
    """`root/name` → text of every block of a kind (`variable`, `output`) in both roots."""
    found = {}
    for path in FILES:
        for match in re.finditer(rf'^{kind} "(\w+)" \{{\n(.*?)^\}}', path.read_text(), re.MULTILINE | re.DOTALL):
            found[f"{path.parent.name}/{match[1]}"] = match[2]
    assert found, f"no {kind} found"
    return found


def test_terraform_files_are_formatted(tmp_path: Path) -> None:
    answer = subprocess.run(
        [tools.terraform(), "fmt", "-check", "-recursive", "-diff", REPO_ROOT / "infra"],
        env=provider.environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout


@pytest.mark.local  # the plans of the other tests are made from the same files, so a fault shows there first
@pytest.mark.parametrize("root", ROOTS)
def test_root_is_valid(terraform: Terraform, root: str) -> None:
    answer = terraform(root, "validate", "-no-color")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.local
@pytest.mark.parametrize("root", ROOTS)
def test_every_variable_switches_and_refuses_what_it_says(terraform: Terraform, root: str) -> None:
    answer = terraform(root, "test", "-no-color", "-filter=tests/switches.tftest.hcl")
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("name", blocks("variable"))
def test_variable_has_a_type_and_a_description(name: str) -> None:
    text = blocks("variable")[name]
    assert re.search(r"^  type +=", text, re.MULTILINE)
    assert re.search(r'^  description += "', text, re.MULTILINE)


@pytest.mark.parametrize("name", blocks("output"))
def test_output_has_a_description(name: str) -> None:
    assert re.search(r'^  description += "', blocks("output")[name], re.MULTILINE)


def test_provider_pin_is_the_one_in_versions_yaml() -> None:
    pins = {
        match for path in FILES for match in re.findall(r'^ +version = "(~> [\d.]+)"', path.read_text(), re.MULTILINE)
    }
    assert pins == {f"~> {VERSIONS['terraform_provider_aws']}"}


def test_no_partition_stands_in_an_arn() -> None:
    assert not [
        path.name for path in FILES if "arn:aws" in re.sub(r"(?s)variable .*?^}", "", path.read_text(), flags=re.M)
    ]


def test_no_resource_or_provider_is_bent_for_an_emulator() -> None:
    text = "".join(path.read_text() for path in FILES)
    assert not re.search(r"endpoints|ignore_changes|s3_use_path_style|skip_|localhost|127\.0\.0\.1", text)


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
