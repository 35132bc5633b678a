"""Custom nodes of the image: image/custom-nodes.lock.yaml and the Python lock files that follow from it.

A node is a git repository at one commit. What it and ComfyUI ask for is recorded in the lock file and resolved
together, by uv, for the image's Python and platform, so that two nodes that cannot live in one image are found here and
not while an image is built, let alone while it runs. A command that fails has changed nothing.

git and uv find their hosts, proxies and credentials as always: from their own configuration and environment.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
import uv
import yaml

from comfyeks.console import note, out
from comfyeks.errors import OperationError, UserError
from comfyeks.files import write_atomically
from comfyeks.paths import REPO_ROOT

IMAGE = REPO_ROOT / "image"
COMFYUI = "comfyui"  # ComfyUI's own entry; no node may have this name
PYTHON = "3.12"  # the image's
PLATFORM = "x86_64-manylinux_2_40"  # glibc of the image's Debian is 2.41
# Brought by torch with CUDA alone; the CPU image is without.
_GPU_ONLY = re.compile(r"(nvidia|cuda)-.*|triton")
_TORCH = ("torch", "torchvision", "torchaudio")  # whose CPU wheels are other files, with other hashes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"https://[^\s/@]+/[^\s@]+")
_HEADER = """\
# What is cloned into the image: ComfyUI and its custom nodes, each at one commit, with the Python packages it asks for.
# Written by `comfyeks custom-nodes add|update|remove`; docs/image.md. requirements/comfyui*.lock follow from it.
"""


@dataclass(frozen=True)
class Source:
    """A repository at a commit; `ref` is the branch, tag or commit that `update` follows."""

    name: str
    repository: str
    ref: str
    commit: str
    requirements: tuple[str, ...]

    def __str__(self) -> str:
        return f"ComfyUI {self.ref}" if self.name == COMFYUI else self.name


@dataclass(frozen=True)
class Lock:
    """custom-nodes.lock.yaml. `build_from_source`: packages without wheels that may be built all the same.
    `packages_until`: only releases up to that day (YYYY-MM-DD), so that the same input resolves to the same output."""

    comfyui: Source
    nodes: tuple[Source, ...]
    build_from_source: tuple[str, ...]
    packages_until: str | None

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.comfyui, *self.nodes)

    def find(self, name: str) -> Source:
        for source in self.sources:
            if source.name.lower() == name.lower():
                return source
        known = ", ".join(source.name for source in self.sources)
        raise UserError(f"there is no node {name!r} in {_shown(lock_file())}: it has {known}")

    def with_source(self, source: Source) -> Lock:
        """The lock with this source in place of its namesake, else added."""
        if source.name == COMFYUI:
            return replace(self, comfyui=source)
        others = {node.name: node for node in self.nodes} | {source.name: source}
        return replace(self, nodes=tuple(others.values()))


def lock_file() -> Path:
    return IMAGE / "custom-nodes.lock.yaml"


def requirements_file(name: str) -> Path:
    return IMAGE / "requirements" / name


def _shown(path: Path) -> str:
    return str(path.relative_to(REPO_ROOT)) if path.is_relative_to(REPO_ROOT) else str(path)


# -- the lock file ----------------------------------------------------------------------------------------------------


def load(path: Path | None = None) -> Lock:
    """The lock file, checked. Raises UserError naming the entry that is wrong."""
    path = path or lock_file()
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{_shown(path)} is not there") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise UserError(f"{_shown(path)} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or set(data) - {"comfyui", "nodes", "build_from_source", "packages_until"}:
        raise UserError(f"{_shown(path)} has the keys comfyui, nodes, build_from_source, packages_until and no others")
    if not isinstance(data.get("nodes"), list):
        raise UserError(f"{_shown(path)}: nodes is {data.get('nodes')!r}, not a list ([] for none)")
    comfyui = data.get("comfyui")
    lock = Lock(
        comfyui=_source(
            {"name": COMFYUI, **comfyui} if isinstance(comfyui, dict) else comfyui, f"{_shown(path)}: comfyui"
        ),
        nodes=tuple(_source(node, f"{_shown(path)}: nodes[{i}]") for i, node in enumerate(data["nodes"])),
        build_from_source=tuple(map(str, data.get("build_from_source") or ())),
        packages_until=_day(str(data["packages_until"])) if data.get("packages_until") else None,
    )
    names = [source.name.lower() for source in lock.sources]
    for source in lock.nodes:
        if names.count(source.name.lower()) > 1:
            raise UserError(f"{_shown(path)}: the name {source.name!r} is taken twice: folders on any disk must differ")
    return lock


def _source(data: Any, where: str) -> Source:
    keys = ("name", "repository", "ref", "commit", "requirements")
    if not isinstance(data, dict) or set(data) != set(keys):
        raise UserError(f"{where} must have exactly {', '.join(keys[1:])} (and, for a node, name)")
    requirements = data["requirements"]
    if not isinstance(requirements, list) or not all(isinstance(line, str) for line in requirements):
        raise UserError(f"{where}.requirements is {requirements!r}, not a list of texts")
    name, repository, ref, commit = (str(data[key]) for key in keys[:4])
    source = Source(name, repository, ref, commit, tuple(requirements))
    for key, pattern, wanted in (
        ("name", _NAME, "letters, digits, dots, dashes and underscores"),
        ("repository", _REPOSITORY, "an https:// address without credentials"),
        ("commit", _COMMIT, "40 hexadecimal digits"),
    ):
        if not pattern.fullmatch(getattr(source, key)):
            raise UserError(f"{where}.{key} is {getattr(source, key)!r}, not {wanted}")
    _check_requirements(source)
    return source


def _check_requirements(source: Source) -> None:
    for line in source.requirements:
        if line.startswith("-") or "://" in line or re.search(r"\s@\s", line):
            raise UserError(
                f"{source} asks for {line!r}, which is no package of the index and cannot be locked: "
                "take another commit of it (--ref), or a fork that asks for a released package"
            )


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise UserError(f"packages_until is {text!r}, not a day as 2026-10-31") from None


def dump(lock: Lock) -> str:
    def entry(source: Source) -> dict[str, Any]:
        fields = {"repository": source.repository, "ref": source.ref, "commit": source.commit}
        name = {} if source.name == COMFYUI else {"name": source.name}
        return {**name, **fields, "requirements": list(source.requirements)}

    data = {
        "comfyui": entry(lock.comfyui),
        "nodes": [entry(node) for node in lock.nodes],
        "build_from_source": list(lock.build_from_source),
        "packages_until": lock.packages_until,
    }
    return _HEADER + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=150)


# -- repositories -----------------------------------------------------------------------------------------------------


def _git(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    # A repository that does not exist looks like a private one, for which git would ask a name and password.
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        return subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UserError("git is not on PATH: git-scm.com/downloads") from None


def newest(repository: str, ref: str | None) -> tuple[str, str]:
    """The ref to follow and its commit now: of a branch, a tag, a commit, or (None) the default branch.

    Raises UserError if the repository has no such ref, OperationError if it does not answer.
    """
    if ref and _COMMIT.fullmatch(ref):
        return ref, ref
    wanted = [f"refs/tags/{ref}", f"refs/tags/{ref}^{{}}", f"refs/heads/{ref}"] if ref else ["HEAD"]
    answer = _git("ls-remote", "--symref", "--", repository, *wanted)
    if answer.returncode != 0:
        raise OperationError(f"{repository} does not answer as a git repository: {' '.join(answer.stderr.split())}")
    lines = [line.split("\t") for line in answer.stdout.splitlines()]
    found = {name: value for value, name in lines if not value.startswith("ref: ")}
    if ref is None:
        branches = [value.removeprefix("ref: refs/heads/") for value, _ in lines if value.startswith("ref: ")]
        if not branches:
            raise UserError(f"{repository} has no default branch: name a branch, tag or commit with --ref")
        return branches[0], found["HEAD"]
    # An annotated tag has a commit behind it; a tag is meant before a branch of the same name.
    for name in (f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}"):
        if name in found:
            return ref, found[name]
    raise UserError(f"{repository} has no branch or tag {ref!r}; a commit is given with all its 40 digits")


def read_source(name: str, repository: str, ref: str, commit: str) -> Source:
    """That commit with what it asks for: its requirements.txt, else the dependencies of its pyproject.toml."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        _git("init", "--quiet", "--bare", folder=here)
        fetched = _git("fetch", "--quiet", "--depth=1", "--", repository, commit, folder=here)
        if fetched.returncode != 0:
            raise OperationError(f"{repository} does not give commit {commit}: {' '.join(fetched.stderr.split())}")
        files = _git("ls-tree", "--name-only", "FETCH_HEAD", folder=here).stdout.split("\n")
        requirements: tuple[str, ...] = ()
        if "requirements.txt" in files:
            requirements = parse_requirements(_git("show", "FETCH_HEAD:requirements.txt", folder=here).stdout)
        elif "pyproject.toml" in files:
            project = tomllib.loads(_git("show", "FETCH_HEAD:pyproject.toml", folder=here).stdout).get("project", {})
            requirements = tuple(map(str, project.get("dependencies", ())))
        if name != COMFYUI and "__init__.py" not in files:
            raise UserError(f"{repository} at {commit} has no __init__.py: ComfyUI would not load it as a custom node")
        if "install.py" in files:
            note(f"{name} has an install.py, which the image does not run: see there what it would do")
    source = Source(name, repository, ref, commit, requirements)
    _check_requirements(source)
    return source


def parse_requirements(text: str) -> tuple[str, ...]:
    """A requirements file without comments and empty lines, continued lines joined."""
    lines = text.removeprefix("\ufeff").replace("\\\n", " ").splitlines()
    return tuple(line for raw in lines if (line := re.sub(r"(^|\s)#.*", "", raw).strip()))


# -- packages ---------------------------------------------------------------------------------------------------------


class ConflictError(Exception):
    """No set of packages satisfies these sources; the text is uv's explanation."""


def _compile(lock: Lock, sources: Sequence[Source], constraints: str, previous: str) -> str:
    """The resolved packages with hashes, as uv writes them.

    Raises ConflictError, or OperationError if uv could not try.
    """
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "constraints.txt").write_text(constraints)
        (here / "lock").write_text(previous)  # what uv finds there, it keeps where it can
        for source in sources:
            (here / f"{source.name}.in").write_text("".join(f"{line}\n" for line in source.requirements))
        command = [
            uv.find_uv_bin(), "pip", "compile", "--quiet", "--no-progress", "--color=never",
            # Our own interpreter, so that uv looks for no other: it runs nothing, only answers for PYTHON.
            f"--python={sys.executable}", f"--python-version={PYTHON}", f"--python-platform={PLATFORM}",
            "--generate-hashes", "--no-header", "--no-emit-index-url", "--emit-build-options",
            "--annotation-style=line",
            "--only-binary=:all:", *(f"--no-binary={name}" for name in lock.build_from_source),
            *([f"--exclude-newer={lock.packages_until}"] if lock.packages_until else []),
            "--constraints=constraints.txt", "--output-file=lock", *(f"{source.name}.in" for source in sources),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return (here / "lock").read_text()
    if "No solution found" in done.stderr:
        raise ConflictError(done.stderr.strip())
    raise OperationError(f"uv could not resolve the packages:\n{done.stderr.strip()}")


def resolve(lock: Lock, upgrade: bool = False) -> dict[Path, str]:
    """The lock files that follow, path → text; versions that are locked already stay where they can, unless `upgrade`.

    Raises UserError with who is in conflict, about what, and what can be done.
    """
    constraints = requirements_file("constraints.txt").read_text()
    target = requirements_file("comfyui.lock")
    previous = target.read_text() if target.exists() and not upgrade else ""
    try:
        text = _compile(lock, lock.sources, constraints, previous)
    except ConflictError as conflict:
        raise UserError(_explain(lock, constraints, conflict)) from None
    text = f"# Made by `comfyeks custom-nodes` from inputs with sha256 {_fingerprint(lock, constraints)}\n{text}"
    return {target: text, requirements_file("comfyui.cpu.lock"): cpu_lock(text, lock)}


def _fingerprint(lock: Lock, constraints: str) -> str:
    """Of everything that decides the packages; commits do not."""
    asked = sorted((source.name, source.requirements) for source in lock.sources)
    pins = parse_requirements(constraints)
    inputs = repr((asked, pins, lock.build_from_source, lock.packages_until, PYTHON, PLATFORM))
    return hashlib.sha256(inputs.encode()).hexdigest()


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """A lock file's packages as (name, its lines); what precedes the first package has the name ''."""
    for block in re.split(r"^(?=[A-Za-z0-9][\w.-]*==)", text, flags=re.MULTILINE):
        match = re.match(r"([A-Za-z0-9][\w.-]*)==", block)
        yield (match[1] if match else ""), block


def _canonical(requirement: str) -> str:
    """The package that a requirement names, as indexes write it."""
    match = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def cpu_lock(text: str, lock: Lock) -> str:
    """The same packages without CUDA's; those of torch without hashes, because their CPU wheels are other files."""
    asked = {_canonical(line) for source in lock.sources for line in source.requirements}
    kept = []
    for name, block in _blocks(text):
        if _GPU_ONLY.fullmatch(name) and name not in asked:
            continue
        kept.append(re.sub(r" \\\n +--hash=\S+", "", block) if name in _TORCH else block)
    return "".join(kept)


def versions(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][\w.-]*)==([^\s;\\]+)", text, re.MULTILINE))


def _explain(lock: Lock, constraints: str, conflict: ConflictError) -> str:
    """Who cannot live with whom: the smallest set of sources that is still in conflict, and the lines it is about."""

    def clash(sources: Sequence[Source], pins: str) -> ConflictError | None:
        try:
            _compile(lock, sources, pins, "")
        except ConflictError as found:
            return found
        return None

    sources = _smallest(lock.sources, lambda some: clash(some, constraints) is not None)
    conflict = clash(sources, constraints) or conflict
    pinned = clash(sources, "") is None
    about = {_canonical(word) for word in re.findall(r"[A-Za-z0-9][\w.-]*", str(conflict))}
    asked = [(str(source), line) for source in sources for line in source.requirements]
    asked += [(_shown(requirements_file("constraints.txt")), line) for line in parse_requirements(constraints)] * pinned
    lines = [f"  {who}: {line}" for who, line in asked if _canonical(line) in about]
    names = [str(source) for source in sources] + ["the constraints"] * pinned
    first = (
        f"{' and '.join(names)} cannot be in one image"
        if len(names) > 1
        else f"what {names[0]} asks for does not exist"
    )
    return "\n".join(
        [
            f"{first}; nothing was changed.",
            *lines,
            *(f"  {line}" for line in str(conflict).splitlines()),
            "Ways out: another commit of a node (--ref); do without one of them; where uv speaks of wheels, the "
            f"package's name under build_from_source in {_shown(lock_file())}.",
        ]
    )


def _smallest(sources: Sequence[Source], bad: Callable[[Sequence[Source]], bool]) -> list[Source]:
    """A subset that is bad and of which no part is: each source is left out if the rest is bad without it."""
    kept = list(sources)
    for source in reversed(sources):  # the newest is kept last, so an old pair is not blamed on it
        rest = [other for other in kept if other is not source]
        if rest and bad(rest):
            kept = rest
    return kept


def save(lock: Lock, upgrade: bool = False) -> None:
    """Resolve, then write all lock files and say what changed. Raises before anything is written."""
    files = {**resolve(lock, upgrade), lock_file(): dump(lock)}
    target = requirements_file("comfyui.lock")
    before = versions(target.read_text()) if target.exists() else {}
    after = versions(files[target])
    for path, text in files.items():
        write_atomically(path, text)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            out.print(f"{name} {before.get(name, '-')} -> {after.get(name, '-')}", highlight=False)
    note(f"{len(lock.nodes)} nodes, {len(after)} packages; the next image has them")


# -- commands ---------------------------------------------------------------------------------------------------------

app = typer.Typer(
    help="Custom nodes of the image: which, at which commit, with which packages.",
    no_args_is_help=True,
)
Ref = Annotated[str | None, typer.Option(help="Branch, tag or commit (40 digits). Default: what is followed already.")]


@app.command()
def add(
    repository: Annotated[str, typer.Argument(help="https:// address of the node's git repository.")],
    ref: Annotated[
        str | None, typer.Option(help="Branch, tag or commit (40 digits). Default: the default branch.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Its folder in custom_nodes. Default: the repository's name.")
    ] = None,
) -> None:
    """Add a custom node at the newest commit of a branch or tag, if its packages go together with all others."""
    lock = load()
    repository = repository.rstrip("/")
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"{repository!r} is not an https:// address without credentials, which the build could clone")
    name = name or repository.rpartition("/")[2].removesuffix(".git")
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be a folder's name: give letters, digits, dots, dashes with --name")
    for source in lock.sources:
        if name.lower() == source.name.lower():
            raise UserError(f"{source.name} is there already ({source.repository}): update it, or give another --name")
        if repository.removesuffix(".git").lower() == source.repository.removesuffix(".git").lower():
            raise UserError(
                f"{repository} is there already as {source.name}: comfyeks custom-nodes update {source.name}"
            )
    source = read_source(name, repository, *newest(repository, ref))
    save(lock.with_source(source))
    out.print(f"{name} {source.ref} {source.commit}", highlight=False)


@app.command()
def update(
    names: Annotated[list[str] | None, typer.Argument(help=f"Nodes, or {COMFYUI}. Default: all.")] = None,
    ref: Ref = None,
    upgrade: Annotated[bool, typer.Option(help="Move packages too, not only those that must.")] = False,
    packages_until: Annotated[
        str | None, typer.Option(help="Only packages released up to this day, 2026-10-31.")
    ] = None,
) -> None:
    """Move nodes to the newest commit of what they follow, and resolve the packages of all anew."""
    lock = load()
    chosen = [lock.find(name) for name in names] if names else list(lock.sources)
    if ref and len(chosen) != 1:
        raise UserError("--ref is for one node: comfyeks custom-nodes update NAME --ref REF")
    if packages_until:
        lock = replace(lock, packages_until=_day(packages_until))
    for old in chosen:
        new = read_source(old.name, old.repository, *newest(old.repository, ref or old.ref))
        lock = lock.with_source(new)
        if new.commit != old.commit:
            out.print(f"{old.name} {old.commit[:12]} -> {new.ref} {new.commit[:12]}", highlight=False)
            if old.name == COMFYUI:
                note("versions.yaml and COMFYUI_VERSION in image/Dockerfile name ComfyUI's release too")
    save(lock, upgrade)


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Name of the node.")]) -> None:
    """Remove a custom node, and the packages that only it asked for."""
    lock = load()
    node = lock.find(name)
    if node == lock.comfyui:
        raise UserError("ComfyUI itself cannot be removed from its image")
    save(replace(lock, nodes=tuple(other for other in lock.nodes if other != node)))


@app.command()
def check(
    remote: Annotated[bool, typer.Option(help="Ask the repositories and the package index too.")] = False,
) -> None:
    """Is every lock file the one that follows from the others? Changes nothing; exit code 1 if one is stale."""
    lock = load()
    constraints = requirements_file("constraints.txt").read_text()
    wrong = []
    path = requirements_file("comfyui.lock")
    text = path.read_text() if path.exists() else ""
    if _fingerprint(lock, constraints) not in text:
        wrong.append(f"{_shown(path)} was made from other requirements or constraints")
    cpu = requirements_file("comfyui.cpu.lock")
    if not cpu.exists() or cpu.read_text() != cpu_lock(text, lock):
        wrong.append(f"{_shown(cpu)} is not {path.name} without CUDA")
    if remote and not wrong:
        for source in lock.sources:
            there = read_source(source.name, source.repository, source.ref, source.commit)
            if there.requirements != source.requirements:
                wrong.append(f"{source} at {source.commit} asks for other packages than {_shown(lock_file())} says")
        if resolve(lock)[path] != text:
            wrong.append(f"{_shown(path)} does not resolve to itself: it was edited, or the index lost a release")
    if wrong:
        raise OperationError("; ".join(wrong) + ": comfyeks custom-nodes update")
    out.print(f"{lock.comfyui}, {len(lock.nodes)} nodes, {len(versions(text))} packages", highlight=False)
