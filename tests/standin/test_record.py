"""The stand-in, and a real server at COMFYUI_URL, compared with the record of a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.standin.record import GRAPH_NODE_NAMES, record
from tests.support.comfyui import Server

RECORD: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "real_server.yaml").read_text())


def missing(wanted: Any, found: Any, where: str = "") -> list[str]:
    """What `wanted` has and `found` does not; `found` may have more."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            line
            for key, value in wanted.items()
            for line in (missing(value, found[key], f"{where}/{key}") if key in found else [f"{where}/{key}"])
        ]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(wanted, found, strict=True))
        return [line for at, (one, other) in pairs for line in missing(one, other, f"{where}/{at}")]
    return [] if wanted == found else [f"{where}: {json.dumps(found)} instead of {json.dumps(wanted)}"]


@pytest.fixture(scope="module")
def now(server: Server) -> dict[str, Any]:
    return record(server)


def test_the_record_has_every_graph_node_of_the_stand_in() -> None:
    assert sorted(RECORD["nodes"]) == GRAPH_NODE_NAMES


def test_graph_nodes_are_declared_as_recorded(now: dict[str, Any], server: Server) -> None:
    assert missing(RECORD["nodes"], now["nodes"]) == []
    if server.stand_in:
        assert missing(now["nodes"], RECORD["nodes"]) == []


def test_choices_are_those_recorded(now: dict[str, Any], server: Server) -> None:
    for place, choices in RECORD["choices"].items():
        assert set(choices) <= set(now["choices"][place]), place
        assert not server.stand_in or choices == now["choices"][place], place


def test_answers_and_events_have_the_recorded_shape(now: dict[str, Any], server: Server) -> None:
    if not server.stand_in:
        assert missing(RECORD["answers"], now["answers"]) == []
        return
    assert set(now["answers"]["machine"][1]) <= set(RECORD["answers"]["machine"][1])
    mine, real = ({**answers, "machine": None} for answers in (now["answers"], RECORD["answers"]))
    assert missing(mine, real) == missing(real, mine) == []
