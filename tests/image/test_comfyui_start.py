"""comfyui-start: what it adds, what it refuses, and that it becomes the program."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.image.harness import IMAGE, is_root, load, nvidia_smi

start = load("comfyui_start")
A10G = start.Gpu("NVIDIA A10G", 22888, "580.159.03", (8, 6))
ARBITRARY_UID = 54321
GIB = 1024
as_another = pytest.mark.skipif(
    not is_root() or not Path("/usr/bin/python3").exists(),
    reason="only root can start a process of another user, and that needs an interpreter which everybody may run",
)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's, with ComfyUI's folders and a program to start."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        here.chmod(0o755)
        for name in ("input", "output", "temp", "user"):
            (here / "ComfyUI" / name).mkdir(parents=True)
            (here / "ComfyUI" / name).chmod(0o1777)
        shutil.copy(IMAGE / "comfyui_start.py", here)
        program = here / "program"
        program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        program.chmod(0o755)
        (here / "tmp").mkdir()
        (here / "tmp").chmod(0o1777)
        yield here


def run(
    place: Path, *arguments: str, smi: Path | None = None, prefix: Sequence[str] = (), **settings: Any
) -> subprocess.CompletedProcess[str]:
    """comfyui-start with the showing program; `settings` in capitals are environment, others go to subprocess."""
    environment = {
        "PATH": f"{smi}:/usr/bin:/bin" if smi else "/nowhere",
        "COMFYUI_ROOT": str(place / "ComfyUI"),
        "TMPDIR": str(place / "tmp"),
        **{key: value for key, value in settings.items() if key.isupper()},
    }
    others = {key: value for key, value in settings.items() if not key.isupper()}
    # The interpreter of the tests may lie in somebody's home.
    python = "/usr/bin/python3" if "user" in others else os.path.realpath(sys.executable)
    command = [*prefix, python, "-I", str(place / "comfyui_start.py"), str(place / "program"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, **others)


def added(done: subprocess.CompletedProcess[str], arguments: Sequence[str] = ()) -> list[str]:
    assert done.returncode == 0, done.stderr
    shown = done.stdout.split()
    assert shown[: len(arguments)] == list(arguments)
    return shown[len(arguments) :]


# -- the GPU ----------------------------------------------------------------------------------------------------------


def test_a_card_with_less_vram_than_memory_gets_no_flag(place: Path) -> None:
    smi = nvidia_smi(place / "smi", "NVIDIA A10G, 1, 580.159.03, 8.6")
    arguments = ["--listen=0.0.0.0", "--port=8848"]
    assert added(run(place, *arguments, smi=smi), arguments) == []
    asked = (smi / "asked").read_text()
    assert "--query-gpu=name,memory.total,driver_version,compute_cap" in asked


def test_a_card_with_more_vram_than_memory_reads_weights_from_disk_again(place: Path) -> None:
    smi = nvidia_smi(place / "smi", "NVIDIA L40S, 99999999, 580.159.03, 8.9")
    done = run(place, smi=smi)
    assert added(done) == ["--fast-disk"]
    assert "NVIDIA L40S with 99999999 MiB, driver 580.159.03" in done.stderr


@pytest.mark.parametrize(
    ("vram", "memory", "flags"),
    [
        (15360, 12288, ["--fast-disk"]),  # g4dn.xlarge
        (22888, 12032, ["--fast-disk"]),  # g5.xlarge
        (22888, 27 * GIB, []),  # g5.2xlarge
        (46068, 27 * GIB, ["--fast-disk"]),  # g6e.xlarge
        (46068, 58 * GIB, []),  # g6e.2xlarge
        (22888, 22888, ["--fast-disk"]),
        (None, 16384, []),
        (22888, None, []),
    ],
)
def test_the_instance_types_of_the_charts(vram: int | None, memory: int | None, flags: list[str]) -> None:
    assert start.device_flags([], [start.Gpu("GPU", vram, "580.1", (8, 6))], memory, 580) == flags


def test_of_several_cards_the_smallest_decides() -> None:
    small = start.Gpu("T4", 15360, "580.1", (7, 5))
    assert start.device_flags([], [A10G, small], 16384, 580) == []
    assert start.device_flags([], [A10G, A10G], 16384, 580) == ["--fast-disk"]


@pytest.mark.parametrize("flag", [*start.DEVICE_FLAGS, *start.DISK_FLAGS])
def test_a_memory_strategy_in_the_arguments_is_kept(flag: str) -> None:
    assert start.device_flags(["--port=1", flag], [A10G], 1, 580) == []


def test_a_driver_older_than_the_images_cuda_is_refused_with_both_versions() -> None:
    with pytest.raises(start.StartError, match=r"driver 570\.86\.15 of NVIDIA A10G is older than 580"):
        start.device_flags([], [start.Gpu("NVIDIA A10G", 22888, "570.86.15", (8, 6))], None, 580)
    assert start.device_flags([], [A10G], None, 580) == []
    assert start.device_flags([], [start.Gpu("GPU", 1, "[N/A]", None)], None, 580) == []


def test_a_card_older_than_cuda_13_is_refused_and_the_oldest_that_works_is_not() -> None:
    with pytest.raises(start.StartError, match=r"V100 has compute capability 7\.0.*needs 7\.5"):
        start.device_flags([], [start.Gpu("V100", 16384, "580.1", (7, 0))], None, 580)
    assert start.device_flags([], [start.Gpu("T4", 15360, "580.1", (7, 5))], None, 580) == []
    assert start.device_flags([], [start.Gpu("B200", 15360, "580.1", (10, 0))], None, 580) == []


def test_without_a_gpu_it_refuses_instead_of_computing_on_the_cpu(place: Path) -> None:
    done = run(place)
    assert (done.returncode, done.stdout) == (1, "")
    assert "request nvidia.com/gpu, or pass --cpu" in done.stderr


def test_a_driver_that_reports_no_card_is_refused(place: Path) -> None:
    done = run(place, smi=nvidia_smi(place / "smi"))
    assert done.returncode == 1
    assert "reports no GPU" in done.stderr


def test_a_broken_driver_is_refused_with_its_message(place: Path) -> None:
    done = run(place, smi=nvidia_smi(place / "smi", exit_code=9, stderr="NVIDIA-SMI has failed: no driver"))
    assert done.returncode == 1
    assert "exit code 9: NVIDIA-SMI has failed: no driver" in done.stderr


def test_an_unexpected_answer_is_refused_and_shown(place: Path) -> None:
    done = run(place, smi=nvidia_smi(place / "smi", "what?"))
    assert done.returncode == 1
    assert "'what?'" in done.stderr


def test_a_driver_that_hangs_ends_the_start(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = nvidia_smi(place / "smi")
    (smi / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setenv("PATH", f"{smi}:{os.environ['PATH']}")
    with pytest.raises(start.StartError, match="did not respond within 0 s: the driver hangs"):
        start.gpus(timeout=0.2)


def test_a_name_with_a_comma_is_one_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = nvidia_smi(place / "smi", "Card, big, [N/A], 580.1, [N/A]")
    monkeypatch.setenv("PATH", f"{smi}:{os.environ['PATH']}")
    assert start.gpus() == [start.Gpu("Card, big", None, "580.1", None)]


# -- the CPU ----------------------------------------------------------------------------------------------------------


def test_with_cpu_no_driver_is_asked(place: Path) -> None:
    smi = nvidia_smi(place / "smi", exit_code=1)
    assert added(run(place, "--cpu", smi=smi), ["--cpu"]) == []
    assert not (smi / "asked").exists()


def test_an_image_without_cuda_runs_on_the_cpu_by_itself(place: Path) -> None:
    assert added(run(place, COMFYUI_TORCH_BACKEND="cpu")) == ["--cpu"]
    assert added(run(place, "--cpu", COMFYUI_TORCH_BACKEND="cpu"), ["--cpu"]) == []


# -- the memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "meminfo", "expected"),
    [
        ("12616466432\n", "MemTotal:       32000000 kB\n", 12032),
        ("max\n", "MemTotal:       32768000 kB\n", 32000),
        (str(2**62), "MemTotal:       32768000 kB\n", 32000),
        (None, "MemFree: 1 kB\nMemTotal:       32768000 kB\n", 32000),
        ("1048576", None, 1),
        (None, None, None),
    ],
)
def test_memory_is_the_containers_limit_at_most_the_machines(
    tmp_path: Path, limit: str | None, meminfo: str | None, expected: int | None
) -> None:
    for name, text in (("limit", limit), ("meminfo", meminfo)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert start.memory_mib(tmp_path / "limit", tmp_path / "meminfo") == expected


# -- the folders ------------------------------------------------------------------------------------------------------


@as_another
def test_an_arbitrary_user_starts_with_the_folders_of_the_image(place: Path) -> None:
    done = run(place, "--cpu", user=ARBITRARY_UID, group=ARBITRARY_UID, extra_groups=[])
    assert added(done, ["--cpu"]) == []


@as_another
def test_folders_of_another_user_are_replaced_by_scratch_space(place: Path) -> None:
    for name in ("temp", "user"):
        (place / "ComfyUI" / name).chmod(0o755)
    done = run(place, "--cpu", user=ARBITRARY_UID, group=ARBITRARY_UID, extra_groups=[])
    scratch = place / "tmp" / "comfyui"
    assert added(done, ["--cpu"]) == [f"--temp-directory={scratch}", f"--user-directory={scratch}/user"]
    assert (scratch / "user").stat().st_uid == ARBITRARY_UID
    assert (scratch / "user").is_dir()


@as_another
def test_folders_in_the_arguments_are_kept(place: Path) -> None:
    for name in ("output", "temp", "user"):
        (place / "ComfyUI" / name).chmod(0o755)
    arguments = ["--cpu", "--temp-directory=/tmp", "--user-directory", "/u", "--output-directory=/o"]
    done = run(place, *arguments, user=ARBITRARY_UID, group=ARBITRARY_UID, extra_groups=[])
    assert added(done, arguments) == []


def read_only(folder: Path) -> list[str]:
    """Words that run the command after them with a folder mounted read-only; skips where that cannot be."""
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    command = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, str(folder)]
    if not is_root() or subprocess.run([*command, "/bin/true"], capture_output=True).returncode != 0:
        pytest.skip("needs root and a mount namespace")
    return command


def test_on_a_read_only_root_it_writes_to_scratch_space(place: Path) -> None:
    scratch = place / "tmp" / "comfyui"
    arguments = ["--cpu", "--output-directory=/o"]
    environment: Mapping[str, str] = {"PATH": "/usr/bin:/bin"}
    done = run(place, *arguments, prefix=read_only(place / "ComfyUI"), **environment)
    assert added(done, arguments) == [f"--temp-directory={scratch}", f"--user-directory={scratch}/user"]


def test_results_that_could_not_be_saved_are_refused_before_they_are_computed(place: Path) -> None:
    done = run(place, "--cpu", prefix=read_only(place / "ComfyUI"), PATH="/usr/bin:/bin")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{place}/ComfyUI/output is not writable for uid 0: mount a volume" in done.stderr


def test_without_any_scratch_space_it_says_where_to_mount_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(start.tempfile, "gettempdir", nowhere)
    (tmp_path / "output").mkdir()
    with pytest.raises(start.StartError, match=r"nor is /tmp: mount a volume at /tmp"):
        start.folder_flags([], tmp_path)


# -- becoming the program ---------------------------------------------------------------------------------------------


def test_it_becomes_the_program_so_that_signals_reach_it(place: Path) -> None:
    child = place / "child.py"
    child.write_text(
        "import os, signal, sys\n"
        "def end(*_):\n    print('ended by SIGTERM', flush=True)\n    sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print(os.getpid(), flush=True)\n"
        "signal.pause()\n"
    )
    command = [sys.executable, str(place / "comfyui_start.py"), sys.executable, str(child), "--cpu"]
    environment = {**os.environ, "COMFYUI_ROOT": str(place / "ComfyUI")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, signal.SIGTERM)
        assert process.communicate(timeout=10)[0] == "ended by SIGTERM\n"
        assert (pid, process.returncode) == (process.pid, 7)


def test_a_signal_while_the_driver_is_asked_ends_it_at_once(place: Path) -> None:
    smi = nvidia_smi(place / "smi")
    (smi / "nvidia-smi").write_text(f"#!/bin/sh\ntouch '{place}/tmp/asked'\nexec sleep 5\n")
    command = [sys.executable, str(place / "comfyui_start.py"), "/bin/true"]
    environment = {**os.environ, "PATH": f"{smi}:{os.environ['PATH']}"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 10
        while not (place / "tmp" / "asked").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.terminate()
        assert process.wait(2) == -signal.SIGTERM


def test_the_programs_exit_code_is_its_own(place: Path) -> None:
    (place / "program").write_text("#!/bin/sh\nexit 42\n")
    assert run(place, "--cpu").returncode == 42


def test_a_missing_program_is_named(place: Path) -> None:
    (place / "program").unlink()
    done = run(place, "--cpu")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("/program: No such file or directory")


@pytest.mark.parametrize("arguments", [[], ["--listen"]])
def test_without_a_program_it_shows_how_it_is_used(place: Path, arguments: list[str]) -> None:
    command = [sys.executable, str(place / "comfyui_start.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage:")


def test_it_needs_nothing_but_the_standard_library_and_is_a_program() -> None:
    text = (IMAGE / "comfyui_start.py").read_text()
    assert text.startswith("#!/usr/local/bin/python3 -I\n")
    imported = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imported <= sys.stdlib_module_names
    assert stat.S_ISREG((IMAGE / "comfyui_start.py").stat().st_mode)
