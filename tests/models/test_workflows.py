"""The example workflows: every file they name is in the catalogue, where its loader looks for it, and each runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from PIL import Image

from comfyeks.client import ComfyClient
from comfyeks.models import catalogue
from comfyeks.models.references import LOADERS, references
from comfyeks.paths import REPO_ROOT
from tests.standin.record import choices
from tests.support.comfyui import RunningServer, comfyui
from tests.support.safetensors import write_model

WORKFLOWS = sorted((REPO_ROOT / "workflows").glob("*.json"))
INDEX: dict[str, dict[str, list[str]]] = yaml.safe_load((REPO_ROOT / "workflows" / "index.yaml").read_text())
CATALOGUE = catalogue.load()
RECORD: dict[str, Any] = yaml.safe_load((REPO_ROOT / "tests" / "standin" / "real_server.yaml").read_text())


def graph(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def test_every_workflow_is_in_the_index_and_the_other_way_round() -> None:
    assert {path.name for path in WORKFLOWS} == set(INDEX)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_file_that_a_workflow_names_is_in_the_catalogue_in_the_folder_its_loader_reads(path: Path) -> None:
    found = {reference.key: CATALOGUE.at(reference.key) for reference in references(graph(path))}
    assert found
    assert [key for key, entry in found.items() if entry is None] == []
    assert sorted(entry.id for entry in found.values() if entry) == sorted(INDEX[path.name]["models"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_model_file_is_named_outside_of_a_known_loader(path: Path) -> None:
    """A loader that `references` does not know would make the tests above blind."""
    known = {(reference.node_id, reference.input) for reference in references(graph(path))}
    named = {
        (node_id, key)
        for node_id, node in graph(path).items()
        for key, value in node["inputs"].items()
        if isinstance(value, str) and value.endswith((".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf"))
    }
    assert named == known


def test_every_model_of_the_catalogue_has_a_workflow_that_shows_it() -> None:
    assert {entry.id for entry in CATALOGUE.entries} == {name for entry in INDEX.values() for name in entry["models"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A stand-in with every model of the catalogue, and the picture that the image-to-image example starts from."""
    home = tmp_path_factory.mktemp("comfyui")
    for entry in CATALOGUE.entries:
        write_model(home / "models", entry.key)
    (home / "input").mkdir()
    Image.new("RGB", (64, 64)).save(home / "input" / "input.png")
    with comfyui(home) as running:
        yield running


def test_the_stand_in_reads_each_loaders_input_from_the_expected_folder(server: RunningServer) -> None:
    shown = server.get("/object_info").json()
    checked = 0
    for loader, inputs in LOADERS.items():
        for key, folder in inputs.items():
            if loader in shown:
                offered = choices(shown[loader]["input"]["required"][key])
                assert offered is not None
                assert set(server.get(f"/models/{folder}").json()) <= set(offered)
                checked += 1
    assert checked >= 8


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_real_server_has_every_node_and_input(path: Path) -> None:
    """According to its record.

    The opposite (nothing is missing, types, limits, choices) is checked by the stand-in, which tests/standin compares
    with the same record.
    """
    for node_id, node in graph(path).items():
        declared = RECORD["nodes"][node["class_type"]]
        assert set(node["inputs"]) <= {*declared["required"], *declared["optional"]}, node_id


@pytest.mark.skipif("COMFYUI_URL" not in os.environ, reason="no real server: COMFYUI_URL is not set")
def test_a_real_server_without_models_misses_nothing_else() -> None:
    for path in WORKFLOWS:
        answer = requests.post(f"{os.environ['COMFYUI_URL']}/prompt", json={"prompt": graph(path)}, timeout=60)
        assert answer.status_code == 400, "it has the models; this is for one that has none"
        refused = {
            (node_id, problem["extra_info"]["input_name"])
            for node_id, entry in answer.json()["node_errors"].items()
            for problem in entry["errors"]
        }
        pictures = {(node_id, "image") for node_id, node in graph(path).items() if node["class_type"] == "LoadImage"}
        assert refused - pictures == {(found.node_id, found.input) for found in references(graph(path))}, path.name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_workflow_runs(server: RunningServer, path: Path, tmp_path: Path) -> None:
    small = graph(path)
    for node in small.values():
        for key, value in (("width", 64), ("height", 64), ("length", 5), ("steps", 2)):
            if isinstance(node["inputs"].get(key), int):
                node["inputs"][key] = value
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = "input.png"
    client = ComfyClient(server.url)
    [saved] = client.save(client.run(small, timeout=60), tmp_path)
    assert saved.path.suffix == (".webm" if "video" in path.name else ".png")
    assert saved.bytes > 100
