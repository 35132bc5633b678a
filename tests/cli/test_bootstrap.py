"""`make setup` names everything that is missing at once, with where to get it, and changes nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from comfyeks.paths import REPO_ROOT

BOOTSTRAP = REPO_ROOT / "scripts" / "bootstrap.py"


@pytest.fixture
def bare_checkout(tmp_path: Path) -> Path:
    """A checkout without .venv and .tools, as after `git clone`."""
    for name in ("scripts/bootstrap.py", "versions.yaml", "requirements.txt", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((REPO_ROOT / name).read_bytes())
    return tmp_path


def run(checkout: Path, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(checkout / "scripts/bootstrap.py")],
        env={**os.environ, "PATH": path}, capture_output=True, text=True,
    )  # fmt: skip


def fake(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_everything_missing_is_named_at_once(bare_checkout: Path, tmp_path: Path) -> None:
    answer = run(bare_checkout, str(tmp_path / "empty"))
    assert answer.returncode == 2
    assert "Terraform 1.11 or newer (not on PATH)" in answer.stderr
    assert "helm 3.19 or newer (not on PATH), or Go 1.26 or newer (not on PATH) to build it" in answer.stderr
    assert not (bare_checkout / ".venv").exists()


def test_an_old_terraform_is_named_with_what_was_found(bare_checkout: Path, tmp_path: Path) -> None:
    fake(tmp_path / "bin", "terraform", """echo '{"terraform_version": "1.5.7"}'""")
    answer = run(bare_checkout, str(tmp_path / "bin"))
    assert "Terraform 1.11 or newer (found 1.5.7)" in answer.stderr


def test_a_new_enough_helm_on_the_path_needs_no_go(bare_checkout: Path, tmp_path: Path) -> None:
    fake(tmp_path / "bin", "helm", "echo v3.19.0+gabc")
    assert "Go" not in run(bare_checkout, str(tmp_path / "bin")).stderr


def test_an_old_helm_and_an_old_go_are_both_named(bare_checkout: Path, tmp_path: Path) -> None:
    fake(tmp_path / "bin", "helm", "echo v3.9.4")
    fake(tmp_path / "bin", "go", "echo go version go1.21.3 linux/amd64")
    answer = run(bare_checkout, str(tmp_path / "bin"))
    assert "helm 3.19 or newer (found 3.9.4), or Go 1.26 or newer (found 1.21.3) to build it" in answer.stderr


def test_it_parses_under_the_oldest_python_it_refuses() -> None:
    """An old interpreter must get the sentence, not a SyntaxError."""
    compile(BOOTSTRAP.read_text(), str(BOOTSTRAP), "exec", flags=0)
    source = BOOTSTRAP.read_text()
    assert "f'" not in source
    assert 'f"' not in source
    assert ":=" not in source
