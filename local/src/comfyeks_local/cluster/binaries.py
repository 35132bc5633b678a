"""The programs of the local cluster: the user's own (KUBEBUILDER_ASSETS), or built once at the versions in tools/.

Builds are cached for the user, not in the checkout, so that another clone need not build again. The name of the cache
folder is a hash of the inputs (go.mod, go.sum, Go's version), so a changed pin gets another folder. Go checks every
module against go.sum. An interrupted build can be resumed: finished programs stay, and Go caches what it has compiled.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comfyeks.errors import OperationError, UserError
from comfyeks.paths import REPO_ROOT
from comfyeks.versions import VERSIONS

BUILD_MINUTES = 8  # on two idle cores with empty caches; shown before a build begins
_BUILD_LIMIT_SECONDS = 60 * 60.0  # of one program


@dataclass(frozen=True)
class Program:
    """`name` in the cache, the folder of its go.mod below tools/, and the package that it is built from."""

    name: str
    module: str
    package: str


PROGRAMS = (
    Program("etcd", "kubernetes", "go.etcd.io/etcd/server/v3"),
    Program("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    Program("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    Program("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
    Program("karpenter", "karpenter", "github.com/aws/karpenter-provider-aws/cmd/controller"),
)


# What an existing cluster lacks.
BESIDE_A_CLUSTER = tuple(program for program in PROGRAMS if program.module == "karpenter")
# Not part of the local cluster: only a test runs it.
KEDA = Program("keda", "keda", "github.com/kedacore/keda/v2/cmd/operator")


def found(environment: Mapping[str, str] | None = None) -> dict[str, Path]:
    """The programs that exist, by name; KUBEBUILDER_ASSETS takes precedence over built ones.

    Raises UserError if KUBEBUILDER_ASSETS is not a folder.
    """
    environment = os.environ if environment is None else environment
    there = {}
    assets = environment.get("KUBEBUILDER_ASSETS", "")
    if assets and not Path(assets).is_dir():
        raise UserError(
            f"KUBEBUILDER_ASSETS={assets} is not a folder: unset it, or set it to the folder of envtest's binaries"
        )
    for program in (*PROGRAMS, KEDA):
        candidates = [Path(assets) / program.name] if assets else []
        if (folder := _folder(program, environment)) is not None:
            candidates.append(folder / program.name)
        if path := next((path for path in candidates if os.access(path, os.X_OK)), None):
            there[program.name] = path.resolve()
    return there


def missing(environment: Mapping[str, str] | None = None, wanted: Sequence[Program] = PROGRAMS) -> list[Program]:
    """The programs of `wanted` that `build` would build."""
    there = found(environment)
    return [program for program in wanted if program.name not in there]


def build(
    report: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    wanted: Sequence[Program] = PROGRAMS,
) -> dict[str, Path]:
    """Build the missing programs of `wanted`; returns all programs that exist then, by name.

    Args:
        report: receives one line before and after each program, and one at the beginning with the expected minutes.

    Raises:
        UserError: Go is not on PATH.
        OperationError: a build failed; the message has the end of Go's output.
    """
    environment = os.environ if environment is None else environment
    to_do = missing(environment, wanted)
    if to_do and shutil.which("go") is None:
        raise UserError(
            "Go is not on PATH, and building the local cluster needs it (go.dev/dl); or set KUBECONFIG to a cluster on "
            "this machine"
        )
    if to_do:
        report(
            f"building {len(to_do)} programs, once; all of them take about {BUILD_MINUTES} minutes on two idle cores"
        )
    for number, program in enumerate(to_do, start=1):
        report(f"building {program.name} ({number} of {len(to_do)}) …")
        begun = time.monotonic()
        _build(program, environment)
        report(f"{program.name} is built ({time.monotonic() - begun:.0f} s)")
    return found(environment)


def _build(program: Program, environment: Mapping[str, str]) -> None:
    folder = _folder(program, environment)
    assert folder is not None  # Go is on PATH
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{program.name}.{os.getpid()}.partial"
    flags = " ".join(["-s", "-w", *(f"-X={name}={value}" for name, value in _stamps(program).items())])
    argv = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", str(partial), program.package]
    try:
        done = subprocess.run(
            argv,
            cwd=REPO_ROOT / "tools" / program.module,
            env={**environment, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"},
            capture_output=True,
            text=True,
            timeout=_BUILD_LIMIT_SECONDS,
            check=False,
        )
        if done.returncode:
            end = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise OperationError(
                f"cannot build {program.name}; the same command resumes. The end of Go's output:\n{end}"
            )
        partial.replace(folder / program.name)
    except subprocess.TimeoutExpired as error:
        raise OperationError(
            f"building {program.name} did not end within {_BUILD_LIMIT_SECONDS / 60:.0f} minutes"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _stamps(program: Program) -> dict[str, str]:
    """Variables that the projects' own builds set by linker flags: charts read the API server's version."""
    if program.module == "keda":
        return {}
    version = str(VERSIONS["go_tools"][program.module])
    if program.module == "karpenter":
        return {"sigs.k8s.io/karpenter/pkg/operator.Version": version}
    major, minor, _ = version.split(".")
    package = "k8s.io/component-base/version"
    return {f"{package}.gitVersion": f"v{version}", f"{package}.gitMajor": major, f"{package}.gitMinor": minor}


def _folder(program: Program, environment: Mapping[str, str]) -> Path | None:
    """Folder of a built program; None without Go, whose version is part of the folder's name."""
    version = _go_version(environment.get("PATH", os.defpath))
    if version is None:
        return None
    module = REPO_ROOT / "tools" / program.module
    inputs = hashlib.sha256((module / "go.mod").read_bytes() + (module / "go.sum").read_bytes())
    inputs.update(f"{version} {platform.system()} {platform.machine()}".encode())
    return cache_folder(environment) / f"{program.module}-{inputs.hexdigest()[:16]}"


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Our folder in the user's cache folder (XDG)."""
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".cache"
    return Path(base) / "comfyeks" / "programs"


_versions: dict[str, str | None] = {}


def _go_version(path: str) -> str | None:
    if path not in _versions:
        go = shutil.which("go", path=path)
        answer = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False) if go else None
        _versions[path] = answer.stdout.strip() if answer and answer.returncode == 0 else None
    return _versions[path]
