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


def patterns() -> list[tuple[str, re.Pattern[str]]]:
    """(which file, what is looked for) of each custom manager; Python writes a named group in another way."""
    return [
        (pattern.strip("/"), re.compile(text.replace("(?<", "(?P<")))
        for manager in CONFIG["customManagers"]
        for pattern in manager["managerFilePatterns"]
        for text in manager["matchStrings"]
    ]


def found_in(file: str) -> dict[str, set[str]]:
    """Name → versions that custom managers find in a file."""
    text = (REPO_ROOT / file).read_text()
    found: dict[str, set[str]] = {}
    for pattern, looked_for in patterns():
        if re.fullmatch(pattern, file):
            for match in looked_for.finditer(text):
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


def test_each_pattern_finds_something_and_no_version_is_found_twice() -> None:
    seen: list[tuple[str, int]] = []
    for pattern, looked_for in patterns():
        file = {"^versions\\.yaml$": "versions.yaml", "^image/Dockerfile$": "image/Dockerfile"}[pattern]
        matches = [(file, match.start("currentValue")) for match in looked_for.finditer((REPO_ROOT / file).read_text())]
        assert matches, looked_for.pattern
        seen += matches
    assert len(seen) == len(set(seen))


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
