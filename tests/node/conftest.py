from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from comfyeks.paths import REPO_ROOT
from comfyeks_local.emulators.local_aws import LocalAws
from tests.node import s3_stub
from tests.node.s3_stub import S3Stub
from tests.node.support import ProgramNode
from tests.support.modules import load

PROGRAM = REPO_ROOT / "node/comfyui-model-sync"


@pytest.fixture(scope="session")
def sync() -> ModuleType:
    """The node program as a module."""
    return load(PROGRAM, "comfyui_model_sync")


@pytest.fixture
def s3() -> Iterator[S3Stub]:
    with s3_stub.serve() as stub:
        yield stub


@pytest.fixture
def node(tmp_path: Path, s3: S3Stub) -> Iterator[ProgramNode]:
    """A node's file system with its array mounted and the program installed, in front of the S3 stub."""
    node = ProgramNode(tmp_path / "node root", s3.environment(), PROGRAM)
    node.mount_array()
    yield node
    node.end_all()


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    with LocalAws(tmp_path_factory.mktemp("aws")) as aws:
        yield aws
