"""The programs of the local cluster: the user's own (KUBEBUILDER_ASSETS), or built once from the pins in tools/.

A build goes to a cache of the user's, not of the checkout, so that another clone builds nothing. Its folder is named by
what decides the result (go.mod, go.sum, Go's version), so a changed pin is another folder. Go checks every module
against go.sum. A build that was killed goes on where it was: finished programs stay, Go keeps what it has compiled.
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

BUILD_MINUTES = 8  # on two idle cores, cold; said before a build begins
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


# What a cluster that is there already lacks.
BESIDE_A_CLUSTER = tuple(program for program in PROGRAMS if program.module == "karpenter")
# Not a part of the local cluster: only a test runs it.
KEDA = Program("keda", "keda", "github.com/kedacore/keda/v2/cmd/operator")


def found(environment: Mapping[str, str] | None = None) -> dict[str, Path]:
    """The programs that are there, by name: those of KUBEBUILDER_ASSETS first, then built ones.

    Raises UserError when KUBEBUILDER_ASSETS is no folder.
    """
    environment = os.environ if environment is None else environment
    there = {}
    assets = environment.get("KUBEBUILDER_ASSETS", "")
    if assets and not Path(assets).is_dir():
        raise UserError(f"KUBEBUILDER_ASSETS={assets} is no folder: unset it, or let it name envtest's binaries")
    for program in (*PROGRAMS, KEDA):
        candidates = [Path(assets) / program.name] if assets else []
        if (folder := _folder(program, environment)) is not None:
            candidates.append(folder / program.name)
        if path := next((path for path in candidates if os.access(path, os.X_OK)), None):
            there[program.name] = path.resolve()
    return there


def missing(environment: Mapping[str, str] | None = None, wanted: Sequence[Program] = PROGRAMS) -> list[Program]:
    """What `build` would have to build."""
    there = found(environment)
    return [program for program in wanted if program.name not in there]


def build(
    tell: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    wanted: Sequence[Program] = PROGRAMS,
) -> dict[str, Path]:
    """Build those of `wanted` that are missing; every program that is there then, by name.

    Args:
        tell: takes one line before each program and after it, and one with the minutes at the beginning.

    Raises:
        UserError: Go is not on PATH.
        OperationError: a build failed; carries the end of Go's output.
    """
    environment = os.environ if environment is None else environment
    to_do = missing(environment, wanted)
    if to_do and shutil.which("go") is None:
        raise UserError(
            "building the local cluster needs Go on PATH (go.dev/dl); or set KUBECONFIG to a cluster on this machine"
        )
    if to_do:
        tell(f"building {len(to_do)} programs, once: about {BUILD_MINUTES} minutes on two idle cores if none is there")
    for number, program in enumerate(to_do, start=1):
        tell(f"building {program.name} ({number} of {len(to_do)}) …")
        begun = time.monotonic()
        _build(program, environment)
        tell(f"{program.name} is built ({time.monotonic() - begun:.0f} s)")
    return found(environment)


def _build(program: Program, environment: Mapping[str, str]) -> None:
    folder = _folder(program, environment)
    assert folder is not None  # there is a Go
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
            raise OperationError(f"{program.name} was not built; run it again to go on where it was. Go said:\n{end}")
        partial.replace(folder / program.name)
    except subprocess.TimeoutExpired as error:
        raise OperationError(f"{program.name} was not built within {_BUILD_LIMIT_SECONDS / 60:.0f} minutes") from error
    finally:
        partial.unlink(missing_ok=True)


def _stamps(program: Program) -> dict[str, str]:
    """What the projects' own builds write into their programs: charts ask the API server for its version."""
    if program.module == "keda":
        return {}
    version = str(VERSIONS["go_tools"][program.module])
    if program.module == "karpenter":
        return {"sigs.k8s.io/karpenter/pkg/operator.Version": version}
    major, minor, _ = version.split(".")
    package = "k8s.io/component-base/version"
    return {f"{package}.gitVersion": f"v{version}", f"{package}.gitMajor": major, f"{package}.gitMinor": minor}


def _folder(program: Program, environment: Mapping[str, str]) -> Path | None:
    """Where a program is when it is built; None without Go, whose version is a part of the name."""
    version = _go_version(environment.get("PATH", os.defpath))
    if version is None:
        return None
    module = REPO_ROOT / "tools" / program.module
    inputs = hashlib.sha256((module / "go.mod").read_bytes() + (module / "go.sum").read_bytes())
    inputs.update(f"{version} {platform.system()} {platform.machine()}".encode())
    return cache_folder(environment) / f"{program.module}-{inputs.hexdigest()[:16]}"


def cache_folder(environment: Mapping[str, str]) -> Path:
    """XDG's cache folder of the user, below it ours."""
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".cache"
    return Path(base) / "comfyeks" / "programs"


_versions: dict[str, str | None] = {}


def _go_version(path: str) -> str | None:
    if path not in _versions:
        go = shutil.which("go", path=path)
        said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False) if go else None
        _versions[path] = said.stdout.strip() if said and said.returncode == 0 else None
    return _versions[path]
