"""What the documents say exists, exists."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from comfyeks.cli import app
from comfyeks.paths import REPO_ROOT

DOCUMENTS = [
    REPO_ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=REPO_ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()
    if (REPO_ROOT / line).is_file()
]  # fmt: skip
TEXT = {path: path.read_text() for path in DOCUMENTS}


def links() -> list[tuple[Path, str]]:
    found = [(path, link) for path, text in TEXT.items() for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    assert found
    return found


@pytest.mark.parametrize(("document", "link"), links(), ids=lambda value: str(value).replace(str(REPO_ROOT), ""))
def test_a_relative_link_leads_somewhere(document: Path, link: str) -> None:
    if "://" not in link and not link.startswith("#"):
        assert (document.parent / link.split("#")[0]).exists()


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO_ROOT / "Makefile").read_text(), re.MULTILINE))
    # In code only: in prose, "make" is a verb.
    code = [block for text in TEXT.values() for block in re.findall(r"```sh\n.*?```|`make [^`]+`", text, re.DOTALL)]
    named = {target for block in code for target in re.findall(r"\bmake ([a-z-]+)", block)}
    assert {"demo", "test", "setup", "infra", "addons"} <= named
    assert named <= targets


def commands(group: Any, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command by its words; Typer's groups list their commands, commands have none."""
    if not hasattr(group, "list_commands"):
        return {words: group}
    found: dict[tuple[str, ...], Any] = {}
    for name in group.list_commands(None):
        found |= commands(group.get_command(None, name), (*words, name))
    return found


ALL_COMMANDS = commands(typer.main.get_command(app))


@pytest.mark.parametrize("words", sorted(ALL_COMMANDS), ids=" ".join)
def test_every_command_says_what_it_does(words: tuple[str, ...]) -> None:
    assert ALL_COMMANDS[words].help, f"comfyeks {' '.join(words)} has no help"


def test_every_command_that_a_document_shows_exists() -> None:
    code = "\n".join(block for text in TEXT.values() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    shown = [tuple(line.split()) for line in re.findall(r"comfyeks ([a-z][a-z -]*[a-z])", code)]
    assert shown
    for words in shown:
        assert any(words[: len(known)] == known for known in ALL_COMMANDS), f"comfyeks {' '.join(words)}"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert re.search(r"^make test\b.*every test", TEXT[REPO_ROOT / "README.md"], re.MULTILINE)
    assert (REPO_ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")
