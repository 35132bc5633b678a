"""The pod runner rewrites what has no place on this machine, and nothing else."""

from pathlib import Path

import pytest

from comfyeks.local.pod import _Rewriter

FOLDERS = {
    "/app/ComfyUI/output": Path("/tmp/home/output"),
    "/app/ComfyUI/input": Path("/tmp/home/input"),
    "/tmp": Path("/tmp/home/scratch"),
}


@pytest.fixture
def rewrite() -> _Rewriter:
    return _Rewriter(FOLDERS, port=8848, local_port=50123)


def test_a_mount_path_becomes_its_folder(rewrite: _Rewriter) -> None:
    assert rewrite("--output-directory=/app/ComfyUI/output") == "--output-directory=/tmp/home/output"
    assert rewrite("/app/ComfyUI/input/sub/a.png") == "/tmp/home/input/sub/a.png"


def test_a_path_that_only_begins_alike_stays(rewrite: _Rewriter) -> None:
    assert rewrite("/app/ComfyUI/outputs") == "/app/ComfyUI/outputs"


def test_a_folder_below_another_mount_path_is_not_rewritten_again(rewrite: _Rewriter) -> None:
    assert rewrite("/app/ComfyUI/output:/tmp/x") == "/tmp/home/output:/tmp/home/scratch/x"


def test_the_port_is_replaced_as_a_whole_number_only(rewrite: _Rewriter) -> None:
    assert rewrite("http://127.0.0.1:8848/queue") == "http://127.0.0.1:50123/queue"
    assert rewrite("18848 88480") == "18848 88480"


def test_a_pod_without_volumes_still_gets_its_port() -> None:
    assert _Rewriter({}, 8848, 1)("8848 /tmp") == "1 /tmp"


def test_the_server_listens_on_this_machine_only(rewrite: _Rewriter) -> None:
    assert rewrite("--listen=0.0.0.0") == "--listen=127.0.0.1"
