"""User data of a GPU node: its MIME, its size, and what its shell does, run under bash in a root of its own."""

from __future__ import annotations

import email
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import yaml

from comfyeks.charts import CHARTS_ROOT
from tests.charts.harness import SCENARIOS, helm, need_tool, node_pools, refused, scenario_of

BUDGET = 8192
SCRIPT = CHARTS_ROOT / "karpenter-gpu" / "files" / "install-model-sync.sh"
NAMES = {
    "program": "comfyui-model-sync",
    "service": "comfyui-model-sync.service",
    "timer": "comfyui-model-sync.timer",
    "path": "comfyui-model-sync.path",
}


def user_data(values: dict[str, Any] | None = None) -> str:
    [node_class] = node_pools(values).of_kind("EC2NodeClass")
    return str(node_class["spec"]["userData"])


def parts(text: str) -> list[tuple[str, str]]:
    """(content type, text) of each part."""
    message = email.message_from_string(text)
    assert message.get_content_type() == "multipart/mixed"
    assert not message.defects
    payload = message.get_payload()
    assert isinstance(payload, list)
    return [(part.get_content_type(), str(part.get_payload())) for part in payload if isinstance(part, Message)]


def shell(text: str) -> str:
    [script] = [content for kind, content in parts(text) if kind == "text/x-shellscript"]
    return script


def test_it_is_explicit_mime_with_one_shell_part() -> None:
    text = user_data()
    assert text.startswith("MIME-Version: 1.0\n")  # by which Karpenter recognises it
    assert [kind for kind, _ in parts(text)] == ["text/x-shellscript"]
    assert shell(text).startswith("#!/bin/bash\n")


def test_the_node_config_and_the_users_parts_are_separate_parts_in_this_order() -> None:
    rendered = scenario_of("karpenter-gpu", "everything")
    text = rendered.get("EC2NodeClass", "karpenter-gpu-large-root")["spec"]["userData"]
    found = parts(text)
    assert [kind for kind, _ in found] == ["application/node.eks.aws", "text/x-shellscript", "text/x-shellscript"]
    assert "imageGCHighThresholdPercent: 90" in found[0][1]
    assert "a part of the user's own" in found[2][1]


def test_it_is_ascii_and_within_its_budget(measured: Callable[[str], None]) -> None:
    size = len(user_data().encode("ascii"))
    measured(f"user data of a node: {size:,} of {BUDGET:,} bytes (EC2 takes 16,384 with Karpenter's part)")
    assert size < BUDGET / 2, "the chart's own part must leave as much for the user's"


def test_more_than_the_budget_is_refused_and_just_as_much_is_not() -> None:
    def with_part(size: int) -> dict[str, Any]:
        part = {"contentType": "text/x-shellscript", "content": "#" * size}
        return {"nodeClassDefaults": {"extraUserData": [part]}}

    room = BUDGET - len(user_data(with_part(0)))
    assert len(user_data(with_part(room))) == BUDGET
    with refused(f"nodeClasses.default has {BUDGET + 1} bytes, {BUDGET} are allowed"):
        user_data(with_part(room + 1))


@pytest.mark.parametrize("part", [{"content": "x"}, {"contentType": "x", "content": 1}, {"contentType": "x"}])
def test_a_part_without_its_two_keys_is_refused(part: dict[str, Any]) -> None:
    with refused("extraUserData[0] must have exactly the keys contentType and content"):
        user_data({"nodeClassDefaults": {"extraUserData": [part]}})


def test_the_script_of_the_chart_is_in_it_unchanged() -> None:
    assert SCRIPT.read_text().removeprefix("#!/bin/bash\n") in shell(user_data())
    assert "{{" not in SCRIPT.read_text()


@pytest.mark.parametrize("what", ["file", "rendered"])
def test_shellcheck_finds_nothing(what: str) -> None:
    text = SCRIPT.read_text() if what == "file" else shell(user_data())
    done = subprocess.run([need_tool("shellcheck"), "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@dataclass
class Node:
    """A root folder, a folder that stands in for S3, and programs that stand in for aws, systemctl and sleep."""

    home: Path
    files: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root, self.s3, self.bin = (self.home / name for name in ("root", "s3", "bin"))
        for folder in (self.root, self.s3, self.bin):
            folder.mkdir()
        self.program("aws", f'echo "aws $*" >>{self.home}/calls; cp "{self.s3}/${{6##*/}}" "$7"')
        self.program("systemctl", f'echo "systemctl $*" >>{self.home}/calls')
        self.program("sleep", f'echo "sleep $*" >>{self.home}/calls')
        for name, file in NAMES.items():
            body = f"the bytes of {file}"
            (self.s3 / file).write_text(body)
            self.files[name] = {"key": f"node/h/{file}", "sha256": hashlib.sha256(body.encode()).hexdigest()}

    def program(self, name: str, text: str) -> None:
        file = self.bin / name
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)

    def boot(self, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        sync = {"bucket": "the-models", "artifactsBucket": "the-artifacts", "files": self.files}
        return self.run(shell(user_data({"modelSync": sync, **(values or {})})))

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        script = self.home / "user-data.sh"
        script.write_text(text)
        env = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "COMFYUI_NODE_ROOT": str(self.root),
            "TMPDIR": str(self.home),
        }
        return subprocess.run(["bash", script], env=env, capture_output=True, text=True, timeout=30, check=False)

    @property
    def calls(self) -> list[str]:
        file = self.home / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def installed(self) -> dict[str, int]:
        """Path below the root → permissions."""
        return {
            str(path.relative_to(self.root)): path.stat().st_mode & 0o777
            for path in self.root.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    assert not list(tmp_path.glob("tmp.*")), "the script did not remove its work folder"


def test_a_boot_installs_program_units_and_settings(node: Node) -> None:
    done = node.boot()
    assert done.returncode == 0, done.stderr
    assert node.installed == {
        "usr/local/bin/comfyui-model-sync": 0o755,
        "etc/systemd/system/comfyui-model-sync.service": 0o644,
        "etc/systemd/system/comfyui-model-sync.timer": 0o644,
        "etc/systemd/system/comfyui-model-sync.path": 0o644,
        "etc/comfyui-model-sync.env": 0o644,
    }
    for path in node.installed:
        if not path.endswith(".env"):
            assert (node.root / path).read_text() == f"the bytes of {Path(path).name}"
    settings = (node.root / "etc/comfyui-model-sync.env").read_text()
    assert settings == "MODELS_BUCKET=the-models\nAWS_REGION=us-west-2\n"


def test_a_boot_starts_the_units_and_waits_for_none(node: Node) -> None:
    node.boot()
    units = "comfyui-model-sync.path comfyui-model-sync.timer comfyui-model-sync.service"
    assert [call for call in node.calls if call.startswith("systemctl")] == [
        "systemctl daemon-reload",
        f"systemctl enable {units}",
        f"systemctl start --no-block {units}",
    ]


def test_each_file_is_fetched_once_by_its_key_from_the_artifacts_bucket(node: Node) -> None:
    node.boot()
    fetched = [call.split() for call in node.calls if call.startswith("aws")]
    assert sorted(call[6] for call in fetched) == sorted(f"s3://the-artifacts/node/h/{file}" for file in NAMES.values())
    assert {" ".join(call[:6]) for call in fetched} == {"aws s3 cp --only-show-errors --region us-west-2"}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_other_bytes_is_refused_and_nothing_is_installed(node: Node, name: str) -> None:
    (node.s3 / NAMES[name]).write_text("something else")
    done = node.boot()
    assert done.returncode != 0
    assert f"node/h/{NAMES[name]} does not have the SHA-256 {node.files[name]['sha256']}" in done.stderr
    assert node.installed == {}
    assert not [call for call in node.calls if call.startswith(("systemctl", "sleep"))]


def test_a_missing_file_is_tried_eight_times_and_then_reported(node: Node) -> None:
    (node.s3 / "comfyui-model-sync.path").unlink()
    done = node.boot()
    assert done.returncode != 0
    assert "giving up on s3://the-artifacts/node/h/comfyui-model-sync.path; nothing is installed" in done.stderr
    assert len([call for call in node.calls if "node/h/comfyui-model-sync.path" in call]) == 8
    assert node.installed == {}


def test_a_fetch_that_fails_at_first_is_repeated(node: Node) -> None:
    node.program(
        "aws",
        f'echo "aws $*" >>{node.home}/calls; mkdir "{node.home}/failed-${{6##*/}}" 2>/dev/null && exit 1; '
        f'cp "{node.s3}/${{6##*/}}" "$7"',
    )
    done = node.boot()
    assert done.returncode == 0, done.stderr
    assert len(node.installed) == 5
    assert node.calls.count("sleep 2") == len(NAMES)


def test_a_second_boot_of_the_same_root_ends_the_same(node: Node) -> None:
    node.boot()
    first = node.installed
    assert node.boot().returncode == 0
    assert node.installed == first


def test_values_are_text_to_the_shell_whatever_they_contain(node: Node) -> None:
    """The schema refuses such names; the quoting must not depend on it."""
    hostile = f"a'; touch {node.home}/pwned; '$(touch {node.home}/pwned)`touch {node.home}/pwned`\\"
    chart = CHARTS_ROOT / "karpenter-gpu"
    base = SCENARIOS["karpenter-gpu", "minimal"]
    values = json.dumps({"modelSync": {"bucket": hostile, "artifactsBucket": hostile, "files": node.files}})
    rendered = helm("template", "x", chart, "--skip-schema-validation", "-f", base, "-f", "-", stdin=values)
    [text] = [item["spec"]["userData"] for item in yaml.safe_load_all(rendered) if item["kind"] == "EC2NodeClass"]
    done = node.run(shell(text))
    assert done.returncode == 0, done.stderr
    assert not (node.home / "pwned").exists()
    assert f"s3://{hostile}/node/h/comfyui-model-sync.path" in "\n".join(node.calls)
    settings = (node.root / "etc/comfyui-model-sync.env").read_text()
    assert settings == f"MODELS_BUCKET={hostile}\nAWS_REGION=us-west-2\n"


def test_a_node_class_may_override_the_settings_of_all(node: Node) -> None:
    settings = {"budget": "71GB", "prefixes": ["vae/"]}
    sync = {"bucket": "the-models", "artifactsBucket": "the-artifacts", "files": node.files, "settings": settings}
    classes = {"default": {"modelSync": {"settings": {"budget": "9GB", "scratchReserve": "1GiB"}}}}
    assert node.run(shell(user_data({"modelSync": sync, "nodeClasses": classes}))).returncode == 0
    assert (node.root / "etc/comfyui-model-sync.env").read_text().splitlines()[2:] == [
        "BUDGET=9GB", 'PREFIXES=["vae/"]', "SCRATCH_RESERVE=1GiB",
    ]  # fmt: skip


def test_settings_are_merged_key_by_key_and_null_is_not_set(node: Node) -> None:
    all_nodes = {"firstSet": ["vae/"], "priority": ["unet/"], "prefixes": ["vae/", "unet/"], "budget": "71GB"}
    of_classes = {"priority": ["loras/"], "imageReserve": 300_000_000_000, "budget": None}
    of_this_class = {"prefixes": [], "scratchReserve": 0, "budget": None}
    sync = {"bucket": "b-b", "artifactsBucket": "the-artifacts", "files": node.files, "settings": all_nodes}
    values = {
        "modelSync": sync,
        "nodeClassDefaults": {"modelSync": {"settings": of_classes}},
        "nodeClasses": {"default": {"modelSync": {"settings": of_this_class}}},
    }
    assert node.run(shell(user_data(values))).returncode == 0
    assert (node.root / "etc/comfyui-model-sync.env").read_text().splitlines()[2:] == [
        "BUDGET=71GB", 'FIRST_SET=["vae/"]', "IMAGE_RESERVE=300000000000", 'PRIORITY=["loras/"]', "SCRATCH_RESERVE=0",
    ]  # fmt: skip


def test_additional_settings_are_lines_of_the_settings_file(node: Node) -> None:
    settings = {"budget": "71GB", "firstSet": ["vae/", "unet/it's $(main) & <co>.safetensors"]}
    values = {"bucket": "the-models", "artifactsBucket": "the-artifacts", "files": node.files, "settings": settings}
    done = node.run(shell(user_data({"modelSync": values})))
    assert done.returncode == 0, done.stderr
    assert (node.root / "etc/comfyui-model-sync.env").read_text().splitlines()[2:] == [
        "BUDGET=71GB", 'FIRST_SET=["vae/","unet/it\'s $(main) & <co>.safetensors"]',
    ]  # fmt: skip
