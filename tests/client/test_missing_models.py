"""`comfyeks run` when the server lacks a model: if the catalogue has it, it is pulled and the job runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from comfyeks.client import cli, missing_models
from comfyeks.client.errors import RejectedError
from comfyeks.models.transfer import Wanted
from tests.client.conftest import text_to_image
from tests.support.comfyui import RunningServer
from tests.support.safetensors import write_model

REFINER = "sd_xl_refiner_1.0.safetensors"


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    graph = text_to_image()
    graph["4"]["inputs"]["ckpt_name"] = REFINER
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(graph))
    return path


@pytest.fixture
def pulled(stand_in: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What was pulled; a pulled model is on the server at once."""
    found: list[str] = []

    def pull(known: object, wanted: list[Wanted], **options: object) -> None:
        for one in wanted:
            found.append(f"{one.folder}/{one.name}")
            write_model(stand_in.models, found[-1])

    monkeypatch.setattr(missing_models.pull_command, "run", pull)
    yield found
    (stand_in.models / "checkpoints" / REFINER).unlink(missing_ok=True)


def run(*arguments: Any) -> Result:
    app = typer.Typer()
    app.command()(cli.run)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_with_pull_the_missing_model_is_pulled_and_the_workflow_runs(
    stand_in: RunningServer, workflow: Path, tmp_path: Path, pulled: list[str]
) -> None:
    result = run(workflow, "--url", stand_in.url, "--out", tmp_path / "out", "--pull")
    assert result.exit_code == 0, result.exception
    assert pulled == [f"checkpoints/{REFINER}"]
    assert len(result.stdout.splitlines()) == 1


def test_without_an_answer_nothing_is_pulled_and_the_command_is_named(
    stand_in: RunningServer, workflow: Path, pulled: list[str]
) -> None:
    error = run(workflow, "--url", stand_in.url).exception
    assert isinstance(error, RejectedError)
    assert str(error).endswith(". 'comfyeks models pull sdxl-refiner' gets it")
    assert pulled == []


def test_a_model_that_is_not_in_the_catalogue_is_rejected(
    stand_in: RunningServer, workflow: Path, pulled: list[str]
) -> None:
    workflow.write_text(workflow.read_text().replace(REFINER, "unheard-of.safetensors"))
    error = run(workflow, "--url", stand_in.url, "--pull").exception
    assert isinstance(error, RejectedError)
    assert "models pull" not in str(error)
    assert pulled == []


def test_nothing_is_pulled_for_a_workflow_with_other_errors(
    stand_in: RunningServer, workflow: Path, pulled: list[str]
) -> None:
    error = run(workflow, "--url", stand_in.url, "--pull", "--set", "Size.width=0").exception
    assert isinstance(error, RejectedError)
    assert pulled == []
