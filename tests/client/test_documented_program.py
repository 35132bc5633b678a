"""The Python program in docs/how-to/workflows.md runs as it is written there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from comfyeks.paths import REPO_ROOT
from tests.support.comfyui import RunningServer

PAGES = ("docs/how-to/workflows.md", "docs/zh/how-to/workflows.md")
ADDRESS = "http://comfyui.internal"


@pytest.mark.parametrize("page", PAGES)
def test_the_documented_program_runs_a_workflow_and_saves_its_results(
    stand_in: RunningServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    page: str,
) -> None:
    [program] = re.findall(r"```python\n(.*?)```", (REPO_ROOT / page).read_text(), re.DOTALL)
    assert ADDRESS in program
    (tmp_path / "workflows").symlink_to(REPO_ROOT / "workflows")
    monkeypatch.chdir(tmp_path)
    exec(compile(program.replace(ADDRESS, stand_in.url), page, "exec"), {})
    path, kind, size = capsys.readouterr().out.split()
    assert (tmp_path / path).stat().st_size == int(size)
    assert kind == "images"
