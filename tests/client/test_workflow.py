from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comfyeks import workflow
from comfyeks.errors import UserError
from tests.client.conftest import text_to_image


def written(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_every_example_workflow_loads() -> None:
    examples = sorted((Path(__file__).parents[2] / "workflows").glob("*.json"))
    assert examples
    for path in examples:
        assert workflow.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"nodes": [], "links": [], "version": 0.4}, "saved for the editor"),
        ([1], "is a JSON array"),
        ({}, "has no nodes"),
        ({"1": {"inputs": {}}}, "node '1' has no class_type"),
        ({"1": {"class_type": "KSampler"}}, "node '1' has no inputs"),
        ("{nope", "is not JSON (line 1, column 2"),
    ],
)
def test_a_file_in_another_format_is_explained(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        workflow.load(written(tmp_path / "w.json", content))
    assert message in str(error.value)
    assert str(tmp_path / "w.json") in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        workflow.load(tmp_path / "absent.json")


def test_a_seed_replaces_every_literal_seed_and_no_linked_one() -> None:
    graph = {
        "1": {"class_type": "KSampler", "inputs": {"seed": 1}},
        "2": {"class_type": "KSamplerAdvanced", "inputs": {"noise_seed": 2.0, "seed": "text"}},
        "3": {"class_type": "KSampler", "inputs": {"seed": ["9", 0]}},
    }
    changed = workflow.with_seed(graph, 77)
    assert changed["1"]["inputs"] == {"seed": 77}
    assert changed["2"]["inputs"] == {"noise_seed": 77, "seed": "text"}
    assert changed["3"]["inputs"] == {"seed": ["9", 0]}
    assert graph["1"]["inputs"] == {"seed": 1}


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(UserError, match="must be between 0 and"):
        workflow.with_seed(text_to_image(), seed)


def test_a_seed_for_a_workflow_without_one_is_refused() -> None:
    with pytest.raises(UserError, match="no node of this workflow has a seed"):
        workflow.with_seed({"1": {"class_type": "KSampler", "inputs": {"seed": ["2", 0]}}}, 1)


@pytest.mark.parametrize(
    ("assignment", "node", "key", "value"),
    [
        ("3.steps=12", "3", "steps", 12),
        ("Sampler.cfg=6.5", "3", "cfg", 6.5),
        ("Prompt.text=a = b, c.d", "6", "text", "a = b, c.d"),
        ("Negative prompt.text=", "7", "text", ""),
        ("6.text=123", "6", "text", "123"),
        ("6.text=true", "6", "text", "true"),
        ('6.text="quoted\\nlines"', "6", "text", "quoted\nlines"),
        ("4.ckpt_name=flux/dev.safetensors", "4", "ckpt_name", "flux/dev.safetensors"),
    ],
)
def test_an_input_is_set_by_id_or_title(assignment: str, node: str, key: str, value: Any) -> None:
    assert workflow.with_value(text_to_image(), assignment)[node]["inputs"][key] == value


def test_titles_and_inputs_with_dots_are_found() -> None:
    graph = {"1": {"class_type": "X", "_meta": {"title": "v1.5 model"}, "inputs": {"model.size": 1}}}
    assert workflow.with_value(graph, "v1.5 model.model.size=2")["1"]["inputs"]["model.size"] == 2


def test_booleans_stay_booleans() -> None:
    graph = {"1": {"class_type": "X", "inputs": {"lossless": True}}}
    assert workflow.with_value(graph, "1.lossless=false")["1"]["inputs"]["lossless"] is False
    with pytest.raises(UserError, match="must be true or false"):
        workflow.with_value(graph, "1.lossless=1")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("3.steps", "write NODE.INPUT=VALUE"),
        ("steps=3", "write NODE.INPUT=VALUE"),
        ("99.steps=3", "no node has the id or title '99'; there are: 3 (Sampler)"),
        ("3.stpes=3", "has no input 'stpes'; it has: model, positive"),
        ("3.model=x", 'this input is linked to node 4 "Checkpoint" (CheckpointLoaderSimple)'),
        ("3.steps=many", "must be a number, like the present"),
        ("3.steps=true", "must be a number"),
        ("3.cfg=NaN", "must be a number"),
    ],
)
def test_an_invalid_assignment_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        workflow.with_value(text_to_image(), assignment)
    assert message in str(error.value)


def test_a_title_that_two_nodes_share_is_refused_with_their_ids() -> None:
    graph = {node: {"class_type": "X", "_meta": {"title": "Twin"}, "inputs": {"a": 1}} for node in ("1", "2")}
    with pytest.raises(UserError, match="2 nodes are called 'Twin'; use an id: 1, 2"):
        workflow.with_value(graph, "Twin.a=2")


def test_references_to_a_file_are_replaced_with_folder_and_suffix() -> None:
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "old/cat.png [input]"}},
        "3": {"class_type": "LoadImage", "inputs": {"image": "concat.png"}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat.png on a sofa", "clip": ["5", 0]}},
    }
    uploads = [workflow.Upload(*place, Path("cat.png")) for place in workflow.places_of(graph, "cat.png")]
    changed = workflow.with_uploads(graph, uploads, lambda path: f"uploads/x/{path}")
    assert [changed[node]["inputs"].get("image") for node in "123"] == ["uploads/x/cat.png"] * 2 + ["concat.png"]
    assert changed["4"] == graph["4"]


def test_a_file_that_no_node_loads_is_refused_with_the_files_that_are_loaded() -> None:
    graph = {"10": {"class_type": "LoadImage", "inputs": {"image": "dog.png"}}}
    with pytest.raises(UserError, match=r"no node .* loads a file of that name.*10.image = 'dog.png'"):
        workflow.places_of(graph, "cat.png")


def test_a_missing_model_is_explained_with_the_choices_of_either_declaration() -> None:
    def explained(config: Any, details: str = "") -> str:
        info = {"input_name": "ckpt_name", "received_value": "x.ckpt", "input_config": config}
        error = {"type": "value_not_in_list", "details": details, "extra_info": info}
        [line] = workflow.explain_node_errors(text_to_image(), {"4": {"errors": [error]}})
        return line

    where = "node 4 \"Checkpoint\" (CheckpointLoaderSimple): ckpt_name 'x.ckpt' is not on this server"
    assert explained([["a.ckpt", "b.ckpt"], {}]) == f"{where}; it has: a.ckpt, b.ckpt"
    assert explained(["COMBO", {"options": ["a.ckpt"]}]) == f"{where}; it has: a.ckpt"
    assert explained([[]]) == f"{where}; it has: none"
    assert explained(None, "ckpt_name: 'x.ckpt' not in (list of length 300)") == f"{where} (list of length 300)"
