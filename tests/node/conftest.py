from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from comfyeks.local.emulators import LocalAws
from comfyeks.paths import REPO_ROOT
from tests.node import s3_stub
from tests.node.s3_stub import S3Stub
from tests.node.support import ProgramNode

PROGRAM = REPO_ROOT / "node/comfyui-model-sync"


@pytest.fixture(scope="session")
def sync() -> ModuleType:
    """The node program as a module."""
    loader = SourceFileLoader("comfyui_model_sync", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look their module up
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


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
