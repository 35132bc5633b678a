#!/usr/bin/env python3
"""Set a checkout up: `make setup`. Standard library only, because it runs before anything is installed.

Makes .venv (every Python dependency, by hash) and .tools/bin/helm (only when PATH has no helm). Skips what is up to
date, so a second run takes well under a second. Written for any Python 3.6+, so that an old one gets a sentence, not a
SyntaxError.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".comfyeks-stamp"
HELM = ROOT / ".tools" / "bin" / "helm"
LOCK = ROOT / "requirements.txt"


def pin(key):
    """A top-level scalar of versions.yaml (no YAML reader is installed yet)."""
    match = re.search(r'^%s: *"?([0-9.]+)' % re.escape(key), (ROOT / "versions.yaml").read_text(), re.MULTILINE)
    return match.group(1)


def older(found, needed):
    def number(text):
        return [int(part) for part in text.split(".")[:2]]

    return number(found) < number(needed)


def terraform_version():
    path = shutil.which("terraform")
    if path is None:
        return None
    answer = subprocess.run([path, "version", "-json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        return json.loads(answer.stdout.decode())["terraform_version"]
    except (ValueError, KeyError):
        return "0.0"


def missing():
    """Every prerequisite that is not met, one line each with the way to get it."""
    problems = []
    python, terraform = pin("python"), pin("terraform")
    running = "%d.%d" % sys.version_info[:2]
    if older(running, python):
        problems.append(
            "Python %s or newer (this is %s): python.org/downloads or your package manager; "
            "then `make setup PYTHON=python3.12`" % (python, running)
        )
    found = terraform_version()
    if found is None or older(found, terraform):
        problems.append(
            "Terraform %s or newer (%s): developer.hashicorp.com/terraform/install"
            % (terraform, "found " + found if found else "not on PATH")
        )
    if not (HELM.exists() or shutil.which("helm") or shutil.which("go")):
        problems.append("helm 3.18 or newer, or Go 1.24 or newer to build it: helm.sh/docs/intro/install or go.dev/dl")
    return problems


def say(message):
    print(message, file=sys.stderr, flush=True)


def run(*command, **options):
    subprocess.run([str(part) for part in command], check=True, **options)


def uv_requirement():
    """uv's own block of the lock file, so that pip installs it by hash too."""
    return re.search(r"^uv==(?:.*\\\n)+.*\n", LOCK.read_text(), re.MULTILINE).group(0)


def python_environment():
    wanted = hashlib.sha256(
        LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes() + sys.version.encode() + str(ROOT).encode()
    ).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    start = time.monotonic()
    say("setup: installing the Python dependencies into .venv ...")
    python = VENV / "bin" / "python"
    if not python.exists():
        venv.create(str(VENV), with_pip=True)
    uv_only = VENV / "uv.txt"
    uv_only.write_text(uv_requirement())
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", uv_only)
    uv = VENV / "bin" / "uv"
    run(uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", LOCK)
    run(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    STAMP.write_text(wanted)
    say("setup: .venv is ready (%.0f s)" % (time.monotonic() - start))


def helm():
    if shutil.which("helm") or HELM.exists():
        return
    start = time.monotonic()
    say("setup: no helm on PATH, building it with Go into .tools/bin (once, about two minutes) ...")
    HELM.parent.mkdir(parents=True, exist_ok=True)
    partial = HELM.with_suffix(".partial")
    run(
        "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", partial, "helm.sh/helm/v4/cmd/helm",
        cwd=str(ROOT / "tools"),
        env=dict(os.environ, CGO_ENABLED="0"),
    )  # fmt: skip
    partial.rename(HELM)
    say("setup: helm is ready (%.0f s)" % (time.monotonic() - start))


def main():
    problems = missing()
    if problems:
        say("This machine lacks what the project needs:")
        for problem in problems:
            say("  - " + problem)
        return 2
    try:
        python_environment()
        helm()
    except subprocess.CalledProcessError as error:
        say(
            "setup: `%s` failed with exit code %d; run `make setup` again"
            % (" ".join(map(str, error.cmd)), error.returncode)
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
