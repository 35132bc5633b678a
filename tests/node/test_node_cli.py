"""`comfyeks local node` without a local AWS: what it refuses, and that it still can tell and clean up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comfyeks.errors import OperationError, UserError
from comfyeks_local.emulators.local_aws import LocalAws
from comfyeks_local.node import cli as node_cli


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(node_cli, "NODES", tmp_path / "nodes")
    monkeypatch.setattr(node_cli, "LocalAws", lambda: LocalAws(tmp_path / "aws"))
    machine = {"instance_id": "i-1", "instance_type": "g5.2xlarge", "local_disks": 1, "array_delay": 0, "python": "x"}
    machine["disk_bytes"] = 10**9
    (tmp_path / "nodes/one").mkdir(parents=True)
    (tmp_path / "nodes/one/node.json").write_text(json.dumps(machine))
    return tmp_path / "nodes"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(node_cli.app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_nodes_are_listed_with_their_state(nodes: Path) -> None:
    status = nodes / "one/root/var/lib/comfyui-model-sync/status.json"
    status.parent.mkdir(parents=True)
    status.write_text(json.dumps({"state": "syncing", "ready": False, "files": 3, "missing_files": 4}))
    assert run("ls").splitlines()[1].split() == ["one", "i-1", "no", "syncing", "False", "3", "4"]


def test_a_node_of_a_local_aws_that_is_gone_can_be_removed(nodes: Path) -> None:
    run("rm", "one")
    assert not (nodes / "one").exists()


def test_all_nodes_can_be_removed_at_once(nodes: Path) -> None:
    node_cli.remove_all()
    assert list(nodes.iterdir()) == []


def test_an_unknown_node_is_named_beside_the_known_ones(nodes: Path) -> None:
    with pytest.raises(UserError, match="no local node 'two'; local nodes: one"):
        run("rm", "two")


@pytest.mark.parametrize("name", ["../x", ".hidden", "a/b"])
def test_a_name_that_is_no_folder_name_is_refused(nodes: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be a folder name"):
        run("add", name)


def test_adding_needs_the_local_aws(nodes: Path) -> None:
    with pytest.raises(OperationError, match="comfyeks local up"):
        run("add", "two")
