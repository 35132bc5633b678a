"""versions.yaml is the one home of every pin: whatever else names a version says the same."""

import json
import re
import tomllib
from typing import Any

import pytest
import yaml

from comfyeks.paths import REPO_ROOT
from comfyeks.versions import VERSIONS

PYPROJECT = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())
LOCK = (REPO_ROOT / "requirements.txt").read_text()


def requirements() -> list[str]:
    project: dict[str, Any] = PYPROJECT["project"]
    return project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]


def locked(name: str) -> str:
    match = re.search(rf"^{re.escape(name)}==(\S+)", LOCK, re.MULTILINE)
    assert match, f"{name} is not in requirements.txt: run `make lock`"
    return match[1]


def go_mod(path: str) -> str:
    return (REPO_ROOT / path).read_text()


@pytest.mark.parametrize("tool", sorted(VERSIONS["python_tools"]))
def test_a_pinned_python_tool_is_locked_at_that_version(tool: str) -> None:
    assert locked(tool) == VERSIONS["python_tools"][tool]


def test_every_exact_pin_in_pyproject_is_in_versions_yaml() -> None:
    exact = dict(r.split("==") for r in requirements() if "==" in r)
    assert exact == {name: VERSIONS["python_tools"][name] for name in exact}
    assert exact, "nothing is pinned exactly: this test checks nothing"


def test_policy_tools_are_locked_at_those_versions() -> None:
    folder = REPO_ROOT / "tools" / "policy"
    python = dict(re.findall(r"^([\w-]+)==(\S+)", (folder / "requirements.in").read_text(), re.MULTILINE))
    npm = json.loads((folder / "package.json").read_text())["dependencies"]
    assert python | npm == VERSIONS["policy_tools"]
    requirements = (folder / "requirements.txt").read_text()
    assert all(f"{name}=={version} " in requirements for name, version in python.items())
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert {name: packages[f"node_modules/{name}"]["version"] for name in npm} == npm


def test_go_modules_have_those_versions() -> None:
    assert f"helm.sh/helm/v4 v{VERSIONS['go_tools']['helm']}" in go_mod("tools/go.mod")
    assert f"helm.sh/helm/v3 v{VERSIONS['go_tools']['helm3']}" in go_mod("tools/helm3/go.mod")
    kubernetes = VERSIONS["go_tools"]["kubernetes"]
    assert f"k8s.io/kubernetes v{kubernetes}" in go_mod("tools/kubernetes/go.mod")
    assert f"k8s.io/apiserver => k8s.io/apiserver v0.{kubernetes.partition('.')[2]}" in go_mod(
        "tools/kubernetes/go.mod"
    )
    controller = f"github.com/aws/karpenter-provider-aws v{VERSIONS['go_tools']['karpenter']}"
    assert controller in go_mod("tools/karpenter/go.mod")
    crds = f"github.com/aws/karpenter-provider-aws v{VERSIONS['go_tools']['karpenter_crds']}"
    assert crds in go_mod("tools/crds/go.mod")
    prometheus = f"prometheus-operator v{VERSIONS['go_tools']['prometheus_operator_crds']}"
    assert prometheus in go_mod("tools/crds/go.mod")
    for module in ("crds", "keda"):
        assert f"github.com/kedacore/keda/v2 v{VERSIONS['helm_charts']['keda']}" in go_mod(f"tools/{module}/go.mod")


def test_the_oldest_go_is_the_one_that_the_tools_ask_for() -> None:
    assert re.search(rf"^go {re.escape(VERSIONS['go'])}\.", go_mod("tools/go.mod"), re.MULTILINE)


def test_karpenter_its_crds_and_the_schemas_we_validate_against_are_one_version() -> None:
    charts = VERSIONS["helm_charts"]
    tools = VERSIONS["go_tools"]
    assert charts["karpenter"] == charts["karpenter-crd"] == tools["karpenter_crds"] == tools["karpenter"]


def test_the_local_cluster_is_the_kubernetes_of_the_platform() -> None:
    assert VERSIONS["go_tools"]["kubernetes"].startswith(VERSIONS["kubernetes"] + ".")


def test_oldest_python_is_one_version_everywhere() -> None:
    assert PYPROJECT["project"]["requires-python"] == f">={VERSIONS['python']}"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + VERSIONS["python"].replace(".", "")
    assert PYPROJECT["tool"]["mypy"]["python_version"] == VERSIONS["python"]


@pytest.mark.parametrize("root", ["infra/terraform/platform", "infra/terraform/data"])
def test_terraform_roots_ask_for_those_versions(root: str) -> None:
    text = (REPO_ROOT / root / "versions.tf").read_text()
    assert re.search(rf'required_version\s*=\s*">= {re.escape(VERSIONS["terraform"])}', text)
    assert re.search(rf'version\s*=\s*"~> {re.escape(VERSIONS["terraform_provider_aws"])}', text)


def test_the_node_class_has_the_pinned_ami_by_default() -> None:
    text = (REPO_ROOT / "charts/karpenter-gpu/values.yaml").read_text()
    assert VERSIONS["ami_alias"] in text
    assert yaml.safe_load(text)


@pytest.mark.parametrize("lock", ["requirements.txt", "tools/policy/requirements.txt"])
def test_lock_file_has_a_hash_for_every_package_and_no_host(lock: str) -> None:
    text = (REPO_ROOT / lock).read_text()
    packages = re.findall(r"^[a-z0-9][\w.-]*==", text, re.MULTILINE)
    blocks = re.findall(r"^[a-z0-9][\w.-]*==(?:.*\\\n)+.*sha256:", text, re.MULTILINE)
    assert len(packages) == len(blocks) > 50
    assert "://" not in text
    assert "--index-url" not in text


def test_npm_lock_file_has_a_hash_for_every_package_and_no_host() -> None:
    text = (REPO_ROOT / "tools/policy/package-lock.json").read_text()
    packages = {name: package for name, package in json.loads(text)["packages"].items() if name}
    assert packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert "://" not in text
