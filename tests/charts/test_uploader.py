"""The uploader loses, overwrites, repeats and truncates nothing. With a bucket in memory that can fail."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.charts.harness import pod_script

uploader = pod_script("uploader")
TARGET = uploader.Settings(
    region="us-west-2",
    bucket="out",
    prefix="renders/",
    pod="comfyui-0",
    output=Path(),
    state=Path(),
    keep_bytes=2**40,
)


def refusal(code: str, status: int, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)  # type: ignore[typeddict-item]


def refuse(code: str, status: int) -> None:
    raise refusal(code, status, "PutObject")


def checksum(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


class Bucket:
    """The part of an S3 client that the uploader uses. `fail` has what the next calls do instead."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.pending: dict[str, tuple[dict[str, Any], dict[int, bytes]]] = {}
        self.fail: dict[str, list[Callable[[dict[str, Any]], None]]] = {}
        self.lock = threading.Lock()

    def _called(self, operation: str, request: dict[str, Any]) -> None:
        with self.lock:
            self.calls.append(operation)
            failure = self.fail[operation].pop(0) if self.fail.get(operation) else None
        if failure:
            failure(request)

    def _publish(self, request: dict[str, Any], body: bytes, operation: str) -> None:
        assert request["IfNoneMatch"] == "*"
        with self.lock:
            if request["Key"] in self.objects:
                raise refusal("PreconditionFailed", 412, operation)
            self.objects[request["Key"]] = body

    def put_object(self, **request: Any) -> dict[str, Any]:
        self._called("put_object", request)
        assert request["ChecksumSHA256"] == checksum(request["Body"])
        self._publish(request, request["Body"], "PutObject")
        self.facts[request["Key"]] = request
        return {}

    def head_object(self, **request: Any) -> dict[str, Any]:
        self._called("head_object", request)
        return {"Metadata": self.facts[request["Key"]]["Metadata"]}

    def create_multipart_upload(self, **request: Any) -> dict[str, Any]:
        self._called("create_multipart_upload", request)
        upload_id = f"upload-{len(self.calls)}"
        self.pending[upload_id] = (request, {})
        return {"UploadId": upload_id}

    def upload_part(self, **request: Any) -> dict[str, Any]:
        self._called("upload_part", request)
        assert request["ChecksumSHA256"] == checksum(request["Body"])
        self.pending[request["UploadId"]][1][request["PartNumber"]] = request["Body"]
        return {"ETag": str(request["PartNumber"])}

    def complete_multipart_upload(self, **request: Any) -> dict[str, Any]:
        self._called("complete_multipart_upload", request)
        created, parts = self.pending[request["UploadId"]]
        numbers = [part["PartNumber"] for part in request["MultipartUpload"]["Parts"]]
        assert numbers == sorted(parts) == list(range(1, len(parts) + 1))
        for part in request["MultipartUpload"]["Parts"]:
            assert part["ChecksumSHA256"] == checksum(parts[part["PartNumber"]])
        self._publish(request, b"".join(parts[number] for number in numbers), "CompleteMultipartUpload")
        self.facts[request["Key"]] = created
        del self.pending[request["UploadId"]]
        return {}

    def abort_multipart_upload(self, **request: Any) -> dict[str, Any]:
        self._called("abort_multipart_upload", request)
        del self.pending[request["UploadId"]]
        return {}


class Pod:
    """A pod's folders, and an uploader that watches them in a thread."""

    def __init__(self, home: Path, bucket: Bucket, name: str = "comfyui-0", **settings: Any):
        self.output = home / name / "output"
        self.output.mkdir(parents=True, exist_ok=True)
        self.bucket = bucket
        self.settings = uploader.Settings(
            **{**TARGET.__dict__, "pod": name, "output": self.output, "state": home / name / "state", **settings}
        )
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self.draining = threading.Event()
        self.uploader = uploader.Uploader(self.bucket, self.settings, self.draining)
        self._thread = threading.Thread(target=self.uploader.run)
        self._thread.start()

    def drain(self, seconds: float = 20) -> None:
        assert self._thread
        self.draining.set()
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "still draining"

    def write(self, path: str, content: bytes = b"content") -> Path:
        file = self.output / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    @property
    def prefix(self) -> str:
        start = (self.settings.state / "start-id").read_text()
        return f"renders/{self.settings.pod}-{start}/"

    def uploaded(self) -> dict[str, bytes]:
        """Path → bytes of what this pod has in the bucket."""
        with self.bucket.lock:
            objects = dict(self.bucket.objects)
        return {key.removeprefix(self.prefix): body for key, body in objects.items() if key.startswith(self.prefix)}

    def wait_for(self, count: int, seconds: float = 20) -> dict[str, bytes]:
        deadline = time.monotonic() + seconds
        while len(self.uploaded()) < count:
            assert time.monotonic() < deadline, f"only {sorted(self.uploaded())}"
            time.sleep(0.01)
        return self.uploaded()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same behaviour in tenths of a second."""
    for name, value in {
        "POLL_SECONDS": 0.02,
        "QUIET_SECONDS": 0.1,
        "RETRY_SECONDS": 0.1,
        "RETRY_SECONDS_DRAINING": 0.05,
        "KEEP_SECONDS": 0.0,
    }.items():
        monkeypatch.setattr(uploader, name, value)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def pod(tmp_path: Path, bucket: Bucket) -> Iterator[Pod]:
    pod = Pod(tmp_path, bucket)
    pod.start()
    yield pod
    pod.drain()


def events(capsys: pytest.CaptureFixture[str], name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [line for line in lines if line["event"] == name]


# -- What is uploaded, and under which key


def test_a_finished_file_is_uploaded_with_its_folder_type_and_bytes(pod: Pod) -> None:
    pod.write("video/clip.webm", b"bytes")
    pod.wait_for(1)
    key = f"{pod.prefix}video/clip.webm"
    assert pod.bucket.objects == {key: b"bytes"}
    assert pod.bucket.facts[key]["ContentType"] == "video/webm"
    assert pod.bucket.facts[key]["Bucket"] == "out"


def test_each_upload_is_one_line_of_json(pod: Pod, capsys: pytest.CaptureFixture[str]) -> None:
    pod.write("a.png", b"12345")
    pod.wait_for(1)
    pod.drain()
    [line] = events(capsys, "uploaded")
    assert (line["file"], line["key"], line["bytes"], line["attempts"]) == ("a.png", f"{pod.prefix}a.png", 5, 1)
    assert line["seconds"] >= 0


def test_pending_files_and_failed_attempts_are_in_the_status_file(pod: Pod) -> None:
    pod.bucket.fail["put_object"] = [lambda _: refuse("SlowDown", 503)] * 2
    pod.write("a.txt")
    pod.wait_for(1)
    expected = {"waiting": 0, "retrying": 0, "truncated": 0, "failed_attempts": 2, "uploads": 1}
    deadline = time.monotonic() + 10
    while json.loads((pod.settings.state / "status.json").read_text()) != expected:
        assert time.monotonic() < deadline, (pod.settings.state / "status.json").read_text()
        time.sleep(0.01)


def test_the_same_name_in_two_pods_gives_two_objects(tmp_path: Path, bucket: Bucket) -> None:
    pods = [Pod(tmp_path / place, bucket) for place in ("first", "second")]  # same pod name, too
    for number, pod in enumerate(pods):
        pod.start()
        pod.write("ComfyUI_00001_.png", b"%d" % number)
    for pod in pods:
        pod.drain()
    assert sorted(bucket.objects.values()) == [b"0", b"1"]


def test_a_thousand_files_at_once_arrive_once_each(pod: Pod) -> None:
    contents = {f"batch/{number:04}.png": b"%d" % number for number in range(1000)}
    for path, content in contents.items():
        pod.write(path, content)
    assert pod.wait_for(1000) == contents
    pod.drain()
    assert pod.bucket.calls.count("put_object") == 1000


@pytest.mark.parametrize("path", ["a b+c (1).png", "日本語/図.png", "100%.png", "back\\slash.png", "line\nbreak.png"])
def test_a_name_is_kept_as_it_is(pod: Pod, path: str) -> None:
    pod.write(path)
    assert list(pod.wait_for(1)) == [path]


def test_a_name_that_is_not_text_is_still_uploaded(pod: Pod) -> None:
    descriptor = os.open(os.fsencode(pod.output) + b"/caf\xe9.png", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, b"x")
    os.close(descriptor)
    assert list(pod.wait_for(1)) == ["caf\ufffd.png"]


def test_a_path_that_is_too_long_for_a_key_is_still_uploaded(pod: Pod) -> None:
    pod.write("/".join(["d" * 200] * 6) + "/image.png")
    [key] = pod.wait_for(1)
    assert key.startswith("long-names/")
    assert key.endswith(".png")
    assert len(f"{pod.prefix}{key}".encode()) <= 1024


@pytest.mark.parametrize("path", [".hidden.png", ".cache/file.png"])
def test_hidden_files_are_not_uploaded(pod: Pod, path: str) -> None:
    pod.write(path)
    pod.write("seen.png")
    assert list(pod.wait_for(1)) == ["seen.png"]
    pod.drain()
    assert list(pod.uploaded()) == ["seen.png"]


def test_a_link_is_never_followed(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("token")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.png").write_text("token")
    (pod.output / "link.png").symlink_to(tmp_path / "secret")
    (pod.output / "folder").symlink_to(tmp_path / "folder")
    os.mkfifo(pod.output / "pipe.png")
    pod.write("seen.png")
    pod.wait_for(1)
    pod.drain()
    assert list(pod.uploaded()) == ["seen.png"]


def test_the_bytes_of_a_picture_and_so_its_workflow_are_unchanged(pod: Pod) -> None:
    info = PngInfo()
    info.add_text("workflow", '{"nodes": []}')
    Image.new("RGB", (8, 8)).save(pod.output / "a.png", pnginfo=info)
    [body] = pod.wait_for(1).values()
    assert Image.open(io.BytesIO(body)).text["workflow"] == '{"nodes": []}'  # type: ignore[attr-defined]


def test_a_link_that_takes_the_place_of_a_file_after_it_was_seen_is_not_followed_either(pod: Pod) -> None:
    (pod.output / "link.png").symlink_to("/proc/self/environ")
    with pytest.raises(OSError, match="symbolic links"):
        pod.uploader._upload("link.png", 1)


# -- What is not finished


def test_a_file_that_is_held_open_is_not_uploaded_however_long_it_is_quiet(pod: Pod) -> None:
    with (pod.output / "slow.bin").open("wb") as file:
        file.write(b"first")
        file.flush()
        time.sleep(0.5)  # five times the quiet time
        assert pod.uploaded() == {}
        file.seek(0)
        file.write(b"FIRST and last")
    assert pod.wait_for(1) == {"slow.bin": b"FIRST and last"}


def test_a_file_that_is_held_open_for_reading_is_uploaded(pod: Pod) -> None:
    """SaveVideo reads what it has written; a gallery reads what is there."""
    with pod.write("clip.bin").open("rb"):
        assert pod.wait_for(1)


def test_a_file_that_is_closed_and_opened_again_is_uploaded_once_and_whole(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "QUIET_SECONDS", 1.5)  # far longer than a busy machine makes the pauses below
    for part in (b"one ", b"two ", b"three"):
        with (pod.output / "log.bin").open("ab") as file:
            file.write(part)
        time.sleep(0.03)
    assert pod.wait_for(1) == {"log.bin": b"one two three"}
    pod.drain()
    assert len(pod.bucket.objects) == 1


def test_where_the_kernel_does_not_show_writers_a_longer_quiet_time_decides(
    pod: Pod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "has_writer", lambda _: None)
    monkeypatch.setattr(uploader, "QUIET_SECONDS_BLIND", 0.5)
    pod.write("a.bin")
    time.sleep(0.3)
    assert pod.uploaded() == {}
    assert pod.wait_for(1)


def test_setting_the_time_back_does_not_make_a_new_file_an_old_one(tmp_path: Path) -> None:
    file = tmp_path / "copied.png"
    file.write_bytes(b"x")
    os.utime(file, (0, 0))
    with file.open("rb") as opened:
        assert not uploader.finished(opened, time.time(), draining=False)
        assert uploader.finished(opened, time.time() + 1, draining=False)


def png(size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((size, size), 90).save(buffer, "png")
    return buffer.getvalue()


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, kind)
    return buffer.getvalue()


def mp4(faststart: bool) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        options = {"movflags": "faststart"} if faststart else {}
        with av.open(file.name, "w", options=options) as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 64
            for _ in range(10):
                image = Image.effect_noise((64, 64), 90).convert("RGB")
                container.mux(stream.encode(av.VideoFrame.from_image(image)))
            container.mux(stream.encode())
        return Path(file.name).read_bytes()


WHOLE = {
    "png": png,
    "jpeg": lambda: picture("jpeg"),
    "gif": lambda: picture("gif"),
    "webp": lambda: picture("webp"),
    "avif": lambda: picture("avif"),
    "wav": lambda: b"RIFF" + (36 + 800).to_bytes(4, "little") + b"WAVEfmt " + bytes(28) + bytes(800),
    "glb": lambda: b"glTF\x02\0\0\0" + (400).to_bytes(4, "little") + bytes(388),
    "mp4": lambda: mp4(faststart=False),
    "mp4-faststart": lambda: mp4(faststart=True),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_the_truncated_file_of_a_killed_writer_is_detected_by_its_format(kind: str) -> None:
    body = WHOLE[kind]()

    def truncated(content: bytes) -> bool:
        return bool(uploader.truncated(io.BytesIO(content), len(content)))

    assert not truncated(body)
    for part in (len(body) // 2, len(body) - 20):
        assert truncated(body[:part]), f"{part} of {len(body)} bytes"


@pytest.mark.parametrize("body", [b"", b"x", b"plain text", b"\x00" * 100, b"fLaC" + b"x" * 50], ids=repr)
def test_a_format_without_an_end_mark_is_uploaded_as_it_is(body: bytes) -> None:
    assert not uploader.truncated(io.BytesIO(body), len(body))


def test_bytes_after_the_end_do_not_make_a_file_truncated() -> None:
    for body in (png() + b"trailer" * 10, mp4(faststart=False) + b"\xff" * 50):
        assert not uploader.truncated(io.BytesIO(body), len(body))


def test_half_a_picture_stays_until_it_is_whole_and_does_not_delay_the_end(
    pod: Pod, capsys: pytest.CaptureFixture[str]
) -> None:
    body = png()
    pod.write("killed.png", body[:-50])
    pod.write("again.png", body[:-50])
    time.sleep(0.3)
    assert pod.uploaded() == {}
    pod.write("again.png", body)
    assert pod.wait_for(1) == {"again.png": body}
    pod.drain()
    assert sorted({line["file"] for line in events(capsys, "truncated")}) == ["again.png", "killed.png"]
    assert list(pod.uploaded()) == ["again.png"]


# -- Exactly once


def test_a_file_that_is_written_again_goes_beside_its_first_version(pod: Pod) -> None:
    for number, content in enumerate([b"first", b"second", b"third"], start=1):
        pod.write("sub/grid.png", content)
        pod.wait_for(number)
    assert pod.uploaded() == {"sub/grid.png": b"first", "sub/grid~2.png": b"second", "sub/grid~3.png": b"third"}


def test_a_file_that_is_touched_or_written_with_the_same_bytes_is_not_uploaded_again(pod: Pod) -> None:
    file = pod.write("a.png", b"same")
    pod.wait_for(1)
    os.utime(file)
    pod.write("a.png", b"same")
    time.sleep(0.4)
    pod.drain()
    assert pod.bucket.calls.count("put_object") == 1


def test_a_restarted_container_resumes_where_it_was(tmp_path: Path, bucket: Bucket) -> None:
    first = Pod(tmp_path, bucket)
    first.start()
    first.write("a.png")
    first.wait_for(1)
    first.drain()
    again = Pod(tmp_path, bucket)
    again.start()
    again.write("b.png")
    again.wait_for(2)
    again.drain()
    assert sorted(again.uploaded()) == ["a.png", "b.png"]
    assert first.prefix == again.prefix
    assert bucket.calls.count("put_object") == 2


def test_a_container_that_died_before_it_wrote_down_an_upload_does_not_repeat_it(
    tmp_path: Path, bucket: Bucket
) -> None:
    first = Pod(tmp_path, bucket)
    first.start()
    first.write("a.png")
    first.wait_for(1)
    first.drain()
    journal = first.settings.state / "uploads.jsonl"
    journal.write_text(journal.read_text()[:10])
    again = Pod(tmp_path, bucket)
    again.start()
    again.drain()
    assert list(again.uploaded()) == ["a.png"]
    assert bucket.calls.count("head_object") == 1


def test_an_upload_whose_answer_was_lost_is_not_repeated(pod: Pod) -> None:
    def lost(request: dict[str, Any]) -> None:
        pod.bucket.objects[request["Key"]] = request["Body"]
        pod.bucket.facts[request["Key"]] = request
        raise EndpointConnectionError(endpoint_url="s3")

    pod.bucket.fail["put_object"] = [lost]
    pod.write("a.png")
    pod.wait_for(1)
    pod.drain()
    assert list(pod.uploaded()) == ["a.png"]


def test_a_key_that_another_writer_took_is_never_overwritten(pod: Pod) -> None:
    key = f"{pod.prefix}a.png"
    pod.bucket.objects[key] = b"foreign"
    pod.bucket.facts[key] = {"Metadata": {}}
    pod.write("a.png", b"ours")
    assert pod.wait_for(2) == {"a.png": b"foreign", "a~2.png": b"ours"}


# -- Large files


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploader, "SNAPSHOT_BYTES", 1000)
    monkeypatch.setattr(uploader, "PART_BYTES", 1000)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [1001, 2000, 12_345])
def test_a_large_file_is_uploaded_in_parts_that_make_the_whole(pod: Pod, size: int) -> None:
    body = os.urandom(size)
    pod.write("clip.bin", body)
    assert pod.wait_for(1) == {"clip.bin": body}
    assert pod.bucket.calls.count("upload_part") == -(-size // 1000)


@pytest.mark.usefixtures("small_parts")
def test_a_large_file_that_is_written_during_its_upload_is_not_published(pod: Pod) -> None:
    def grow(_: dict[str, Any]) -> None:
        pod.write("clip.bin", b"n" * 3000)

    pod.bucket.fail["upload_part"] = [grow]
    pod.write("clip.bin", b"o" * 5000)
    assert pod.wait_for(1) == {"clip.bin": b"n" * 3000}
    pod.drain()
    assert pod.bucket.pending == {}
    assert pod.bucket.calls.count("abort_multipart_upload") == 1


@pytest.mark.usefixtures("small_parts")
def test_a_failed_part_is_repeated_and_no_unfinished_upload_remains(pod: Pod) -> None:
    def fails(_: dict[str, Any]) -> None:
        raise EndpointConnectionError(endpoint_url="s3")

    pod.bucket.fail["upload_part"] = [fails, fails]
    body = os.urandom(5000)
    pod.write("clip.bin", body)
    assert pod.wait_for(1) == {"clip.bin": body}
    pod.drain()
    assert pod.bucket.pending == {}


def test_no_file_is_too_large_for_the_number_of_parts() -> None:
    largest = 5 * 2**40  # S3's own limit
    assert -(-largest // max(uploader.PART_BYTES, -(-largest // uploader.MAX_PARTS))) <= 10_000


# -- Failures


def broken(_: dict[str, Any]) -> None:
    raise refusal("SlowDown", 503, "PutObject")


def forbidden(_: dict[str, Any]) -> None:
    raise refusal("AccessDenied", 403, "PutObject")


def bug(_: dict[str, Any]) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("failure", [broken, forbidden, bug])
def test_a_failed_upload_is_tried_again_until_it_works(
    pod: Pod, failure: Callable[[dict[str, Any]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    pod.bucket.fail["put_object"] = [failure] * 5
    pod.write("a.png")
    pod.wait_for(1)
    pod.drain()
    assert [line["attempts"] for line in events(capsys, "retry")] == [1, 2, 3, 4, 5]


def test_one_file_that_fails_does_not_delay_the_others(pod: Pod) -> None:
    def only_bad(request: dict[str, Any]) -> None:
        if "bad" in request["Key"]:
            raise refusal("AccessDenied", 403, "PutObject")

    pod.bucket.fail["put_object"] = [only_bad] * 40
    pod.write("bad.png")
    for number in range(20):
        pod.write(f"good-{number}.png")
    uploaded = pod.wait_for(20)
    assert len([path for path in uploaded if path.startswith("good")]) == 20


def test_the_wait_between_attempts_grows_to_its_limit(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploader, "RETRY_SECONDS", 30.0)
    waits = []
    for attempts in (1, 2, 3, 4, 5, 6, 50):
        pod.uploader._failed("a.png", attempts, "reason")
        waits.append(pod.uploader._failures["a.png"][1] - time.monotonic())
    for wait, longest in zip(waits, [2, 4, 8, 16, 30, 30, 30], strict=True):
        assert longest / 2 - 0.1 <= wait <= longest
    pod.uploader._failures.clear()


def test_a_file_that_is_deleted_before_its_upload_is_dropped(pod: Pod) -> None:
    file = pod.write("a.png")

    def removes(_: dict[str, Any]) -> None:
        file.unlink()
        raise refusal("SlowDown", 503, "PutObject")

    pod.bucket.fail["put_object"] = [removes]
    time.sleep(0.3)
    pod.drain()
    assert pod.uploaded() == {}


# -- The end


def test_everything_is_uploaded_before_the_end(tmp_path: Path, bucket: Bucket) -> None:
    pod = Pod(tmp_path, bucket)
    pod.start()
    contents = {f"{number}.png": b"%d" % number for number in range(200)}
    for path, content in contents.items():
        pod.write(path, content)
    pod.drain()
    assert pod.uploaded() == contents


def test_the_end_waits_for_a_bucket_that_is_unavailable(tmp_path: Path, bucket: Bucket) -> None:
    pod = Pod(tmp_path, bucket)
    pod.start()
    bucket.fail["put_object"] = [broken] * 10
    pod.write("last.png")
    pod.drain()
    assert list(pod.uploaded()) == ["last.png"]


def test_the_end_waits_for_a_writer(tmp_path: Path, bucket: Bucket) -> None:
    pod = Pod(tmp_path, bucket)
    pod.start()
    with (pod.output / "late.bin").open("wb") as file:
        file.write(b"half")
        file.flush()
        pod.draining.set()
        time.sleep(0.2)
        assert pod.uploaded() == {}
        file.write(b" and half")
    pod.drain()
    assert pod.uploaded() == {"late.bin": b"half and half"}


def test_the_end_needs_no_quiet_time(tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploader, "QUIET_SECONDS", 60.0)
    pod = Pod(tmp_path, bucket)
    pod.start()
    pod.write("last.png")
    pod.drain(5)
    assert list(pod.uploaded()) == ["last.png"]


# -- Disk space


def test_the_oldest_uploaded_files_are_removed_and_the_newest_stay(tmp_path: Path, bucket: Bucket) -> None:
    pod = Pod(tmp_path, bucket, keep_bytes=250)
    pod.start()
    for number in range(5):
        pod.write(f"{number}.png", b"x" * 100)
        pod.wait_for(number + 1)
    deadline = time.monotonic() + 10
    while len(list(pod.output.iterdir())) > 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pod.drain()
    assert sorted(file.name for file in pod.output.iterdir()) == ["3.png", "4.png"]
    assert len(pod.uploaded()) == 5


def test_a_file_that_is_not_uploaded_is_never_removed(tmp_path: Path, bucket: Bucket) -> None:
    pod = Pod(tmp_path, bucket, keep_bytes=0)
    bucket.fail["put_object"] = [broken] * 8
    pod.start()
    pod.write("a.png", b"x")
    time.sleep(0.3)
    assert (pod.output / "a.png").exists() or pod.uploaded()
    pod.drain()
    assert pod.uploaded() == {"a.png": b"x"}


def test_a_name_that_is_used_again_after_its_removal_gets_its_own_key(tmp_path: Path, bucket: Bucket) -> None:
    pod = Pod(tmp_path, bucket, keep_bytes=0)
    pod.start()
    for number, content in enumerate([b"one", b"two"], start=1):
        pod.write("ComfyUI_00001_.png", content)
        pod.wait_for(number)
        deadline = time.monotonic() + 10
        while (pod.output / "ComfyUI_00001_.png").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    pod.drain()
    assert pod.uploaded() == {"ComfyUI_00001_.png": b"one", "ComfyUI_00001_~2.png": b"two"}


def test_a_result_is_kept_as_long_as_its_client_may_fetch_it(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "KEEP_SECONDS", 600.0)
    pod = Pod(tmp_path, bucket, keep_bytes=0)
    pod.start()
    pod.write("a.png")
    pod.wait_for(1)
    time.sleep(0.2)
    pod.drain()
    assert (pod.output / "a.png").exists()


# -- Settings


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(SystemExit, match="OUTPUTS_BUCKET is not set"):
        uploader.Settings.from_environment({"AWS_REGION": "us-west-2"})


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a.png", "image/png"),
        ("a.JPG", "image/jpeg"),
        ("a.webp", "image/webp"),
        ("a.mp4", "video/mp4"),
        ("a.webm", "video/webm"),
        ("a.mkv", "video/x-matroska"),
        ("a.flac", "audio/flac"),
        ("a.mp3", "audio/mpeg"),
        ("a.glb", "model/gltf-binary"),
        ("a.json", "application/json"),
        ("a.latent", "application/octet-stream"),
        ("no-suffix", "application/octet-stream"),
    ],
)
def test_the_content_type_follows_the_name(path: str, kind: str) -> None:
    assert uploader.content_type(path) == kind


@contextmanager
def memory_limit(mebibytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < mebibytes * 2**20, f"{peak / 2**20:.0f} MiB"


def test_memory_is_bounded_however_large_a_file_is(tmp_path: Path) -> None:
    class Forgetful(Bucket):
        """Keeps no bytes, and accepts none for two seconds: enough for parts to accumulate if they can."""

        opens = time.monotonic() + 2

        def upload_part(self, **request: Any) -> dict[str, Any]:
            time.sleep(max(0.0, self.opens - time.monotonic()))
            return {"ETag": ""}

        def complete_multipart_upload(self, **request: Any) -> dict[str, Any]:
            self.objects[request["Key"]] = b""
            return {}

    pod = Pod(tmp_path, Forgetful())
    for number in range(4):
        with (pod.output / f"{number}.bin").open("wb") as file:
            file.truncate(200 * 2**20)
    with memory_limit(170):  # the sum of the uploader's constants, and a little more
        pod.start()
        pod.wait_for(4, seconds=60)
        pod.drain()
