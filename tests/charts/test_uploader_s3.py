"""The uploader as the pod runs it, as a process, with the real S3 protocol. Files are compared by hash."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from comfyeks.charts import CHARTS_ROOT
from comfyeks_local.emulators.local_aws import LocalAws

pytestmark = pytest.mark.local

SCRIPT = CHARTS_ROOT / "comfyui" / "files" / "uploader.py"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    with LocalAws(tmp_path_factory.mktemp("local-aws")) as aws:
        yield aws


@pytest.fixture
def bucket(aws: LocalAws, request: pytest.FixtureRequest) -> str:
    name = "outputs-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    aws.client("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    return name


class Pod:
    """One pod's folders and its uploader process."""

    def __init__(self, home: Path, aws: LocalAws, bucket: str, name: str):
        self.home, self.aws, self.bucket, self.name = home, aws, bucket, name
        self.output = home / "output"
        self.output.mkdir(parents=True)
        self.log = home / "log"
        self.start()

    def start(self, program: Sequence[str | Path] = (SCRIPT,)) -> None:
        env = self.aws.environment() | {
            "OUTPUTS_BUCKET": self.bucket,
            "OUTPUTS_PREFIX": "team a/",
            "OUTPUT_DIR": str(self.output),
            "STATE_DIR": str(self.home / "state"),
            "POD_NAME": self.name,
            "KEEP_LOCAL_GIB": "4",
            "PYTHONUNBUFFERED": "1",
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, *program], env=env, stdout=log, stderr=log)
        starts = len(self.events("started"))
        wait_until(lambda: len(self.events("started")) > starts, self)

    def drain(self, seconds: float = 180) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(seconds) == 0, self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def events(self, name: str) -> list[dict[str, Any]]:
        # The last line may be half written, now or by a kill.
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
        return [line for line in lines if line["event"] == name]

    def hashes(self) -> dict[str, str]:
        """Path → SHA-256 of every file of the output folder."""
        files = [path for path in self.output.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.output)): sha256(path.read_bytes()) for path in files}

    def in_bucket(self) -> dict[str, str]:
        """Path → SHA-256 of every object of this pod."""
        s3 = self.aws.client("s3")
        start = (self.home / "state" / "start-id").read_text()
        prefix = f"team a/{self.name}-{start}/"
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {
            key.removeprefix(prefix): sha256(s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()) for key in keys
        }


def wait_until(condition: Callable[[], object], pod: Pod, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, pod.log.read_text()
        time.sleep(0.02)


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.fixture
def new_pod(tmp_path: Path, aws: LocalAws, bucket: str) -> Iterator[Callable[[str], Pod]]:
    """Creates pods by name; none outlives its test."""
    pods: list[Pod] = []

    def make(name: str) -> Pod:
        pods.append(Pod(tmp_path / name, aws, bucket, name))
        return pods[-1]

    yield make
    for pod in pods:
        pod.kill()


@pytest.fixture
def pod(new_pod: Callable[[str], Pod]) -> Pod:
    return new_pod("comfyui-0")


def write_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4" if path.suffix == ".mp4" else "vp8", rate=10)
        stream.width = stream.height = 64
        for _ in range(20):
            image = Image.effect_noise((64, 64), 90).convert("RGB")
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


def write_sound(path: Path) -> None:
    """With the writer of ComfyUI's SaveAudio nodes, which seeks back to complete its header."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame"}[path.suffix], rate=44100
        )
        frame = av.AudioFrame(format="s16", layout="mono", samples=44100)
        frame.planes[0].update(os.urandom(2 * 44100))
        frame.sample_rate = 44100
        for resampled in av.AudioResampler(format=stream.format, layout=stream.layout, rate=44100).resample(frame):
            container.mux(stream.encode(resampled))
        container.mux(stream.encode())


def test_every_kind_of_media_arrives_as_it_is(pod: Pod) -> None:
    (pod.output / "video").mkdir()
    Image.effect_noise((512, 512), 90).save(pod.output / "日本語 + (1).png")
    write_video(pod.output / "video" / "clip.mp4")
    write_video(pod.output / "video" / "clip.webm")
    for suffix in (".wav", ".flac", ".mp3"):
        write_sound(pod.output / f"sound{suffix}")
    pod.drain()
    assert pod.in_bucket() == pod.hashes()
    assert len(pod.in_bucket()) == 6


def test_a_large_file_arrives_in_parts_while_small_ones_do_not_wait_for_it(pod: Pod) -> None:
    with (pod.output / "long.bin").open("wb") as file:
        for _ in range(20):
            file.write(os.urandom(10 * 2**20))
    time.sleep(2.5)
    (pod.output / "small.png").write_bytes(b"small")
    pod.drain()
    assert pod.in_bucket() == pod.hashes()


def test_a_thousand_files_arrive_once_each(pod: Pod) -> None:
    for number in range(1000):
        (pod.output / f"{number:04}.png").write_bytes(os.urandom(2000))
    pod.drain(300)
    assert pod.in_bucket() == pod.hashes()
    assert len(pod.events("uploaded")) == 1000


def test_two_pods_with_equal_names_for_their_files_overwrite_nothing(new_pod: Callable[[str], Pod]) -> None:
    pods = [new_pod(name) for name in ("comfyui-a", "comfyui-b")]
    for pod in pods:
        for number in range(20):
            (pod.output / f"ComfyUI_{number:05}_.png").write_bytes(os.urandom(1000))
    for pod in pods:
        pod.drain()
    for pod in pods:
        assert pod.in_bucket() == pod.hashes()
        assert len(pod.in_bucket()) == 20


def test_a_file_that_is_written_again_after_its_upload_is_there_twice(pod: Pod) -> None:
    file = pod.output / "grid.png"
    file.write_bytes(b"first")
    wait_until(lambda: pod.events("uploaded"), pod)
    file.write_bytes(b"second")
    pod.drain()
    assert pod.in_bucket() == {"grid.png": sha256(b"first"), "grid~2.png": sha256(b"second")}


def test_stopped_right_after_its_start_it_still_uploads_everything(pod: Pod) -> None:
    """A pod is deleted while its uploader restarts."""
    pod.kill()
    (pod.output / "last.png").write_bytes(b"last")
    # The signal arrives while the script creates its client, the slowest part of its start.
    late = "import botocore.session as s, os, signal; real = s.Session.create_client\n"
    late += "def create(*a, **k):\n    os.kill(os.getpid(), signal.SIGTERM)\n    return real(*a, **k)\n"
    late += f"s.Session.create_client = create\nimport runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    pod.start(["-c", late])
    assert pod.process.wait(180) == 0, pod.log.read_text()
    assert pod.in_bucket() == pod.hashes()


def test_killed_in_the_middle_and_started_again_nothing_is_lost_or_twice(pod: Pod) -> None:
    for number in range(300):
        (pod.output / f"{number:03}.png").write_bytes(os.urandom(5000))
    wait_until(lambda: len(pod.events("uploaded")) >= 20, pod)
    pod.kill()
    done = len(pod.events("uploaded"))
    assert done < 300, "too late to be in the middle"
    pod.start()
    pod.drain()
    assert pod.in_bucket() == pod.hashes()


def test_stopped_in_the_middle_it_uploads_the_rest_first(pod: Pod) -> None:
    for number in range(300):
        (pod.output / f"{number:03}.png").write_bytes(os.urandom(5000))
    wait_until(lambda: len(pod.events("uploaded")) >= 20, pod)
    assert len(pod.events("uploaded")) < 300, "too late to be in the middle"
    pod.drain()
    assert pod.in_bucket() == pod.hashes()
    assert len(pod.in_bucket()) == 300


def test_a_bucket_that_is_unavailable_for_a_while_loses_nothing(pod: Pod, aws: LocalAws) -> None:
    s3 = aws.client("s3")
    s3.delete_bucket(Bucket=pod.bucket)
    for number in range(50):
        (pod.output / f"{number}.png").write_bytes(os.urandom(1000))
    wait_until(lambda: len(pod.events("retry")) >= 50, pod)
    s3.create_bucket(Bucket=pod.bucket, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    pod.drain()
    assert pod.in_bucket() == pod.hashes()


def test_a_key_is_never_overwritten_by_the_protocol_itself(pod: Pod, aws: LocalAws) -> None:
    """Small files go out in one request, large ones in parts: S3 must refuse both on a key that exists."""
    s3 = aws.client("s3")
    start = (pod.home / "state" / "start-id").read_text()
    sizes = {"small.bin": 1000, "large.bin": 40 * 2**20}
    for name in sizes:
        s3.put_object(Bucket=pod.bucket, Key=f"team a/{pod.name}-{start}/{name}", Body=b"foreign")
    for name, size in sizes.items():
        (pod.output / name).write_bytes(os.urandom(size))
    pod.drain()
    ours = pod.hashes()
    foreign = sha256(b"foreign")
    assert pod.in_bucket() == {
        "small.bin": foreign,
        "large.bin": foreign,
        "small~2.bin": ours["small.bin"],
        "large~2.bin": ours["large.bin"],
    }
