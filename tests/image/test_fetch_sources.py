"""fetch_sources: what the build clones, against repositories of this machine behind https addresses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.image.harness import HOST, IMAGE, GitHost


@pytest.fixture
def host(tmp_path: Path) -> GitHost:
    return GitHost(tmp_path / "host")


def fetch(
    tmp_path: Path, host: GitHost, comfyui: dict[str, Any], *nodes: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    lock = tmp_path / "custom-nodes.lock.yaml"
    lock.write_text(yaml.safe_dump({"comfyui": comfyui, "nodes": list(nodes)}))
    return subprocess.run(
        [sys.executable, str(IMAGE / "fetch_sources.py"), str(lock), str(tmp_path / "ComfyUI")],
        env={**os.environ, **host.environment()}, capture_output=True, text=True,
    )  # fmt: skip


def entry(name: str, commit: str) -> dict[str, str]:
    return {"name": name, "repository": HOST + name, "commit": commit}


def test_each_source_is_there_at_its_commit_and_not_at_a_newer_one(tmp_path: Path, host: GitHost) -> None:
    comfyui = host.commit("comfyui", {"main.py": "print(1)\n"})
    node = host.commit("demo", {"__init__.py": "old = True\n"})
    host.commit("demo", {"__init__.py": "old = False\n"})
    done = fetch(tmp_path, host, entry("comfyui", comfyui), entry("demo", node))
    assert done.returncode == 0, done.stderr
    root = tmp_path / "ComfyUI"
    assert (root / "main.py").read_text() == "print(1)\n"
    assert (root / "custom_nodes" / "demo" / "__init__.py").read_text() == "old = True\n"
    assert f"demo at {node}" in done.stdout


def test_histories_stay_behind_and_submodules_come_along(tmp_path: Path, host: GitHost) -> None:
    host.commit("library", {"library.py": "x = 1\n"})
    node = host.commit("demo", {"__init__.py": ""}, submodule="library")
    done = fetch(tmp_path, host, entry("comfyui", host.commit("comfyui", {"main.py": ""})), entry("demo", node))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ComfyUI/custom_nodes/demo/vendored/library.py").exists()
    assert [*(tmp_path / "ComfyUI").rglob(".git")] == []


def test_sources_are_compiled_and_what_does_not_compile_is_left(tmp_path: Path, host: GitHost) -> None:
    comfyui = host.commit("comfyui", {"main.py": "", "template.py": "{% not python %}\n"})
    done = fetch(tmp_path, host, entry("comfyui", comfyui))
    assert (done.returncode, done.stderr) == (0, "")
    compiled = [path.name.split(".")[0] for path in (tmp_path / "ComfyUI/__pycache__").iterdir()]
    assert compiled == ["main"]


def test_a_missing_commit_ends_the_build_and_is_named(tmp_path: Path, host: GitHost) -> None:
    host.commit("comfyui", {"main.py": ""})
    done = fetch(tmp_path, host, entry("comfyui", "0" * 40))
    assert done.returncode == 1
    assert "0" * 40 in done.stderr


def test_a_branch_in_the_place_of_a_commit_ends_the_build(tmp_path: Path, host: GitHost) -> None:
    commit = host.commit("comfyui", {"main.py": ""})
    done = fetch(tmp_path, host, entry("comfyui", "main"))
    assert done.returncode == 1
    assert f"returned {commit} for main" in done.stderr


def test_a_branch_named_like_a_commit_is_not_one(tmp_path: Path, host: GitHost) -> None:
    name = "1" * 40
    host.commit("comfyui", {"main.py": ""})
    subprocess.run(["git", "update-ref", f"refs/heads/{name}", "HEAD"], cwd=host.folder / "comfyui", check=True)
    done = fetch(tmp_path, host, entry("comfyui", name))
    assert done.returncode == 1
    assert name in done.stderr
