#!/usr/bin/env python3
"""Sets up a checkout. Uses only the standard library, because it runs before anything is installed.

`make setup` creates .venv with every Python dependency, pinned by hash, for the product and the local AWS. `make
install`, which the commands for a real deployment call, installs only what the product needs: no emulators and no
developers' tools. Both build .tools/bin/helm when PATH has no helm. What is up to date is skipped, so that a second run
takes well under a second. Runs on Python 3.6 or newer, so that an old one gets a message and not a SyntaxError.
"""

import hashlib
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
STAMP = VENV / ".comfyeks-stamp"  # contains "setup <hash>" or "install <hash>", with the hash of what is installed
HELM = ROOT / ".tools" / "bin" / "helm"
LOCK = ROOT / "requirements.txt"
PROJECTS = (ROOT, ROOT / "local")


def pin(key):
    """A top-level value of versions.yaml (no YAML parser is installed yet)."""
    match = re.search(r'^%s: *"?([0-9.]+)' % re.escape(key), (ROOT / "versions.yaml").read_text(), re.MULTILINE)
    return match.group(1)


def older(found, needed):
    def number(text):
        return [int(part) for part in text.split(".")[:2]]

    return number(found) < number(needed)


def version(tool, *arguments):
    """The version that a tool on PATH prints; None when there is no such tool."""
    path = shutil.which(tool)
    if path is None:
        return None
    answer = subprocess.run([path, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    match = re.search(r"\d+\.\d+(\.\d+)?", answer.stdout.decode())
    return match.group(0) if match else "0.0"


def lacks(name, found, needed):
    """A message about a tool that is missing or too old, else None."""
    if found is None:
        return "%s %s or newer (not on PATH)" % (name, needed)
    if older(found, needed):
        return "%s %s or newer (found %s)" % (name, needed, found)
    return None


def missing():
    """The prerequisites that are not met, one line each, with where to get them."""
    problems = []
    python = lacks("Python", "%d.%d" % sys.version_info[:2], pin("python"))
    if python:
        problems.append(python + ": python.org/downloads or your package manager; then `make setup PYTHON=python3.12`")
    terraform = lacks("Terraform", version("terraform", "version", "-json"), pin("terraform"))
    if terraform:
        problems.append(terraform + ": developer.hashicorp.com/terraform/install")
    helm = None if HELM.exists() else lacks("helm", version("helm", "version", "--short"), pin("helm"))
    go = lacks("Go", version("go", "version"), pin("go"))
    if helm and go:
        problems.append("%s, or %s to build it: helm.sh/docs/intro/install or go.dev/dl" % (helm, go))
    return problems


def say(message):
    print(message, file=sys.stderr, flush=True)


def run(*command, **options):
    subprocess.run([str(part) for part in command], check=True, **options)


def uv_requirement():
    """The lines of the lock file about uv, so that pip installs uv by hash too."""
    return re.search(r"^uv==(?:.*\\\n)+.*\n", LOCK.read_text(), re.MULTILINE).group(0)


def installed():
    """(kind, hash) of what .venv contains."""
    kind, _, content = STAMP.read_text().partition(" ") if STAMP.exists() else ("", "", "")
    return kind, content


def python_environment(kind):
    """Bring .venv up to date. `install` keeps a developer's environment, which has everything an operator needs."""
    content = hashlib.sha256(
        LOCK.read_bytes()
        + b"".join((project / "pyproject.toml").read_bytes() for project in PROJECTS)
        + sys.version.encode()
        + str(ROOT).encode()
    ).hexdigest()
    has, had = installed()
    if has == "setup":
        kind = "setup"
    if (has, had) == (kind, content):
        return
    start = time.monotonic()
    say("%s: installing the Python dependencies into .venv ..." % kind)
    python = VENV / "bin" / "python"
    if not python.exists():
        venv.create(str(VENV), with_pip=True)
    uv_only = VENV / "uv.txt"
    uv_only.write_text(uv_requirement())
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", uv_only)
    uv = [VENV / "bin" / "uv", "pip"]
    target = ["--quiet", "--python", python]
    if kind == "setup":
        run(*uv, "sync", *target, "--require-hashes", LOCK)
        editable = [argument for project in PROJECTS for argument in ("--editable", project)]
        run(*uv, "install", *target, "--no-deps", "--no-build-isolation", *editable)
    else:
        run(*uv, "install", *target, "--constraints", LOCK, "--build-constraints", LOCK, "--editable", ROOT)
    STAMP.write_text("%s %s" % (kind, content))
    say("%s: .venv is ready (%.0f s)" % (kind, time.monotonic() - start))


def helm():
    if HELM.exists() or not lacks("helm", version("helm", "version", "--short"), pin("helm")):
        return
    start = time.monotonic()
    say("setup: PATH has no recent helm; building it with Go in .tools/bin (once, about two minutes) ...")
    HELM.parent.mkdir(parents=True, exist_ok=True)
    partial = HELM.with_suffix(".partial")
    run(
        "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", partial, "helm.sh/helm/v4/cmd/helm",
        cwd=str(ROOT / "tools"),
        env=dict(os.environ, CGO_ENABLED="0"),
    )  # fmt: skip
    partial.rename(HELM)
    say("setup: helm is ready (%.0f s)" % (time.monotonic() - start))


def main(arguments):
    kind = "install" if arguments == ["--only-product"] else "setup"
    problems = missing()
    if problems:
        say("This machine does not have what the project needs:")
        for problem in problems:
            say("  - " + problem)
        return 2
    try:
        python_environment(kind)
        helm()
    except subprocess.CalledProcessError as error:
        say(
            "%s: `%s` failed with exit code %d; run `make %s` again"
            % (kind, " ".join(map(str, error.cmd)), error.returncode, kind)
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
