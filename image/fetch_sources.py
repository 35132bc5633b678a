"""Clones the repositories in custom-nodes.lock.yaml, each at its commit: fetch_sources.py LOCK_FILE COMFYUI_FOLDER

Runs during the build of the image. The build fails if a repository does not have the commit, or if a file exists where
a folder is needed. Submodules are included, because their commits are part of the commit; histories are not.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml


def git(*arguments: str, folder: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"fetch_sources: git {' '.join(arguments)} in {folder}: {done.stderr.strip()}")
    return done.stdout.strip()


def fetch(source: dict[str, Any], folder: Path) -> None:
    """One commit of one repository as plain files in a new folder."""
    folder.mkdir(parents=True)
    git("init", "--quiet", folder=folder)
    git("fetch", "--quiet", "--depth=1", source["repository"], source["commit"], folder=folder)
    git("checkout", "--quiet", "FETCH_HEAD", folder=folder)
    # `git fetch` also accepts a branch, which would be another commit tomorrow.
    if (head := git("rev-parse", "HEAD", folder=folder)) != source["commit"]:
        raise SystemExit(f"fetch_sources: {source['repository']} returned {head} for {source['commit']}")
    if (folder / ".gitmodules").exists():
        git("remote", "add", "origin", source["repository"], folder=folder)  # relative submodule URLs start from it
        git("submodule", "update", "--quiet", "--init", "--recursive", "--depth=1", folder=folder)
    for entry in [*folder.rglob(".git")]:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def main(lock_file: Path, root: Path) -> None:
    lock = yaml.safe_load(lock_file.read_text())
    fetch(lock["comfyui"], root)
    for node in lock["nodes"]:
        fetch(node, root / "custom_nodes" / node["name"])
        print(f"fetch_sources: {node['name']} at {node['commit']}", flush=True)
    # Compiled now, because the image is read-only later; with hashes, because copying may change the times. Files that
    # do not compile (templates, syntax of other versions) are ignored.
    compileall.compile_dir(root, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
