"""The folders of a checkout. Commands write only below STATE and TOOLS, which git ignores."""

from pathlib import Path

MARKER = "versions.yaml"  # at the top of every checkout


def find_checkout(*starts: Path) -> Path | None:
    """The first of these folders that is a checkout, or lies in one."""
    folders = (folder for start in starts for folder in (start, *start.parents))
    return next((folder for folder in folders if (folder / MARKER).is_file()), None)


# An editable install lies in its checkout, an installed wheel uses the one that the command is run in. Without one,
# commands that need no checkout keep their state in the current folder.
REPO_ROOT = find_checkout(Path(__file__).resolve(), Path.cwd()) or Path.cwd()
STATE = REPO_ROOT / ".comfyeks"
TOOLS = REPO_ROOT / ".tools"
