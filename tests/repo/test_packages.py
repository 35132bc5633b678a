"""What a wheel of the product brings, and that it runs where there is no checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, requires
from pathlib import Path

import pytest

from comfyeks.cli import ENTRY_POINTS
from comfyeks.paths import REPO_ROOT


def requirements(distribution: str) -> set[str]:
    """Names of what a distribution needs without any extra."""
    lines = [line for line in requires(distribution) or [] if "extra ==" not in line]
    return {re.split(r"[^\w.-]", line)[0].lower() for line in lines}


def test_the_local_aws_brings_the_emulators_and_the_product_none() -> None:
    emulators = requirements("comfyeks-local") - {"comfyeks"}
    assert {"moto", "ministack", "av", "flask"} <= emulators
    assert not requirements("comfyeks") & emulators


def test_the_local_aws_adds_its_commands_by_an_entry_point() -> None:
    assert {found.name for found in entry_points(group=ENTRY_POINTS)} == {"local", "demo"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel of the product."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPO_ROOT, check=True, capture_output=True)
    [wheel] = folder.glob("comfyeks-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_product_and_its_data_alone(installed: Path) -> None:
    packages = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert packages == {"comfyeks"}
    assert {path.name for path in installed.rglob("*") if path.suffix in (".csv", ".yaml")} == {
        "instance_types.csv",
        "prices.yaml",
    }


@pytest.mark.local
@pytest.mark.parametrize(
    ("arguments", "code", "printed"),
    [
        (["--help"], 0, "custom-nodes"),
        (["cost"], 0, "EKS control plane"),
        (["doctor", "--region", "us-west-2"], 4, "is not in a checkout of comfyeks"),
        (["addons", "install", "--plan", "--region", "us-west-2"], 1, "credentials"),
    ],
    ids=["help", "cost", "doctor", "addons"],
)
def test_the_wheel_runs_without_a_checkout(
    installed: Path, tmp_path: Path, arguments: list[str], code: int, printed: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "COMFYEKS_"))}
    environment |= {"PYTHONPATH": str(installed), "HOME": str(tmp_path), "COLUMNS": "400"}
    environment["AWS_EC2_METADATA_DISABLED"] = "true"
    # As where comfyeks-local is not installed: its commands read pins of the checkout.
    alone = "import importlib.metadata as m; m.entry_points = lambda **_: (); from comfyeks.cli import main; main()"
    answer = subprocess.run(
        [sys.executable, "-c", alone, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert answer.returncode == code, answer.stderr
    assert printed in answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr
