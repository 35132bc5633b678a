"""One platform on one local AWS for all tests here, created from a copy of the working tree, like a fresh clone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from comfyeks.charts.render import render
from comfyeks.deployment import Deployment
from comfyeks_local.emulators.local_aws import LocalAws
from comfyeks_local.node.local_node import LocalNode
from comfyeks_local.processes import wait_until
from tests.support.clones import Clone, make_clone

PROJECT = "e2e"


@dataclass
class Platform:
    """The platform under test. `clone` is the checkout that created it."""

    clone: Clone
    deployment: Deployment
    aws: LocalAws
    new_clone: Callable[[str], Clone]
    nodes: list[LocalNode] = field(default_factory=list)

    def client(self, service: Any) -> Any:
        return boto3.client(service)

    @property
    def bucket(self) -> str:
        return self.deployment.bucket("models")

    def put(self, objects: Mapping[str, bytes]) -> None:
        s3 = self.client("s3")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: s3.put_object(Bucket=self.bucket, Key=item[0], Body=item[1]), objects.items()))

    def delete(self, keys: list[str]) -> None:
        s3 = self.client("s3")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: s3.delete_object(Bucket=self.bucket, Key=key), keys))

    def bucket_content(self) -> dict[str, bytes]:
        s3 = self.client("s3")
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: s3.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}

    def converge(self, wanted: Mapping[str, bytes], nodes: list[LocalNode] | None = None, seconds: float = 60) -> None:
        """Wait until every node's models folder holds exactly `wanted`; then compare every byte."""
        nodes = self.nodes if nodes is None else nodes
        wait_until("convergence", lambda: all(names_on(node) == set(wanted) for node in nodes), seconds, every=0.25)
        wait_until("content", lambda: all(content_of(node) == dict(wanted) for node in nodes), seconds, every=0.5)


def names_on(node: LocalNode) -> set[str]:
    return {
        str(Path(folder, file).relative_to(node.models))
        # A node may remove folders meanwhile: os.walk passes over them, rglob raises.
        for folder, _, files in os.walk(node.models)
        if ".comfyui-model-sync" not in folder
        for file in files
    }


def content_of(node: LocalNode) -> dict[str, bytes]:
    try:
        return {name: (node.models / name).read_bytes() for name in names_on(node)}
    except FileNotFoundError:  # renamed or deleted between the two reads: read again
        return {}


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("platform")
    aws = LocalAws(home / "aws")
    aws.up()
    patch = pytest.MonkeyPatch()
    environment = aws.environment(os.environ)
    for name in set(os.environ) - set(environment):
        patch.delenv(name)
    for name, value in environment.items():
        patch.setenv(name, value)

    def new_clone(name: str) -> Clone:
        return make_clone(home / name, {**os.environ, "COMFYEKS_PROJECT": PROJECT})

    made: list[LocalNode] = []
    try:
        clone = new_clone("A")
        clone.comfyeks("infra", "apply")
        clone.comfyeks("events", "deploy")
        deployment = Deployment(PROJECT, os.environ["AWS_REGION"], "123456789012")
        yield Platform(clone, deployment, aws, new_clone, made)
    finally:
        for node in made:
            node.stop()
        aws.down()
        patch.undo()


@pytest.fixture
def three_nodes(platform: Platform) -> list[LocalNode]:
    """Three local nodes with the rendered user data, created once; each test starts with an empty bucket."""
    values = platform.clone.root / ".comfyeks" / platform.deployment.name / "karpenter-gpu.values.yaml"
    [node_class] = render("karpenter-gpu", files=[values]).of_kind("EC2NodeClass")
    while len(platform.nodes) < 3:
        node = LocalNode(
            platform.aws.home / f"node-{len(platform.nodes)}",
            env={**os.environ},
            user_data=node_class["spec"]["userData"],
            tags=node_class["spec"]["tags"],
        )
        platform.nodes.append(node)
        node.start()
    platform.delete(list(platform.bucket_content()))
    platform.converge({})
    return platform.nodes
