"""Custom nodes of the image: image/custom-nodes.lock.yaml and the Python lock files that are resolved from it.

A custom node is a git repository at one commit. Its requirements and ComfyUI's are recorded in the lock file and
resolved together, by uv, for the image's Python and platform. Custom nodes with conflicting requirements are thus found
here, and not while an image is built or runs. A command that fails has changed nothing.

git and uv use their own configuration and environment for hosts, proxies and credentials.
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
COMFYUI = "comfyui"  # ComfyUI's own entry; no custom node may have this name
PYTHON = "3.12"  # the image's
PLATFORM = "x86_64-manylinux_2_40"  # glibc of the image's Debian is 2.41
# Dependencies of torch with CUDA only; the CPU image does not have them.
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
    """The content of custom-nodes.lock.yaml.

    `build_from_source`: packages without wheels, which are built. `packages_until`: only releases up to that day
    (YYYY-MM-DD), so that the same input resolves to the same output.
    """

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
        raise UserError(f"there is no custom node {name!r} in {_shown(lock_file())}; there are {known}")

    def with_source(self, source: Source) -> Lock:
        """Return a lock in which this source replaces the one with its name, or is added."""
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
    """Read and check the lock file. Raises UserError naming the invalid entry."""
    path = path or lock_file()
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{_shown(path)} does not exist") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an invalid date
        raise UserError(f"{_shown(path)} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or set(data) - {"comfyui", "nodes", "build_from_source", "packages_until"}:
        raise UserError(
            f"{_shown(path)} must have the keys comfyui, nodes, build_from_source, packages_until and no others"
        )
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
            raise UserError(
                f"{_shown(path)}: the name {source.name!r} is used twice; names must differ in more than case"
            )
    return lock


def _source(data: Any, where: str) -> Source:
    keys = ("name", "repository", "ref", "commit", "requirements")
    if not isinstance(data, dict) or set(data) != set(keys):
        raise UserError(f"{where} must have exactly {', '.join(keys[1:])} (and, for a custom node, name)")
    requirements = data["requirements"]
    if not isinstance(requirements, list) or not all(isinstance(line, str) for line in requirements):
        raise UserError(f"{where}.requirements is {requirements!r}, not a list of strings")
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
                f"{source} requires {line!r}, which is not a released package and cannot be locked: "
                "use another commit of it (--ref), or a fork that requires a released package"
            )


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise UserError(f"packages_until is {text!r}, not a day such as 2026-10-31") from None


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
            raise UserError(f"{repository} has no default branch: pass a branch, tag or commit with --ref")
        return branches[0], found["HEAD"]
    # `^{}` is the commit of an annotated tag; a tag wins over a branch of the same name.
    for name in (f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}"):
        if name in found:
            return ref, found[name]
    raise UserError(f"{repository} has no branch or tag {ref!r}; a commit needs all 40 digits")


def read_source(name: str, repository: str, ref: str, commit: str) -> Source:
    """Fetch a commit; return it with its requirements: requirements.txt, else the dependencies of pyproject.toml."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        _git("init", "--quiet", "--bare", folder=here)
        fetched = _git("fetch", "--quiet", "--depth=1", "--", repository, commit, folder=here)
        if fetched.returncode != 0:
            raise OperationError(f"cannot fetch commit {commit} from {repository}: {' '.join(fetched.stderr.split())}")
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
            note(f"{name} has an install.py, which the image does not run: check what it would do")
    source = Source(name, repository, ref, commit, requirements)
    _check_requirements(source)
    return source


def parse_requirements(text: str) -> tuple[str, ...]:
    """The lines of a requirements file, continued lines joined, without comments and empty lines."""
    lines = text.removeprefix("\ufeff").replace("\\\n", " ").splitlines()
    return tuple(line for raw in lines if (line := re.sub(r"(^|\s)#.*", "", raw).strip()))


# -- packages ---------------------------------------------------------------------------------------------------------


class ConflictError(Exception):
    """No set of packages satisfies the sources; the message is uv's explanation."""


def _compile(lock: Lock, sources: Sequence[Source], constraints: str, previous: str) -> str:
    """Resolve the packages; return uv's lock file, with hashes.

    Raises ConflictError, or OperationError when uv fails otherwise.
    """
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "constraints.txt").write_text(constraints)
        (here / "lock").write_text(previous)  # uv keeps these versions where it can
        for source in sources:
            (here / f"{source.name}.in").write_text("".join(f"{line}\n" for line in source.requirements))
        command = [
            uv.find_uv_bin(), "pip", "compile", "--quiet", "--no-progress", "--color=never",
            # This interpreter, so that uv does not search for one; uv only asks it for its version.
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
    """Path → text of the lock files for `lock`. Locked versions are kept where possible, unless `upgrade`.

    Raises UserError naming the conflicting sources, their requirements and the remedies.
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
    """A hash of everything that the resolved packages depend on, which commits are not."""
    asked = sorted((source.name, source.requirements) for source in lock.sources)
    pins = parse_requirements(constraints)
    inputs = repr((asked, pins, lock.build_from_source, lock.packages_until, PYTHON, PLATFORM))
    return hashlib.sha256(inputs.encode()).hexdigest()


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """The packages in a lock file as (name, its lines); the lines before the first package have the name ''."""
    for block in re.split(r"^(?=[A-Za-z0-9][\w.-]*==)", text, flags=re.MULTILINE):
        match = re.match(r"([A-Za-z0-9][\w.-]*)==", block)
        yield (match[1] if match else ""), block


def _canonical(requirement: str) -> str:
    """The normalised name of the package in a requirement."""
    match = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def cpu_lock(text: str, lock: Lock) -> str:
    """The lock file without CUDA's packages, and without hashes for torch's, whose CPU wheels are other files."""
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
    """An error message: the smallest set of sources that conflict, and the requirements in question."""

    def try_compile(sources: Sequence[Source], pins: str) -> ConflictError | None:
        try:
            _compile(lock, sources, pins, "")
        except ConflictError as found:
            return found
        return None

    sources = _smallest(lock.sources, lambda some: try_compile(some, constraints) is not None)
    conflict = try_compile(sources, constraints) or conflict
    pinned = try_compile(sources, "") is None
    about = {_canonical(name) for name in re.findall(r"[A-Za-z0-9][\w.-]*", str(conflict))}
    asked = [(str(source), line) for source in sources for line in source.requirements]
    asked += [(_shown(requirements_file("constraints.txt")), line) for line in parse_requirements(constraints)] * pinned
    lines = [f"  {source}: {line}" for source, line in asked if _canonical(line) in about]
    names = [str(source) for source in sources] + ["the constraints"] * pinned
    first = (
        f"{' and '.join(names)} cannot be in one image"
        if len(names) > 1
        else f"the requirements of {names[0]} do not exist"
    )
    return "\n".join(
        [
            f"{first}; nothing was changed.",
            *lines,
            *(f"  {line}" for line in str(conflict).splitlines()),
            "Possible remedies: another commit of a custom node (--ref); removing one of them; where uv mentions "
            f"wheels, adding the package's name to build_from_source in {_shown(lock_file())}.",
        ]
    )


def _smallest(sources: Sequence[Source], bad: Callable[[Sequence[Source]], bool]) -> list[Source]:
    """A minimal subset for which `bad` is true: each source is left out if the rest is bad without it."""
    kept = list(sources)
    for source in reversed(sources):  # newest first: two older sources that conflict are not blamed on a newer one
        rest = [other for other in kept if other is not source]
        if rest and bad(rest):
            kept = rest
    return kept


def save(lock: Lock, upgrade: bool = False) -> None:
    """Resolve, write all lock files and print what changed. An error is raised before anything is written."""
    files = {**resolve(lock, upgrade), lock_file(): dump(lock)}
    target = requirements_file("comfyui.lock")
    before = versions(target.read_text()) if target.exists() else {}
    after = versions(files[target])
    for path, text in files.items():
        write_atomically(path, text)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            out.print(f"{name} {before.get(name, '-')} -> {after.get(name, '-')}", highlight=False)
    note(f"{len(lock.nodes)} custom nodes, {len(after)} packages; the next image build uses them")


# -- commands ---------------------------------------------------------------------------------------------------------

app = typer.Typer(
    help="Manage the image's custom nodes, their commits and their Python packages.",
    no_args_is_help=True,
)
Ref = Annotated[str | None, typer.Option(help="Branch, tag or commit (40 digits). Default: the one in the lock file.")]


@app.command()
def add(
    repository: Annotated[str, typer.Argument(help="https:// address of the custom node's git repository.")],
    ref: Annotated[
        str | None, typer.Option(help="Branch, tag or commit (40 digits). Default: the default branch.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Folder in custom_nodes. Default: the repository's name.")] = None,
) -> None:
    """Add a custom node at the newest commit of a branch or tag, if its requirements conflict with no other."""
    lock = load()
    repository = repository.rstrip("/")
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(f"{repository!r} is not an https:// address without credentials, which the image build needs")
    name = name or repository.rpartition("/")[2].removesuffix(".git")
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be a folder's name: pass letters, digits, dots and dashes with --name")
    for source in lock.sources:
        if name.lower() == source.name.lower():
            raise UserError(f"{source.name} exists already ({source.repository}): update it, or pass another --name")
        if repository.removesuffix(".git").lower() == source.repository.removesuffix(".git").lower():
            raise UserError(f"{repository} exists already as {source.name}: comfyeks custom-nodes update {source.name}")
    source = read_source(name, repository, *newest(repository, ref))
    save(lock.with_source(source))
    out.print(f"{name} {source.ref} {source.commit}", highlight=False)


@app.command()
def update(
    names: Annotated[list[str] | None, typer.Argument(help=f"Custom nodes, or {COMFYUI}. Default: all.")] = None,
    ref: Ref = None,
    upgrade: Annotated[bool, typer.Option(help="Upgrade all packages, not only those that must change.")] = False,
    packages_until: Annotated[
        str | None, typer.Option(help="Last release day of packages, such as 2026-10-31.")
    ] = None,
) -> None:
    """Update custom nodes to the newest commit of their branch or tag, and resolve all packages again."""
    lock = load()
    chosen = [lock.find(name) for name in names] if names else list(lock.sources)
    if ref and len(chosen) != 1:
        raise UserError("--ref is for one custom node: comfyeks custom-nodes update NAME --ref REF")
    if packages_until:
        lock = replace(lock, packages_until=_day(packages_until))
    for old in chosen:
        new = read_source(old.name, old.repository, *newest(old.repository, ref or old.ref))
        lock = lock.with_source(new)
        if new.commit != old.commit:
            out.print(f"{old.name} {old.commit[:12]} -> {new.ref} {new.commit[:12]}", highlight=False)
            if old.name == COMFYUI:
                note("change ComfyUI's release in versions.yaml and COMFYUI_VERSION in image/Dockerfile too")
    save(lock, upgrade)


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Name of the custom node.")]) -> None:
    """Remove a custom node, and the packages that only it required."""
    lock = load()
    node = lock.find(name)
    if node == lock.comfyui:
        raise UserError("ComfyUI itself cannot be removed from its image")
    save(replace(lock, nodes=tuple(other for other in lock.nodes if other != node)))


@app.command()
def check(
    remote: Annotated[bool, typer.Option(help="Check against the repositories and the package index too.")] = False,
) -> None:
    """Check that every lock file follows from the others. Changes nothing; exit code 1 if one is stale."""
    lock = load()
    constraints = requirements_file("constraints.txt").read_text()
    wrong = []
    path = requirements_file("comfyui.lock")
    text = path.read_text() if path.exists() else ""
    if _fingerprint(lock, constraints) not in text:
        wrong.append(f"{_shown(path)} was resolved from other requirements or constraints")
    cpu = requirements_file("comfyui.cpu.lock")
    if not cpu.exists() or cpu.read_text() != cpu_lock(text, lock):
        wrong.append(f"{_shown(cpu)} is not {path.name} without CUDA")
    if remote and not wrong:
        for source in lock.sources:
            current = read_source(source.name, source.repository, source.ref, source.commit)
            if current.requirements != source.requirements:
                wrong.append(f"{source} at {source.commit} has other requirements than {_shown(lock_file())} records")
        if resolve(lock)[path] != text:
            wrong.append(f"{_shown(path)} does not resolve to itself: it was edited, or the index lost a release")
    if wrong:
        raise OperationError("; ".join(wrong) + "; run comfyeks custom-nodes update")
    out.print(f"{lock.comfyui}, {len(lock.nodes)} custom nodes, {len(versions(text))} packages", highlight=False)
