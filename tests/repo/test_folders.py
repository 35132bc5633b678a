"""Which folder may refer to which (docs/architecture.md), read from imports and references."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from comfyeks.paths import REPO_ROOT


def tracked(pattern: str) -> list[Path]:
    """Files of the project that match a glob: tracked ones and new ones that git does not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", pattern],
        cwd=REPO_ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = [REPO_ROOT / line for line in listing.splitlines() if (REPO_ROOT / line).is_file()]
    assert found, f"nothing matches {pattern}: the rule checks nothing"
    return found


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    return found | {
        node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
    }


def test_the_lambda_ships_alone() -> None:
    allowed = {"chalice", "chalicelib", "boto3", "botocore", "mypy_boto3_sqs", "mypy_boto3_ssm"}
    for path in tracked("lambda-chalice/*.py"):
        third_party = {name for name in imports(path) if name not in set(sys.stdlib_module_names)}
        assert third_party <= allowed, path


def test_the_node_program_needs_only_the_standard_library() -> None:
    assert imports(REPO_ROOT / "node" / "comfyui-model-sync") <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("chart", ["comfyui", "karpenter-gpu"])
def test_a_chart_refers_to_no_other_folder(chart: str) -> None:
    other = {"comfyui": "karpenter-gpu", "karpenter-gpu": "charts/comfyui"}[chart]
    for path in tracked(f"charts/{chart}/*"):
        text = path.read_text()
        for folder in (other, "infra/terraform", "lambda-chalice", "src/comfyeks"):
            if path.name == "README.md":
                continue
            assert folder not in text, f"{path} names {folder}"


def test_nothing_outside_tests_imports_tests() -> None:
    for pattern in ("src/*.py", "local/*.py", "scripts/*.py", "lambda-chalice/*.py"):
        for path in tracked(pattern):
            assert "tests" not in imports(path), path


def test_terraform_templates_no_yaml_text() -> None:
    for path in tracked("infra/terraform/*.tf"):
        assert "yamlencode" not in path.read_text(), path
        assert not re.search(r"<<-?\s*[\"']?YAML", path.read_text()), path


def test_no_file_names_a_place_of_one_machine() -> None:
    places = "|".join(re.escape(f"{place}/") for place in (REPO_ROOT, Path.home()))
    place = re.compile(rf"(?<![\w.-])(?:{places})")
    for path in tracked("*"):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        assert not place.search(text), path
