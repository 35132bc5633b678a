"""verify_image: in an image as it should be it says so, and each thing that can be wrong is named."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from comfyeks.image import custom_nodes
from tests.image.harness import IMAGE, is_root, load

ARGUMENTS = """
import argparse
parser = argparse.ArgumentParser()
for flag in ("--cpu", "--fast-disk", "--temp-directory", "--user-directory"):
    parser.add_argument(flag)
"""
MAIN = """
import sys
print("0.1 seconds: custom_nodes/demo", file=sys.stderr)
sys.exit(0 if "--cpu" in sys.argv and "--quick-test-for-ci" in sys.argv else 3)
"""


class Image:
    """The parts of an image that the program looks at, in a folder."""

    def __init__(self, folder: Path):
        self.root = folder / "ComfyUI"
        self.bill = folder / "bill"
        self.uploader = folder / "uploader"
        self.modules = folder / "modules"
        self.backend = "cu130"
        for path, text in {
            "comfyui_version.py": '__version__ = "1.2.3"\n',
            "requirements.txt": "pyyaml>=6  # settings\n\n# more\ntorch\n",
            "main.py": MAIN,
            "comfy/cli_args.py": ARGUMENTS,
            "custom_nodes/demo/requirements.txt": "pyyaml\n",
        }.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)
        (self.root / "output").mkdir()
        self.bill.mkdir()
        self.lock = {
            "comfyui": {"ref": "v1.2.3", "requirements": ["pyyaml>=6", "torch"]},
            "nodes": [{"name": "demo", "requirements": ["pyyaml"]}],
        }
        self.packages = {"pyyaml": importlib.metadata.version("pyyaml")}
        self.torch_cuda: str | None = "13.0"
        (self.uploader / "bin").mkdir(parents=True)
        self.client("exit 0")
        self.start = folder / "comfyui-start"
        text = (IMAGE / "comfyui_start.py").read_text()
        self.start.write_text(text.replace("#!/usr/local/bin/python3 -I", f"#!{sys.executable} -I"))
        self.start.chmod(0o755)

    def client(self, script: str) -> None:
        (self.uploader / "bin" / "python").write_text(f"#!/bin/sh\n{script}\n")
        (self.uploader / "bin" / "python").chmod(0o755)

    def wrong(self) -> tuple[int, list[str]]:
        """Exit code and complaints, without the one that is true of every test run by root."""
        (self.bill / "custom-nodes.lock.yaml").write_text(yaml.safe_dump(self.lock))
        name = "comfyui.cpu.lock" if self.backend == "cpu" else "comfyui.lock"
        (self.bill / name).write_text("".join(f"{k}=={v} \\\n    --hash=sha256:0\n" for k, v in self.packages.items()))
        self.modules.mkdir(exist_ok=True)
        torch = f"class version:\n    cuda = {self.torch_cuda!r}\n"
        (self.modules / "torch.py").write_text(torch)
        places = {"ROOT": self.root, "BILL": self.bill, "START": self.start, "UPLOADER": self.uploader}
        environment = {
            **os.environ,
            **{f"COMFYUI_{key}": str(value) for key, value in places.items()},
            "COMFYUI_TORCH_BACKEND": self.backend,
            "PYTHONPATH": str(self.modules),
        }
        command = [sys.executable, str(IMAGE / "verify_image.py")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        lines = [line.removeprefix("verify_image: ") for line in done.stderr.splitlines()]
        assert ("runs as root" in lines) == is_root()
        lines = [line for line in lines if line != "runs as root"]
        assert lines or is_root() == bool(done.returncode), done.stderr
        return (1 if lines else 0), lines


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def test_a_correct_image_has_no_complaint(image: Image) -> None:
    assert image.wrong() == (0, [])


def test_a_correct_image_without_cuda_has_no_complaint(image: Image) -> None:
    image.backend, image.torch_cuda = "cpu", None
    assert image.wrong() == (0, [])


CHANGES: dict[str, Callable[[Image], object]] = {
    "ComfyUI reports version 1.2.4, the lock file has v1.2.3": lambda image: (
        image.root / "comfyui_version.py"
    ).write_text('__version__ = "1.2.4"\n'),
    "comfyui requires other packages": lambda image: (image.root / "requirements.txt").write_text("pyyaml>=6\n"),
    "run comfyeks custom-nodes update demo": lambda image: (
        image.root / "custom_nodes/demo/requirements.txt"
    ).write_text("numpy\n"),
    "pyyaml is": lambda image: image.packages.update(pyyaml="5.0"),
    "absent-package is absent": lambda image: image.packages.update({"absent-package": "1.0"}),
    "no package in": lambda image: image.packages.clear(),
    "torch is built for cu126, the image for cu130": lambda image: setattr(image, "torch_cuda", "12.6"),
    "torch is built for cpu, the image for cu130": lambda image: setattr(image, "torch_cuda", None),
    "does not support --fast-disk": lambda image: (image.root / "comfy/cli_args.py").write_text(
        ARGUMENTS.replace('"--fast-disk", ', "")
    ),
    "has no boto3: Command": lambda image: image.client("exit 1"),
    "has no boto3: [Errno 2]": lambda image: (image.uploader / "bin" / "python").unlink(),
    "ComfyUI ended with exit code 5": lambda image: (image.root / "main.py").write_text("raise SystemExit(5)\n"),
    "a custom node does not load": lambda image: (image.root / "main.py").write_text(
        "print('   0.0 seconds (IMPORT FAILED): /app/ComfyUI/custom_nodes/demo')\n"
    ),
}


@pytest.mark.parametrize("complaint", CHANGES)
def test_every_defect_is_named(image: Image, complaint: str) -> None:
    CHANGES[complaint](image)
    code, lines = image.wrong()
    assert code == 1
    assert complaint in lines[0]


def test_a_node_without_requirements_is_fine(image: Image) -> None:
    (image.root / "custom_nodes/demo/requirements.txt").unlink()
    assert image.wrong() == (0, [])


@pytest.mark.parametrize(
    "text", ["a\n# b\n\nc  # d\n", "a>=1 ; python_version > '3'\nb[x]==2#no comment\n", "\n", "git+https://x/y#egg=z\n"]
)
def test_the_image_and_the_command_line_read_a_requirements_file_alike(text: str) -> None:
    assert tuple(load("verify_image").requirement_lines(text)) == custom_nodes.parse_requirements(text)
