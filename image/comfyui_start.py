#!/usr/local/bin/python3 -I
"""Starts ComfyUI with flags that depend on the machine: comfyui-start PROGRAM [ARGUMENT ...]

Checks the GPU, the memory and the folders, adds flags that the arguments do not set, and then executes the program in
the same process, so that signals reach it. Arguments that are given are never changed.

    no GPU and no --cpu      error: a server that silently computes on the CPU looks healthy and is useless
    image without CUDA       --cpu
    driver or GPU too old    error with the version: torch would report it only at the first job
    VRAM >= memory           --fast-disk: weights that leave the GPU do not fit into memory and are read from disk again
    temp, user not writable  a folder of the scratch space; an output folder that is not writable is an error

Nothing else depends on the VRAM: ComfyUI moves weights by what is free, and flags that fix a strategy disable that.

Environment: COMFYUI_ROOT (/app/ComfyUI), COMFYUI_TORCH_BACKEND (cpu: no CUDA), COMFYUI_MIN_DRIVER (major version),
TMPDIR.
Exit codes: 2 for wrong usage, 1 if ComfyUI cannot run, otherwise that of the program.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# ComfyUI's mutually exclusive group: if one is given, nothing is added.
DEVICE_FLAGS = ("--gpu-only", "--highvram", "--lowvram", "--novram", "--cpu")
DISK_FLAGS = ("--fast-disk", "--disable-fast-disk", "--disable-dynamic-vram")
# Every flag that this program may add. The build of the image checks that ComfyUI supports them.
ADDED_FLAGS = ("--cpu", "--fast-disk", "--temp-directory", "--user-directory")

# The oldest that CUDA 13 supports (T4). Older GPUs start and fail at the first kernel.
MIN_COMPUTE_CAPABILITY = (7, 5)
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
MEMINFO = Path("/proc/meminfo")
QUERY = ("name", "memory.total", "driver_version", "compute_cap")


class StartError(Exception):
    """ComfyUI cannot run here; the message is one line for the pod's log."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi reports it; memory in MiB, None where the driver does not report it."""

    name: str
    memory_mib: int | None
    driver: str
    compute_capability: tuple[int, ...] | None


def _version(text: str) -> tuple[int, ...] | None:
    parts = text.split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else None


def gpus(timeout: float = 60) -> list[Gpu]:
    """The GPUs of this container, in the driver's order. The first call after a boot can take seconds.

    Raises StartError if there is none, or the driver does not respond.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise StartError(
            "nvidia-smi not found, so this container has no GPU: request nvidia.com/gpu, or pass --cpu"
        ) from None
    except subprocess.TimeoutExpired:
        raise StartError(
            f"nvidia-smi did not respond within {timeout:.0f} s: the driver hangs, replace the node"
        ) from None
    if answer.returncode != 0:
        words = " ".join((answer.stdout + answer.stderr).split()) or "no message"
        raise StartError(f"nvidia-smi failed with exit code {answer.returncode}: {words}")
    found = []
    for line in filter(None, map(str.strip, answer.stdout.splitlines())):
        fields = [field.strip() for field in line.rsplit(",", len(QUERY) - 1)]
        if len(fields) != len(QUERY):
            raise StartError(f"nvidia-smi printed {line!r} instead of {len(QUERY)} fields")
        name, memory, driver, capability = fields
        found.append(Gpu(name, int(memory) if memory.isdigit() else None, driver, _version(capability)))
    if not found:
        raise StartError("nvidia-smi reports no GPU: request nvidia.com/gpu, or pass --cpu")
    return found


def memory_mib(limit: Path = CGROUP_LIMIT, meminfo: Path = MEMINFO) -> int | None:
    """Memory that this container may use, in MiB: its limit or that of the machine. None if neither can be read."""
    known = []
    try:
        text = limit.read_text().strip()
        known += [int(text) // 2**20] if text.isdigit() else []
    except OSError:
        pass
    try:
        total = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemTotal:"))
        known.append(int(total.split()[1]) // 2**10)
    except (OSError, StopIteration):
        pass
    return min(known, default=None)


def given(arguments: Sequence[str], option: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in arguments)


def device_flags(
    arguments: Sequence[str], found: Sequence[Gpu], memory: int | None, min_driver: int | None
) -> list[str]:
    """Flags for these GPUs (of several, the smallest decides) and this memory. Raises StartError if one is too old."""
    for gpu in found:
        driver = _version(gpu.driver)
        if min_driver and driver and driver[0] < min_driver:
            raise StartError(
                f"driver {gpu.driver} of {gpu.name} is older than {min_driver}, which this image's CUDA needs: "
                "use an AMI with a newer driver"
            )
        if gpu.compute_capability and gpu.compute_capability < MIN_COMPUTE_CAPABILITY:
            raise StartError(
                f"{gpu.name} has compute capability {'.'.join(map(str, gpu.compute_capability))}; this image's CUDA "
                f"needs {'.'.join(map(str, MIN_COMPUTE_CAPABILITY))} or more (T4, A10G, L4, L40S and newer)"
            )
    if any(given(arguments, flag) for flag in (*DEVICE_FLAGS, *DISK_FLAGS)):
        return []
    vram = [gpu.memory_mib for gpu in found if gpu.memory_mib]
    return ["--fast-disk"] if vram and memory and min(vram) >= memory else []


def folder_flags(arguments: Sequence[str], root: Path) -> list[str]:
    """Flags for other folders in place of those that are not writable. Raises StartError if there is none."""

    def writable(folder: Path) -> bool:
        return os.access(folder, os.W_OK | os.X_OK)

    if given(arguments, "--base-directory"):
        return []
    who = f"uid {os.getuid()}"
    output = root / "output"
    if not given(arguments, "--output-directory") and not writable(output):
        raise StartError(f"{output} is not writable for {who}: mount a volume there, or pass --output-directory")
    flags = []
    for option, name in (("--temp-directory", "temp"), ("--user-directory", "user")):
        if given(arguments, option) or writable(root / name):
            continue
        try:
            scratch = Path(tempfile.gettempdir())
        except FileNotFoundError:
            raise StartError(f"{root / name} is not writable for {who}, nor is /tmp: mount a volume at /tmp") from None
        # ComfyUI appends `temp` itself, and needs the user folder to exist.
        place = scratch / "comfyui" if name == "temp" else scratch / "comfyui" / name
        place.mkdir(parents=True, exist_ok=True)
        flags.append(f"{option}={place}")
    return flags


def decide(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The flags to add to these arguments of ComfyUI; logs the reason in one line on stderr."""
    flags: list[str] = []
    if environment.get("COMFYUI_TORCH_BACKEND") == "cpu" and not any(given(arguments, flag) for flag in DEVICE_FLAGS):
        flags, reason = ["--cpu"], "this image has no CUDA"
    elif given(arguments, "--cpu"):
        reason = "on the CPU, because of --cpu"
    else:
        found, memory = gpus(), memory_mib()
        driver = environment.get("COMFYUI_MIN_DRIVER", "")
        flags = device_flags(arguments, found, memory, int(driver) if driver.isdigit() else None)
        reason = ", ".join(f"{gpu.name} with {gpu.memory_mib or '?'} MiB" for gpu in found)
        reason += f", driver {found[0].driver}, {memory or '?'} MiB of memory"
    flags += folder_flags(arguments, Path(environment.get("COMFYUI_ROOT", "/app/ComfyUI")))
    print(f"comfyui-start: {reason}: {' '.join(flags) or 'nothing to add'}", file=sys.stderr, flush=True)
    return flags


def main(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    if not argv or argv[0].startswith("-"):
        print("usage: comfyui-start PROGRAM [ARGUMENT ...]", file=sys.stderr)
        return 2
    try:
        command = [*argv, *decide(argv[1:], environment)]
        os.execvp(command[0], command)  # noqa: S606  (exec by intention)
    except StartError as error:
        print(f"comfyui-start: {error}", file=sys.stderr)
    except OSError as error:
        print(f"comfyui-start: cannot run {argv[0]}: {error.strerror}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
