"""The Dockerfile and the files beside it: linted, pinned, and consistent with other components."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from comfyeks.image import custom_nodes
from comfyeks.paths import REPO_ROOT
from comfyeks.versions import VERSIONS
from tests.image.harness import IMAGE

TEXT = (IMAGE / "Dockerfile").read_text()
# Instructions, comments left out and continued lines joined.
INSTRUCTIONS = [
    re.sub(r"\s+", " ", line).strip()
    for line in re.sub(r"^\s*#.*\n", "", TEXT, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    if line.strip()
]
PINS = VERSIONS["image"]
LOCKS = sorted((IMAGE / "requirements").glob("*.lock"))


def of(keyword: str) -> list[str]:
    return [line.removeprefix(keyword + " ") for line in INSTRUCTIONS if line.startswith(keyword + " ")]


def argument(name: str) -> str:
    [value] = {line.partition("=")[2] for line in of("ARG") if line.startswith(f"{name}=")}
    return value


def environment() -> dict[str, str]:
    return dict(re.findall(r"([A-Z_]+)=(\S+)", " ".join(of("ENV"))))


def test_hadolint_and_its_shellcheck_have_nothing_to_say() -> None:
    lint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([lint, "--no-color", IMAGE / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_no_rule_is_switched_off() -> None:
    assert "hadolint ignore" not in TEXT


# -- pins -------------------------------------------------------------------------------------------------------------


def test_every_stage_starts_from_the_pinned_base_or_another_stage() -> None:
    stages = [re.fullmatch(r"(\S+) AS (\S+)", line) for line in of("FROM")]
    names = {stage[2] for stage in stages if stage}
    outside = [stage[1] for stage in stages if stage and stage[1] not in names]
    assert len(stages) == len(names) > 3
    assert outside == ["python:${PYTHON_TAG}@${PYTHON_DIGEST}"]
    assert f"python:{argument('PYTHON_TAG')}@{argument('PYTHON_DIGEST')}" == PINS["base"]
    assert re.fullmatch(r"python:3\.12\.\d+-slim-\w+@sha256:[0-9a-f]{64}", PINS["base"])


def test_the_frontend_of_the_builder_is_not_fetched() -> None:
    assert "syntax=" not in TEXT


def test_versions_yaml_names_what_the_image_holds() -> None:
    lock = custom_nodes.load()
    packages = custom_nodes.versions((IMAGE / "requirements/comfyui.lock").read_text())
    assert argument("COMFYUI_VERSION") == PINS["comfyui"] == lock.comfyui.ref.removeprefix("v")
    assert lock.comfyui.commit == PINS["comfyui_commit"]
    assert packages["torch"] == PINS["torch"]
    assert environment()["COMFYUI_MIN_DRIVER"] == str(PINS["nvidia_driver"])
    assert f"uv=={VERSIONS['python_tools']['uv']}" in (IMAGE / "requirements/build.lock").read_text()


def test_the_torch_of_the_lock_is_built_with_the_cuda_of_the_image() -> None:
    packages = custom_nodes.versions((IMAGE / "requirements/comfyui.lock").read_text())
    cuda = "cu" + "".join(packages["cuda-toolkit"].split(".")[:2])
    assert argument("TORCH_BACKEND") == cuda
    assert f"{cuda})" in TEXT


def test_debian_packages_have_a_version_or_only_bring_libraries() -> None:
    lines = (IMAGE / "apt-packages.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert packages
    assert all(re.fullmatch(r"[a-z0-9.+-]+(=\S+)?", line) for line in packages)
    assert any(line.startswith("tini=") for line in packages)


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_file_has_a_hash_for_every_package_and_no_host(path: Path) -> None:
    text = path.read_text()
    packages = custom_nodes.versions(text)
    hashed = set(re.findall(r"^([a-z0-9][\w.-]*)==\S+ \\\n +--hash=sha256:[0-9a-f]{64}", text, re.MULTILINE))
    without = {"torch", "torchvision"} if path.name == "comfyui.cpu.lock" else set()
    assert packages
    assert set(packages) - hashed == without
    assert "://" not in text
    assert "--index-url" not in text


def test_the_committed_lock_files_follow_from_each_other() -> None:
    custom_nodes.check()


def test_the_cpu_lock_has_the_same_versions_and_no_cuda() -> None:
    gpu = custom_nodes.versions((IMAGE / "requirements/comfyui.lock").read_text())
    cpu = custom_nodes.versions((IMAGE / "requirements/comfyui.cpu.lock").read_text())
    assert cpu.items() < gpu.items()
    assert {name for name in gpu.keys() - cpu.keys() if not re.match(r"nvidia-|cuda-|triton$", name)} == set()
    assert "torch" in cpu


def test_neither_a_manager_nor_a_second_s3_client_is_among_comfyuis_packages() -> None:
    packages = custom_nodes.versions((IMAGE / "requirements/comfyui.lock").read_text())
    assert {"comfyui-manager", "boto3", "botocore"}.isdisjoint(packages)
    assert "boto3" in custom_nodes.versions((IMAGE / "requirements/uploader.lock").read_text())


# -- the context ------------------------------------------------------------------------------------------------------


def context() -> set[str]:
    """Files that .dockerignore lets through: it forbids all and allows some."""
    lines = (IMAGE / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert all(rule.startswith("!") for rule in rules[1:])
    files = {str(path.relative_to(IMAGE)) for path in IMAGE.rglob("*") if path.is_file()}
    return {file for file in files if any(fnmatch.fnmatch(file, rule[1:]) for rule in rules[1:])}


def test_the_context_is_exactly_what_is_copied_or_mounted() -> None:
    used = set(re.findall(r"source=(\S+?),", TEXT))
    for line in of("COPY"):
        words = [word for word in line.split() if not word.startswith("--")]
        if "--from=" not in line:
            used |= set(words[:-1])
    files = {file for pattern in used for file in context() if fnmatch.fnmatch(file, pattern)}
    assert all(any(fnmatch.fnmatch(file, pattern) for file in context()) for pattern in used)
    assert files == context()


# -- what runs --------------------------------------------------------------------------------------------------------


def test_only_amd64_is_built() -> None:
    [first, *_] = of("RUN")
    assert '"${TARGETARCH:-}" != amd64' in first


@pytest.mark.parametrize(("arch", "code"), [("amd64", 0), ("arm64", 1), ("", 1)])
def test_the_check_of_the_architecture_does_what_it_says(arch: str, code: int) -> None:
    [first, *_] = of("RUN")
    command = ["bash", "-euo", "pipefail", "-c", first]
    done = subprocess.run(command, env={"TARGETARCH": arch}, capture_output=True, text=True)
    assert done.returncode == code
    assert ("linux/amd64 only" in done.stderr) == bool(code)


def test_the_last_stage_ends_as_the_user_and_on_the_port_of_the_chart() -> None:
    pod = (REPO_ROOT / "charts/comfyui/templates/_pod.tpl").read_text()
    [port] = re.findall(r'define "comfyui\.port" -}}\n(\d+)', pod)
    [uid] = re.findall(r'define "comfyui\.uid" -}}\n(\d+)', pod)
    assert of("USER") == [f"{uid}:{uid}"]
    assert of("EXPOSE") == [port]
    assert yaml.safe_load(of("CMD")[-1]) == ["--listen=0.0.0.0", f"--port={port}"]
    assert "USER" not in " ".join(INSTRUCTIONS[INSTRUCTIONS.index(f"USER {uid}:{uid}") + 1 :])


def test_tini_is_the_first_process_and_comfyui_start_decides() -> None:
    [words] = map(yaml.safe_load, of("ENTRYPOINT"))
    assert words == ["tini", "--", "comfyui-start", "python", "/app/ComfyUI/main.py"]
    assert "comfyui_start.py /usr/local/bin/comfyui-start" in " ".join(of("COPY"))


def test_programs_that_the_chart_runs_are_on_the_path_or_in_the_image() -> None:
    deployment = (REPO_ROOT / "charts/comfyui/templates/deployment.yaml").read_text()
    programs = set()
    for command in re.findall(r"command: \[(.*)\]", deployment):
        words = command.split(", ")
        programs |= {words[0], *(words[words.index("--") + 1 : words.index("--") + 2] if "--" in words else [])}
    assert programs == {"tini", "python", "comfyui-start", "/opt/uploader/bin/python"}
    assert "/opt/uploader" in " ".join(of("COPY"))
    assert environment()["PATH"].startswith("/opt/comfyui/bin:/usr/local/bin:")


def test_nothing_phones_home_and_nothing_is_looked_for() -> None:
    found = environment()
    assert found.items() >= {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}.items()


def test_gpus_are_given_by_the_device_plugin_alone() -> None:
    assert "NVIDIA_VISIBLE_DEVICES" not in environment()
    assert environment()["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_the_build_ends_with_a_look_at_the_image_without_a_network() -> None:
    last = of("RUN")[-1]
    assert last.startswith("--network=none --mount=type=tmpfs,target=/tmp ")
    assert last.endswith("python /run/verify_image.py")
    assert INSTRUCTIONS.index("USER 10001:10001") < INSTRUCTIONS.index(f"RUN {last}")


def test_folders_that_comfyui_writes_to_are_open_and_the_models_are_not() -> None:
    made = " ".join(line for line in of("RUN") if "install --directory" in line)
    assert re.search(r"--mode=1777( /app/ComfyUI/(input|output|temp|user)){4}$", made)
    assert "--mode=0755 /app/ComfyUI/models " in made
