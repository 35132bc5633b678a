"""renovate.json finds every version of versions.yaml, but for those that docs/releasing.md leaves to a person."""

import json
import re
from typing import Any

import pytest
import yaml

from comfyeks.paths import REPO_ROOT
from comfyeks.versions import VERSIONS

CONFIG: dict[str, Any] = json.loads((REPO_ROOT / "renovate.json").read_text())
# Sections, and entries of other sections, that a person raises.
BY_HAND = {"python", "terraform", "helm", "go", "kubernetes", "ami_alias", "node_group_release", "eks_addons"}
BY_HAND |= {"addons", "codebuild_image"}  # "addons" is the earlier name of eks_addons
BY_HAND_IN = {"image": {"comfyui", "comfyui_commit", "torch", "nvidia_driver"}}
# Found by its own manager where it is used: infra/.
ELSEWHERE = {"terraform_provider_aws": "terraform"}


def matches(manager: dict[str, Any], text: str) -> list[re.Match[str]]:
    """What a custom manager finds; with the strategy `recursive`, each pattern looks into what the one before found."""
    *outer, inner = (re.compile(pattern.replace("(?<", "(?P<")) for pattern in manager["matchStrings"])
    assert bool(outer) == (manager.get("matchStringsStrategy") == "recursive")
    found = [(0, len(text))]
    for looked_for in outer:
        found = [match.span() for start, end in found for match in looked_for.finditer(text, start, end)]
    return [match for start, end in found for match in inner.finditer(text, start, end)]


def managers_of(file: str) -> list[dict[str, Any]]:
    return [
        manager
        for manager in CONFIG["customManagers"]
        if any(re.fullmatch(pattern.strip("/"), file) for pattern in manager["managerFilePatterns"])
    ]


def found_in(file: str) -> dict[str, set[str]]:
    """Name → versions that custom managers find in a file."""
    text = (REPO_ROOT / file).read_text()
    found: dict[str, set[str]] = {}
    for manager in managers_of(file):
        for match in matches(manager, text):
            found.setdefault(match.groupdict().get("depName", ""), set()).add(match["currentValue"])
    return found


def wanted() -> list[tuple[str, str, str]]:
    """(section, name, version) of every version in versions.yaml that an update is proposed for."""
    return [
        (section, name, str(version))
        for section, entries in VERSIONS.items()
        if section not in BY_HAND | set(ELSEWHERE)
        for name, version in entries.items()
        if name not in BY_HAND_IN.get(section, set())
    ]


@pytest.mark.parametrize(("section", "name", "version"), wanted(), ids=str)
def test_an_update_is_proposed_for_every_version(section: str, name: str, version: str) -> None:
    if (section, name) == ("image", "base"):
        name, _, rest = version.partition(":")
        version = rest.partition("@")[0]
    assert version in found_in("versions.yaml").get(name, set()), f"no custom manager finds {section}.{name}"


def test_the_base_image_is_found_in_both_files() -> None:
    [tag] = found_in("image/Dockerfile")[""]
    assert found_in("versions.yaml")["python"] == {tag}


def test_each_manager_finds_something_and_no_version_is_found_twice() -> None:
    seen: list[tuple[str, int]] = []
    for file in ("versions.yaml", "image/Dockerfile"):
        text = (REPO_ROOT / file).read_text()
        for manager in managers_of(file):
            found = matches(manager, text)
            assert found, manager["matchStrings"]
            seen += [(file, match.start("currentValue")) for match in found]
    assert len(seen) == len(set(seen))
    assert len(CONFIG["customManagers"]) == len(managers_of("versions.yaml")) + len(managers_of("image/Dockerfile"))


def test_every_kind_of_dependency_file_has_its_manager() -> None:
    assert set(ELSEWHERE.values()) <= set(CONFIG["enabledManagers"])
    files = {
        "pyproject.toml": "pep621",
        "tools/policy/requirements.in": "pip_requirements",
        "tools/policy/package.json": "npm",
        "tools/go.mod": "gomod",
        ".github/workflows/ci.yaml": "github-actions",
    }
    for file, manager in files.items():
        assert (REPO_ROOT / file).exists()
        assert manager in CONFIG["enabledManagers"]


def test_the_workflow_runs_what_any_ci_runs_with_pinned_actions() -> None:
    workflow = yaml.safe_load((REPO_ROOT / ".github/workflows/ci.yaml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step][-1] == ".ci/run"
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in steps if "uses" in step)
    assert workflow["permissions"] == {"contents": "read"}
