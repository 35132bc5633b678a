"""Random lives of a node: whatever happens on the way, in the end its disk equals the bucket.

    CHAOS_RUNS=200 pytest tests/node/test_node_chaos.py -n 2       CHAOS_SEED=1234 CHAOS_RUNS=1 for one of them again

It is the program as a node runs it, less patient, on a tmpfs that can be full.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest

from tests.node.s3_stub import Fault, S3Stub
from tests.node.support import ProgramNode, fill_up, tmpfs

pytestmark = pytest.mark.local

FIRST_SEED = int(os.environ.get("CHAOS_SEED", "0"))
SEEDS = range(FIRST_SEED, FIRST_SEED + int(os.environ.get("CHAOS_RUNS", "5")))
KEYS = [
    f"{folder}/{name}" for folder in ("loras", "vae", "unet/deep") for name in ("a", "b", "a/b", "it's c", "字", "d")
]
PATIENCE = "RETRY_AFTER = REQUEST_RETRY_AFTER = (0.01,) * 4; STALL_TIMEOUT = 20.0; BATCH_FILES = 3; PART = 16_384"


@dataclass
class Life:
    """One node, one bucket, and a generator that decides what happens to them."""

    seed: int
    sync: ModuleType
    node: ProgramNode
    s3: S3Stub
    disk: Path
    seen: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    story: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.faults = random.Random(self.seed + 1)  # asked by the server's threads
        self.meddled: set[str] = set()

    # --- the bucket

    def put(self, key: str, size: int) -> None:
        body = self.dice.randbytes(size)
        self.seen[key].add(body)
        self.s3.put(key, body)

    def change_bucket(self) -> None:
        present = sorted(self.s3.objects)
        action = self.dice.choice(["new", "new", "overwrite", "same second", "delete", "rename", "clock", "empty"])
        self.story.append(action)
        if action == "new" or not present:
            self.put(self.dice.choice(KEYS), self.dice.choice([0, 1, 100, 5_000, 60_000]))
        elif action == "clock":
            self.s3._started += timedelta(days=self.dice.choice([-4000, -1, 1, 4000]))
        elif action == "empty" and self.dice.random() < 0.2:
            self.s3.objects.clear()
        else:
            key = self.dice.choice(present)
            before = self.s3.objects[key]
            if action == "overwrite":
                self.put(key, self.dice.choice([before.size, 7, 30_000]))
            elif action == "same second":
                self.put(key, before.size)
                self.s3.objects[key].modified = before.modified
            else:
                self.s3.delete(key)
                if action == "rename":
                    assert isinstance(before.body, bytes)
                    target = self.dice.choice(KEYS)
                    self.seen[target].add(before.body)
                    self.s3.put(target, before.body)

    # --- events, the node, the network

    def event(self) -> None:
        for _ in range(self.dice.choice([0, 1, 1, 3])):  # lost, delivered, delivered more than once
            self.sync.request_run(self.sync.Paths(self.node.root))

    def meddle(self) -> None:
        files = sorted(path for path in self.disk.glob("comfyui-models/[!.]*/**/*") if path.is_file())
        action = self.dice.choice(["truncate", "stray", "link", "manifest", "fill", "fill"])
        self.story.append(action)
        with suppress(OSError):  # the disk may be full, or a file stand where the folder is
            if action == "fill":
                fill_up(self.disk / "outputs")
            elif action == "manifest":
                manifest = self.disk / "comfyui-models/.comfyui-model-sync/manifest.jsonl"
                os.truncate(manifest, self.dice.randrange(manifest.stat().st_size + 1))
            elif action == "truncate" and files:
                file = self.dice.choice(files)
                self.meddled.add(str(file.relative_to(self.disk / "comfyui-models")))
                os.truncate(file, file.stat().st_size // 2)
            elif action in ("stray", "link"):
                key = self.dice.choice([*KEYS, "other/x"])
                self.meddled.update([key, *self.sync.parents(key)])
                path = self.disk / "comfyui-models" / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                path.symlink_to("/etc") if action == "link" else path.write_text("stray")

    def fault(self, verb: str, key: str) -> Fault | None:
        if self.faults.random() > 0.3:
            return None
        return self.faults.choice(
            [
                Fault(status=500),
                Fault(status=503),
                Fault(delay=0.3),
                Fault(truncate_to=9),
                Fault(bytes_per_second=100_000),
            ]
        )

    def live(self) -> None:
        """One run of the service, with what happens before and during it."""
        for _ in range(self.dice.randrange(1, 6)):
            self.change_bucket()
        if self.dice.random() < 0.5:
            self.meddle()
        self.event()
        self.s3.fault = self.fault if self.dice.random() < 0.5 else lambda verb, key: None
        process = self.node.start()
        end = self.dice.choice(["finish", "finish", "kill", "reboot"])
        self.story.append(end)
        if self.dice.random() < 0.5:
            time.sleep(self.dice.uniform(0, 0.5))
            self.change_bucket()
            self.event()
        if end == "finish":
            process.wait(120)
        else:
            time.sleep(self.dice.uniform(0, 0.6))
            process.kill()
            for left in [process, *self.node.processes()]:
                with suppress(Exception):
                    left.kill()
            process.wait(10)
        if end == "reboot":
            shutil.rmtree(self.node.root / "run")
            (self.node.root / "run").mkdir()
        self.only_whole_files()
        (self.disk / "outputs").unlink(missing_ok=True)

    def only_whole_files(self) -> None:
        for key, body in self.node.files().items() if self.node.models.is_symlink() else ():
            assert key in self.meddled or body in self.seen[key], f"half a file: {key} ({self})"

    def __str__(self) -> str:
        return f"CHAOS_SEED={self.seed}: {' · '.join(self.story)}"


@pytest.mark.parametrize("seed", SEEDS)
def test_in_the_end_the_disk_equals_the_bucket(sync: ModuleType, node: ProgramNode, s3: S3Stub, seed: int) -> None:
    del node.env["COMFYUI_NODE_DISK_BYTES"]
    node.settings.write_text(
        'MODELS_BUCKET=models\nAWS_REGION=r\nIMAGE_RESERVE=0\nSCRATCH_RESERVE=0\nFIRST_SET=["vae/"]\n'
    )
    program = node.root / "usr/local/bin/comfyui-model-sync"
    text = program.read_text()
    program.unlink()
    program.write_text(text.replace("\n\nif __name__ == ", f"\n\n{PATIENCE}\n\nif __name__ == "))
    disk = node.root / "mnt/k8s-disks/0"
    with tmpfs(disk, "6m"):
        life = Life(seed, sync, node, s3, disk)
        for _ in range(life.dice.randrange(3, 7)):
            life.live()
        s3.fault = lambda verb, key: None
        last = node.start()
        _, stderr = last.communicate(timeout=120)
        assert last.returncode == 0, f"{life}\n{stderr}"
        listing = [(sync.RemoteObject(key, "", stored.size, 0), "") for key, stored in s3.objects.items()]
        expected = {key: s3.objects[key].body for key in sync.select(listing).wanted}
        assert node.files() == expected, str(life)
        status = node.status()
        assert (status["state"], status["ready"], status["missing_files"], status["left_out_count"]) == (
            "idle",
            True,
            0,
            0,
        )
        assert list((node.state / "tmp").glob("*")) == []
        assert not any(path.is_symlink() for path in node.models.resolve().rglob("*")), str(life)
