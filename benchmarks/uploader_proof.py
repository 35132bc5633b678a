#!/usr/bin/env python
"""The uploader loses, overwrites, repeats and truncates no file of ComfyUI: at full size, compared by hash.

    .venv/bin/python benchmarks/uploader_proof.py            about three minutes, 8 GB on the disk

Two pods write files of equal names at once: 500 pictures each, videos whose writer seeks back, sound, one file of 2 GB,
one that is written again after it was closed, and one that stays open. Then the server (versitygw) is down for a
minute. The second pod is stopped in the middle of that minute, the first one when the server is up again. Prints the
result, and exits with 1 unless every file is in the bucket exactly once with exactly its bytes.
tests/charts/test_uploader_s3.py is the same test on a smaller scale.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
import wave
from contextlib import ExitStack
from pathlib import Path

import av
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import s3_server  # noqa: E402 - found by the line above
from benchmarks.uploader import BUCKET, start  # noqa: E402

AWAY_SECONDS = 60
FAULTS = ("lost", "not_expected", "other_bytes", "unfinished_uploads")


class Pod:
    def __init__(self, home: Path, name: str, environment: dict[str, str]):
        self.name, self.home, self.output, self.log = name, home, home / "output", home / "log"
        self.output.mkdir(parents=True)
        with self.log.open("wb") as log:
            self.process = start(self.output, home / "state", environment, pod=name, stdout=log, stderr=log)

    def events(self, name: str) -> int:
        return self.log.read_text().count(f'"event": "{name}"')

    def has_uploaded(self, path: str) -> bool:
        return f'"event": "uploaded", "file": "{path}"' in self.log.read_text()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    @property
    def prefix(self) -> str:
        return f"{self.name}-{(self.home / 'state' / 'start-id').read_text()}/"


def write_everything(pod: Pod) -> None:
    for number in range(500):
        Image.effect_noise((256, 256), 90).save(pod.output / f"ComfyUI_{number:05}_.png")
    for suffix, codec, options in ((".mp4", "mpeg4", {"movflags": "faststart"}), (".webm", "vp8", {})):
        with av.open(str(pod.output / f"clip{suffix}"), "w", options=options) as container:
            stream = container.add_stream(codec, rate=10)
            stream.width = stream.height = 256
            for _ in range(50):
                picture = Image.effect_noise((256, 256), 90).convert("RGB")
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            container.mux(stream.encode())
    with wave.open(str(pod.output / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(44100)
        sound.writeframes(os.urandom(10 * 2 * 44100))
    (pod.output / "folder" / "deeper").mkdir(parents=True)
    (pod.output / "folder" / "deeper" / "日本語.txt").write_text("text")


def write_two_gigabytes(file: Path) -> None:
    with file.open("wb") as opened:
        for _ in range(2_000):
            opened.write(os.urandom(10**6))


def hashes(pod: Pod) -> dict[str, str]:
    return {
        str(file.relative_to(pod.output)): hashlib.file_digest(file.open("rb"), "sha256").hexdigest()
        for file in pod.output.rglob("*")
        if file.is_file()
    }


def in_bucket(environment: dict[str, str]) -> tuple[dict[str, str], int]:
    """SHA-256 by key, and the number of unfinished multipart uploads."""
    s3 = s3_server.client(environment)
    return s3_server.hashes(s3, BUCKET), len(s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []))


def prove(work: Path) -> dict[str, object]:
    (work / "buckets" / BUCKET).mkdir(parents=True)
    began = time.monotonic()
    with ExitStack() as server:
        served = server.enter_context(s3_server.serving(work / "server", work / "buckets"))
        environment = {**os.environ, **served}
        pods = first, second = [Pod(work / name, name, environment) for name in ("comfyui-a", "comfyui-b")]
        again = first.output / "grid.png"
        again.write_bytes(b"first")
        open_file = (first.output / "slow.bin").open("wb")
        open_file.write(b"begun")
        open_file.flush()
        for pod in pods:
            write_everything(pod)
        write_two_gigabytes(first.output / "long.mkv")
        while first.events("uploaded") < 100 or second.events("uploaded") < 100 or not first.has_uploaded("grid.png"):
            time.sleep(0.1)
        again.write_bytes(b"second")
        (second.output / "last.png").write_bytes(os.urandom(10**6))
    before = {pod.name: pod.events("uploaded") for pod in pods}
    time.sleep(AWAY_SECONDS / 2)
    second.terminate()
    time.sleep(AWAY_SECONDS / 2)
    port = served["AWS_ENDPOINT_URL_S3"].rpartition(":")[2]
    with s3_server.serving(work / "server-again", work / "buckets", port=int(port)):
        open_file.write(b" and ended")
        open_file.close()
        first.terminate()
        codes = [pod.process.wait(300) for pod in pods]
        found, unfinished = in_bucket(served)
    expected = {f"{pod.prefix}{path}": digest for pod in pods for path, digest in hashes(pod).items()}
    expected[f"{first.prefix}grid~2.png"] = expected.pop(f"{first.prefix}grid.png")
    expected[f"{first.prefix}grid.png"] = hashlib.sha256(b"first").hexdigest()
    return {
        "files": len(expected),
        "bytes": sum(file.stat().st_size for pod in pods for file in pod.output.rglob("*") if file.is_file()),
        "uploaded_before_the_server_went": before,
        "attempts_that_failed": {pod.name: pod.events("retry") for pod in pods},
        "exit_codes": codes,
        "lost": sorted(set(expected) - set(found)),
        "not_expected": sorted(set(found) - set(expected)),
        "other_bytes": sorted(key for key in set(found) & set(expected) if found[key] != expected[key]),
        "unfinished_uploads": unfinished,
        "seconds": round(time.monotonic() - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="folder on the disk to use")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        found = prove(Path(folder))
    print(json.dumps(found, indent=2, ensure_ascii=False))
    if found["exit_codes"] != [0, 0] or any(found[fault] for fault in FAULTS):
        sys.exit(1)


if __name__ == "__main__":
    main()
