"""Uploads every finished file of ComfyUI's output folder to a bucket: once, and to a key that nothing else produces.

A file is finished when no process has it open for writing, it has not changed for a moment, and its format does not
show that it is truncated (a killed writer leaves such files). A file that changes while it is read is never published:
small files are uploaded as one snapshot, large ones in parts that are completed only if the file is still the same.
Keys are `<prefix><pod>-<start>/<path>`, protected by `IfNoneMatch`; a file that is written again after its upload is
uploaded as `<name>~2`. Hidden files and links are ignored.

A failed upload is retried as long as the pod lives. On SIGTERM, when ComfyUI has ended, the remaining files are
uploaded before this program ends. Uploads are recorded in STATE_DIR, so that a restart of this container repeats none.

Environment: AWS_REGION, OUTPUTS_BUCKET, OUTPUTS_PREFIX, OUTPUT_DIR, STATE_DIR, POD_NAME, KEEP_LOCAL_GIB.
Logs one line of JSON per event to stdout.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import json
import mimetypes
import os
import random
import secrets
import signal
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

MIB = 2**20
POLL_SECONDS = 0.5
# Long enough for a writer that closes a file and opens it again to append to it.
QUIET_SECONDS = 2.0
# Where the kernel does not report writers, only a longer time without changes shows that a file is finished.
QUIET_SECONDS_BLIND = 10.0
# Concurrent files, and concurrent requests for parts of large files.
WORKERS = 10
# Bytes of all files that have been read and not sent yet.
MEMORY_BYTES = 160 * MIB
SNAPSHOT_BYTES = 32 * MIB
PART_BYTES = 8 * MIB
MAX_PARTS = 10_000
MAX_KEY_BYTES = 1024
RETRY_SECONDS = 30.0
RETRY_SECONDS_DRAINING = 2.0
# A client that was just notified of a result will download it from here.
KEEP_SECONDS = 600.0

# Types that mimetypes does not know on every system.
_TYPES = {
    ".flac": "audio/flac",
    ".glb": "model/gltf-binary",
    ".jxl": "image/jxl",
    ".avif": "image/avif",
    ".latent": "application/octet-stream",
    ".mkv": "video/x-matroska",
    ".opus": "audio/ogg",
    ".safetensors": "application/octet-stream",
    ".webm": "video/webm",
    ".webp": "image/webp",
}


class Stamp(NamedTuple):
    """Identifies the state of a file. By ctime, because a program can set mtime back."""

    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_ino, status.st_size, status.st_ctime_ns)

    def __str__(self) -> str:
        return "-".join(map(str, self))


class Memory:
    """Limits the bytes that all threads hold together; a thread alone may hold more."""

    def __init__(self, limit: int):
        self._limit, self._held, self._changed = limit, 0, threading.Condition()

    def acquire(self, size: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + size <= self._limit)
            self._held += size

    def release(self, size: int) -> None:
        with self._changed:
            self._held -= size
            self._changed.notify_all()


class FileChangedError(Exception):
    """The file changed while it was read: it is not finished, and nothing was published."""


@dataclass(frozen=True)
class Settings:
    region: str
    bucket: str
    prefix: str
    pod: str
    output: Path
    state: Path
    keep_bytes: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        try:
            return cls(
                region=environment["AWS_REGION"],
                bucket=environment["OUTPUTS_BUCKET"],
                prefix=environment["OUTPUTS_PREFIX"],
                pod=environment["POD_NAME"],
                output=Path(environment["OUTPUT_DIR"]),
                state=Path(environment["STATE_DIR"]),
                keep_bytes=int(environment["KEEP_LOCAL_GIB"]) * 2**30,
            )
        except KeyError as error:
            raise SystemExit(f"uploader: the environment variable {error.args[0]} is not set") from None


@dataclass(frozen=True)
class Upload:
    """The newest upload of one path. `digest` is that of `_digest`."""

    stamp: Stamp
    digest: str
    version: int
    at: float


@dataclass
class Journal:
    """The uploads since the pod started, kept across restarts of the container. Not thread-safe."""

    folder: Path
    start: str = ""
    uploads: dict[str, Upload] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lines = self.folder / "uploads.jsonl"
        self.start = self._start_id()
        if self._lines.exists():
            for line in self._lines.read_text().splitlines():
                # The last line is incomplete if the container was killed while writing it; S3 then responds with 412.
                with suppress(ValueError):
                    path, stamp, digest, version, at = json.loads(line)
                    self.uploads[path] = Upload(Stamp(*stamp), digest, version, at)

    def _start_id(self) -> str:
        """When this pod's volume was created, and random letters in case two were created in the same second."""
        file = self.folder / "start-id"
        if not file.exists():
            new = file.with_suffix(".new")
            new.write_text(f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}")
            new.rename(file)
        return file.read_text()

    def add(self, path: str, upload: Upload) -> None:
        self.uploads[path] = upload
        with self._lines.open("a") as lines:
            lines.write(json.dumps([path, *upload.__dict__.values()]) + "\n")


def object_key(prefix: str, path: str, version: int) -> str:
    """Key of a version of a file: its path, with `~2` and so on before the suffix of later versions.

    Bytes that are not UTF-8 are replaced, and a path too long for S3 becomes a hash with the file's suffix.
    """
    name = PurePosixPath(os.fsencode(path).decode("utf-8", "replace"))
    if version > 1:
        name = name.with_name(f"{name.stem}~{version}{name.suffix}")
    key = f"{prefix}{name}"
    if len(key.encode()) <= MAX_KEY_BYTES:
        return key
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()
    return f"{prefix}long-names/{digest}~{version}{name.suffix[:16]}"


def content_type(path: str) -> str:
    suffix = PurePosixPath(path).suffix.lower()
    return _TYPES.get(suffix) or mimetypes.guess_type("x" + suffix)[0] or "application/octet-stream"


def has_writer(descriptor: int) -> bool | None:
    """Whether a process in any container has this file open for writing; None where the kernel does not report it.

    A read lease is granted only while there is no writer. It is released at once, because it would block a new writer.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def finished(file: BinaryIO, now: float, draining: bool) -> bool:
    """Whether this open file can be uploaded. While draining, no process is left that could write to it again."""
    writer = has_writer(file.fileno())
    if writer:
        return False
    quiet = QUIET_SECONDS_BLIND if writer is None else QUIET_SECONDS
    return draining or now - os.fstat(file.fileno()).st_ctime >= quiet


def truncated(file: BinaryIO, size: int) -> bool:
    """Whether the file's format shows that its end is missing. False for formats that cannot show it."""
    file.seek(0)
    head = file.read(32)
    file.seek(max(0, size - 65536))
    tail = file.read(65536)
    file.seek(0)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND\xaeB`\x82" not in tail
    if head.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" not in tail
    if head.startswith((b"GIF87a", b"GIF89a")):
        return not tail.rstrip(b"\0").endswith(b";")
    if head.startswith(b"RIFF"):  # webp, wav, avi
        return int.from_bytes(head[4:8], "little") + 8 > size
    if head.startswith(b"glTF"):
        return int.from_bytes(head[8:12], "little") > size
    if head[4:8] == b"ftyp":
        return _mp4_truncated(file, size)
    return False


def _mp4_truncated(file: BinaryIO, size: int) -> bool:
    """mp4, mov and similar files are boxes of (size, type); without `moov` they cannot be played."""
    kinds = set()
    offset = 0
    while offset + 8 <= size:
        file.seek(offset)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:  # to the end of the file
            length = size - offset
        if kind not in (b"ftyp", b"free", b"mdat", b"moof", b"moov", b"meta") and b"moov" in kinds:
            break  # data appended after the end
        if length < 8 or offset + length > size:
            return True
        kinds.add(kind)
        offset += length
    # Images (avif, heic) have `meta` instead.
    return not kinds & {b"moov", b"meta"}


def files_below(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """(relative path, status) of every regular file that is not hidden; links are not followed."""
    waiting = deque([folder])
    while waiting:
        try:
            entries = list(os.scandir(waiting.popleft()))
        except FileNotFoundError:
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                waiting.append(Path(entry.path))
            elif stat.S_ISREG(status.st_mode):
                yield os.path.relpath(entry.path, folder), status


def log(event: str, **facts: Any) -> None:
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
    # One write for the whole line, so that lines of two threads do not mix. Non-ASCII stays escaped, because file names
    # can contain bytes that are not text.
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Uploader:
    """Watches one folder; `run` returns once `draining` is set and everything is in the bucket."""

    def __init__(self, client: S3Client, settings: Settings, draining: threading.Event):
        self._client = client
        self._settings = settings
        self._journal = Journal(settings.state)
        self._prefix = f"{settings.prefix}{settings.pod}-{self._journal.start}/"
        self._draining = draining
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        # Set when all submitted files are done: time to list the folder again.
        self._idle = threading.Event()
        # Path → attempts so far, and the monotonic time of the next one.
        self._failures: dict[str, tuple[int, float]] = {}
        self._truncated: dict[str, Stamp] = {}
        self._failed_attempts = 0
        self._written_status: dict[str, int] = {}
        self._status_written_at = 0.0
        self._memory = Memory(MEMORY_BYTES)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="file")
        self._parts = ThreadPoolExecutor(WORKERS, thread_name_prefix="part")

    def run(self) -> None:
        log("started", bucket=self._settings.bucket, prefix=self._prefix, known=len(self._journal.uploads))
        while True:
            draining = self._draining.is_set()
            files = list(files_below(self._settings.output))
            left = self._submit_due(files, draining)
            if not left or time.monotonic() - self._status_written_at >= POLL_SECONDS:
                self._write_status(left)
            if draining and not left:
                break
            self._make_room(files)
            if draining:
                self._idle.wait(POLL_SECONDS)
                self._idle.clear()
                time.sleep(POLL_SECONDS / 5)  # for files that still have a writer
            else:
                self._draining.wait(POLL_SECONDS)
        self._workers.shutdown()
        self._parts.shutdown()
        log("drained", uploads=len(self._journal.uploads))

    def _submit_due(self, files: Iterable[tuple[str, os.stat_result]], draining: bool) -> int:
        """Submits every file that may be finished to a worker; returns how many files are not uploaded yet."""
        now = time.time()
        waiting = []
        with self._lock:
            for path, status in files:
                upload = self._journal.uploads.get(path)
                known = upload.stamp if upload else self._truncated.get(path)
                if Stamp.of(status) != known:
                    waiting.append((status.st_mtime, path, status))
            # Oldest first, because people wait for them.
            for _, path, status in sorted(waiting, key=lambda item: item[:2]):
                _, not_before = self._failures.get(path, (0, 0.0))
                is_quiet = now - status.st_ctime >= QUIET_SECONDS
                if path not in self._busy and (draining or (is_quiet and time.monotonic() >= not_before)):
                    self._busy.add(path)
                    self._workers.submit(self._attempt, path)
        return len(waiting)

    def _write_status(self, waiting: int) -> None:
        """Writes the status for the exporter whenever it changes."""
        facts = {
            "waiting": waiting,
            "retrying": len(self._failures),
            "truncated": len(self._truncated),
            "failed_attempts": self._failed_attempts,
            "uploads": len(self._journal.uploads),
        }
        self._status_written_at = time.monotonic()
        if facts == self._written_status:
            return
        file = self._settings.state / "status.json"
        part = file.with_suffix(".part")
        try:
            part.write_text(json.dumps(facts))
            part.replace(file)
        except OSError as error:  # a full disk must not end the uploads that would free space
            log("status", error=str(error))
        else:
            self._written_status = facts

    def _attempt(self, path: str) -> None:
        attempts, not_before = self._failures.get(path, (0, 0.0))
        # While draining, a failed file is submitted again at once and waits here: there is nothing else to do.
        time.sleep(min(RETRY_SECONDS_DRAINING, max(0.0, not_before - time.monotonic())))
        try:
            self._upload(path, attempts + 1)
        except FileNotFoundError:
            self._failures.pop(path, None)
        except FileChangedError:
            pass
        except (BotoCoreError, ClientError, OSError) as error:
            self._failed(path, attempts + 1, str(error))
        except Exception as error:  # a bug must not lose a result
            self._failed(path, attempts + 1, repr(error))
        else:
            self._failures.pop(path, None)
        finally:
            with self._lock:
                self._busy.discard(path)
                if not self._busy:
                    self._idle.set()

    def _failed(self, path: str, attempts: int, reason: str) -> None:
        limit = RETRY_SECONDS_DRAINING if self._draining.is_set() else RETRY_SECONDS
        wait = random.uniform(0.5, 1) * min(limit, 2.0 ** min(attempts, 10))  # noqa: S311 - no secret, only spread
        with self._lock:
            self._failures[path] = (attempts, time.monotonic() + wait)
            self._failed_attempts += 1
        log("retry", file=path, attempts=attempts, error=reason, next_seconds=round(wait, 1))

    def _upload(self, path: str, attempt: int) -> None:
        began = time.monotonic()
        # Without O_NOFOLLOW a link could point to any file of this container, including its credentials.
        descriptor = os.open(self._settings.output / path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb", buffering=0) as raw:
            file: BinaryIO = raw
            if not finished(file, time.time(), self._draining.is_set()):
                return
            stamp = Stamp.of(os.fstat(descriptor))
            if truncated(file, stamp.size):
                self._truncated[path] = stamp
                log(
                    "truncated",
                    file=path,
                    bytes=stamp.size,
                    error="the end of the file is missing, and no process is writing it",
                )
                return
            before = self._journal.uploads.get(path)
            version = before.version if before else 0
            if before and before.stamp.size == stamp.size and before.digest == _digest(file, stamp):
                self._done(path, Upload(stamp, before.digest, version, time.time()))
                return
            digest, version, key = self._put(file, path, stamp, version + 1)
        self._done(path, Upload(stamp, digest, version, time.time()))
        seconds = round(time.monotonic() - began, 3)
        log("uploaded", file=path, key=key, bytes=stamp.size, seconds=seconds, attempts=attempt)

    def _done(self, path: str, upload: Upload) -> None:
        with self._lock:
            self._journal.add(path, upload)

    def _put(self, file: BinaryIO, path: str, stamp: Stamp, version: int) -> tuple[str, int, str]:
        """Uploads to the first free key from this version on; returns digest, version and key."""
        put = self._put_snapshot if stamp.size <= SNAPSHOT_BYTES else self._put_parts
        while True:
            key = object_key(self._prefix, path, version)
            file.seek(0)
            described = {
                "Bucket": self._settings.bucket,
                "Key": key,
                "ContentType": content_type(path),
                "Metadata": {"source": str(stamp)},
            }
            try:
                return put(file, stamp, described), version, key
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("PreconditionFailed", "412"):
                    raise
            found = self._client.head_object(Bucket=self._settings.bucket, Key=key)
            if found["Metadata"].get("source") == str(stamp):
                # An earlier attempt succeeded and only its response was lost.
                return _digest(file, stamp), version, key
            version += 1

    def _put_snapshot(self, file: BinaryIO, stamp: Stamp, described: Mapping[str, Any]) -> str:
        self._memory.acquire(stamp.size)
        try:
            body = file.read(stamp.size + 1)
            _check_unchanged(file, stamp, len(body))
            digest = hashlib.sha256(body)
            self._client.put_object(**described, Body=body, ChecksumSHA256=_base64(digest), IfNoneMatch="*")
        finally:
            self._memory.release(stamp.size)
        return digest.hexdigest()

    def _put_parts(self, file: BinaryIO, stamp: Stamp, described: Mapping[str, Any]) -> str:
        where = {name: described[name] for name in ("Bucket", "Key")}
        upload_id = self._client.create_multipart_upload(**described, ChecksumAlgorithm="SHA256")["UploadId"]
        sending: list[Future[CompletedPartTypeDef]] = []
        try:
            whole = hashlib.sha256()
            total, size = 0, _part_bytes(stamp)
            while body := self._read(file, size):
                total += len(body)
                digest = hashlib.sha256(body)
                whole.update(digest.digest())
                part = self._parts.submit(self._put_part, where, upload_id, len(sending) + 1, body, _base64(digest))
                # Also called for a part that is cancelled before it started.
                part.add_done_callback(lambda _: self._memory.release(size))
                sending.append(part)
                # No more than these can be in flight.
                if any(part.done() and part.exception() for part in sending[-MEMORY_BYTES // PART_BYTES :]):
                    break
            parts = [part.result() for part in sending]
            _check_unchanged(file, stamp, total)
            self._client.complete_multipart_upload(
                **where, UploadId=upload_id, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
            )
        except BaseException:
            for part in sending:
                part.cancel()
            wait(sending)  # a part that arrives after the abort would not be deleted
            # If this fails, the bucket's lifecycle rule removes the incomplete upload.
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**where, UploadId=upload_id)
            raise
        return whole.hexdigest()

    def _read(self, file: BinaryIO, size: int) -> bytes:
        """The next bytes of a file, for which `size` of the memory stays acquired; empty at the end of the file."""
        self._memory.acquire(size)
        body = b""
        try:
            body = file.read(size)
        finally:
            if not body:
                self._memory.release(size)
        return body

    def _put_part(
        self, where: Mapping[str, str], upload_id: str, number: int, body: bytes, checksum: str
    ) -> CompletedPartTypeDef:
        answer = self._client.upload_part(
            Bucket=where["Bucket"],
            Key=where["Key"],
            UploadId=upload_id,
            PartNumber=number,
            Body=body,
            ChecksumSHA256=checksum,
        )
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

    def _make_room(self, files: Iterable[tuple[str, os.stat_result]]) -> None:
        """Removes the oldest uploaded files while their total size exceeds what the pod may keep."""
        uploaded = []
        with self._lock:
            for path, status in files:
                upload = self._journal.uploads.get(path)
                if upload and upload.stamp == Stamp.of(status):
                    uploaded.append((upload.at, path, upload.stamp))
        excess = sum(stamp.size for _, _, stamp in uploaded) - self._settings.keep_bytes
        for at, path, stamp in sorted(uploaded):
            if excess <= 0 or time.time() - at < KEEP_SECONDS:
                return
            with suppress(FileNotFoundError):
                (self._settings.output / path).unlink()
            excess -= stamp.size
            log("removed", file=path, bytes=stamp.size)


def _part_bytes(stamp: Stamp) -> int:
    return max(PART_BYTES, -(-stamp.size // MAX_PARTS))


def _base64(digest: hashlib._Hash) -> str:
    return base64.b64encode(digest.digest()).decode()


def _digest(file: BinaryIO, stamp: Stamp) -> str:
    """SHA-256 of a small file; of a large one the SHA-256 of the SHA-256 of its parts, as S3 stores it."""
    file.seek(0)
    total = 0
    whole = hashlib.sha256()
    if stamp.size <= SNAPSHOT_BYTES:
        while body := file.read(PART_BYTES):
            total += len(body)
            whole.update(body)
    else:
        while body := file.read(_part_bytes(stamp)):
            total += len(body)
            whole.update(hashlib.sha256(body).digest())
    _check_unchanged(file, stamp, total)
    file.seek(0)
    return whole.hexdigest()


def _check_unchanged(file: BinaryIO, stamp: Stamp, read: int) -> None:
    if read != stamp.size or Stamp.of(os.fstat(file.fileno())) != stamp or has_writer(file.fileno()):
        raise FileChangedError


def main() -> None:
    settings = Settings.from_environment(os.environ)
    draining = threading.Event()
    # Before anything slow, including the import of boto3: until then SIGTERM would end this program without uploads.
    signal.signal(signal.SIGTERM, lambda *_: draining.set())
    signal.signal(signal.SIGINT, lambda *_: draining.set())
    # The kernel sends SIGIO when a writer opens a file during a lease; unhandled it would end this process.
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    Uploader(s3_client(settings.region), settings, draining).run()


def s3_client(region: str) -> S3Client:
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "max_attempts": 3},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=2 * WORKERS,
    )
    return boto3.client("s3", region_name=region, config=config)


if __name__ == "__main__":
    main()
