"""What the documents say exists, exists."""

import re
import subprocess
from pathlib import Path

import pytest
import typer

from comfyeks.cli import app
from comfyeks.dev import reference
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
    targets = set(re.findall(r"^([a-z0-9-]+):", (REPO_ROOT / "Makefile").read_text(), re.MULTILINE))
    # In code only: in prose, "make" is a verb.
    code = [block for text in TEXT.values() for block in re.findall(r"```sh\n.*?```|`make [^`]+`", text, re.DOTALL)]
    named = {target for block in code for target in re.findall(r"\bmake ([a-z][a-z0-9-]*)", block)}
    assert {"demo", "test", "setup", "infra", "addons"} <= named
    assert named <= targets


ALL_COMMANDS = dict(reference.every(typer.main.get_command(app)))


@pytest.mark.parametrize("names", sorted(ALL_COMMANDS), ids=" ".join)
def test_every_command_has_a_help_text(names: tuple[str, ...]) -> None:
    assert ALL_COMMANDS[names].help, f"comfyeks {' '.join(names)} has no help"


def test_every_command_that_a_document_shows_exists() -> None:
    code = "\n".join(block for text in TEXT.values() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    shown = [tuple(line.split()) for line in re.findall(r"comfyeks ([a-z][a-z -]*[a-z])", code)]
    assert shown
    for names in shown:
        assert any(names[: len(known)] == known for known in ALL_COMMANDS), f"comfyeks {' '.join(names)}"


SHELL = re.compile(r"```(?:sh|console)\n(.*?)```", re.DOTALL)


def shown_lines() -> list[tuple[Path, str]]:
    """Every command line of every document, continued lines joined, comments and prompts removed."""
    lines = []
    for path, text in TEXT.items():
        for block in SHELL.findall(text):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"(^|\s)#\s.*", "", line.removeprefix("$ ")).strip()
                lines += [(path, command)] if command else []
    assert lines
    return lines


def test_every_option_that_a_document_shows_exists() -> None:
    checked = 0
    for path, line in shown_lines():
        for part in re.findall(r"(?:^|[ /\"(;])comfyeks ([a-z][^|;)]*)", line):
            arguments = part.split()
            known = next(known for n in range(len(arguments), 0, -1) if (known := tuple(arguments[:n])) in ALL_COMMANDS)
            options = {name for parameter in ALL_COMMANDS[known].params for name in
                       (*parameter.opts, *parameter.secondary_opts)}  # fmt: skip
            for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", " ".join(arguments[len(known) :])):
                assert option in options | {"-h"}, f"{path.name}: comfyeks {' '.join(known)} has no {option}"
                checked += 1
    assert checked > 20


def test_every_file_of_this_project_that_a_command_names_exists() -> None:
    named = {
        word
        for _, line in shown_lines()
        for word in re.findall(
            r"(?<![\w./-])((?:charts|workflows|image|infra|scripts|tests|benchmarks)/[\w./-]+)", line
        )
    }
    assert named
    assert [word for word in sorted(named) if not (REPO_ROOT / word).exists()] == []


def headings(path: Path) -> list[int]:
    """The levels of a document's headings, in order."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    return [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]


ENGLISH, CHINESE = REPO_ROOT / "docs", REPO_ROOT / "docs" / "zh"
# Reference is made from code; decisions, style and releasing are for those who change the project: English only, as
# README.md of docs/zh says. A new page or folder of documents is translated unless it is put here.
ENGLISH_ONLY = {"reference", "decisions", "releasing.md", "style.md"}
TRANSLATED = sorted(
    path.relative_to(ENGLISH)
    for path in DOCUMENTS
    if path.is_relative_to(ENGLISH) and path.relative_to(ENGLISH).parts[0] not in ENGLISH_ONLY | {CHINESE.name}
)


def facts(path: Path) -> dict[str, set[str]]:
    """The facts in a document's prose: link targets, code and figures."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    leads = {
        link if "://" in link else str((path.parent / link).resolve()) for link in re.findall(r"\]\((\S+?)\)", text)
    }
    prose = re.sub(r"`[^`]*`|\]\(\S+?\)", " ", text)
    return {
        "links": {link.replace(f"{CHINESE}/", f"{ENGLISH}/").split("#")[0] for link in leads},
        # What stands for a value is translated; a line may end anywhere.
        "code": {" ".join(re.sub(r"<[^>]*>", "<>", code).split()) for code in re.findall(r"`([^`]+)`", text)},
        "figures": set(re.findall(r"\d+(?:[.,]\d+)*", prose)),
    }


@pytest.mark.parametrize("document", TRANSLATED, ids=str)
def test_the_chinese_document_has_the_same_headings_and_commands(document: Path) -> None:
    english, chinese = ENGLISH / document, CHINESE / document
    assert chinese.exists(), f"docs/zh/{document} is missing"
    assert headings(chinese) == headings(english)
    code = re.compile(r"```\w*\n.*?```", re.DOTALL)

    def commands_of(path: Path) -> list[str]:
        """Comments are translated, commands are not."""
        return [re.sub(r"[ ]*#.*", "", block) for block in code.findall(path.read_text()) if "mermaid" not in block]

    assert commands_of(chinese) == commands_of(english)


@pytest.mark.parametrize("document", TRANSLATED, ids=str)
def test_the_chinese_document_states_the_same_facts(document: Path) -> None:
    assert facts(CHINESE / document) == facts(ENGLISH / document)


def test_every_chinese_document_has_an_english_one() -> None:
    assert sorted(path.relative_to(CHINESE) for path in CHINESE.rglob("*.md")) == TRANSLATED


def test_every_top_folder_has_a_readme_and_is_named_in_the_first_one() -> None:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listing, cwd=REPO_ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    folders = {Path(file).parts[0] for file in files if len(Path(file).parts) > 1 and not file.startswith(".")}
    assert [folder for folder in sorted(folders) if REPO_ROOT / folder / "README.md" not in TEXT] == []
    assert [folder for folder in sorted(folders) if f"]({folder}" not in TEXT[REPO_ROOT / "README.md"]] == []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert re.search(r"^make test\b.*every test", TEXT[REPO_ROOT / "README.md"], re.MULTILINE)
    assert (REPO_ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")
