"""The stand-in for a pod rewrites mount paths, ports and listen addresses, and nothing else."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from comfyeks_local.node import pod
from comfyeks_local.node.pod import LocalPod, _Rewriter

FOLDERS = {
    "/app/ComfyUI/output": Path("/tmp/home/output"),
    "/app/ComfyUI/input": Path("/tmp/home/input"),
    "/tmp": Path("/tmp/home/scratch"),
}


@pytest.fixture
def rewrite() -> _Rewriter:
    return _Rewriter(FOLDERS, {8848: 50123})


def test_a_mount_path_becomes_its_folder(rewrite: _Rewriter) -> None:
    assert rewrite("--output-directory=/app/ComfyUI/output") == "--output-directory=/tmp/home/output"
    assert rewrite("/app/ComfyUI/input/sub/a.png") == "/tmp/home/input/sub/a.png"


def test_a_path_that_only_has_the_same_prefix_is_not_rewritten(rewrite: _Rewriter) -> None:
    assert rewrite("/app/ComfyUI/outputs") == "/app/ComfyUI/outputs"


def test_a_folder_below_another_mount_path_is_not_rewritten_again(rewrite: _Rewriter) -> None:
    assert rewrite("/app/ComfyUI/output:/tmp/x") == "/tmp/home/output:/tmp/home/scratch/x"


def test_the_port_is_replaced_as_a_whole_number_only(rewrite: _Rewriter) -> None:
    assert rewrite("http://127.0.0.1:8848/queue") == "http://127.0.0.1:50123/queue"
    assert rewrite("18848 88480") == "18848 88480"


def test_a_pod_without_volumes_still_gets_its_port() -> None:
    assert _Rewriter({}, {8848: 1})("8848 /tmp") == "1 /tmp"


def test_the_server_listens_on_this_machine_only(rewrite: _Rewriter) -> None:
    assert rewrite("--listen=0.0.0.0") == "--listen=127.0.0.1"


class Rendered:
    """A Deployment whose preStop hook never ends."""

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        server = {
            "name": "comfyui",
            "ports": [{"containerPort": 8848}],
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "60"]}}},
        }
        spec = {
            "terminationGracePeriodSeconds": 0.2,
            "containers": [server],
            "initContainers": [{"name": "uploader", "restartPolicy": "Always"}],
        }
        return [{"metadata": {}, "spec": {"template": {"spec": spec}}}]


def test_a_pre_stop_hook_that_takes_too_long_does_not_keep_the_pod_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []

    class Container:
        def __init__(self, home: Path, name: str) -> None:
            self.name = name

        def alive(self) -> bool:
            return True

        def stop(self, grace: float) -> None:
            assert grace > 0
            stopped.append(self.name)

    monkeypatch.setattr(pod, "Process", Container)
    hooks: list[float] = []
    original = subprocess.run

    def watched(*arguments: Any, **options: Any) -> Any:
        hooks.append(options["timeout"])
        return original(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    LocalPod.of_chart(tmp_path, Rendered(), tmp_path, {}).stop()  # type: ignore[arg-type]
    assert len(hooks) == 1
    assert stopped == ["comfyui", "uploader"]
