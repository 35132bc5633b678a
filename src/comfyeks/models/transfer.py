"""Transfers a file from a URL into the models bucket, through memory: reads ranges in parallel, uploads them as parts.

The object appears only when it is complete and has the right hash. The parts that an interrupted pull uploaded are
kept. The next pull reads those bytes from the source again, because the hash needs them, but uploads none of them.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from comfyeks.errors import OperationError, UserError
from comfyeks.models import formats, layout
from comfyeks.models.multipart import MultipartUpload
from comfyeks.models.sources import Source, Tokens
from comfyeks.models.store import ModelStore

CONNECTIONS = 8


@dataclass(frozen=True)
class Wanted:
    """A model to pull: source, destination, and its size and hash if known.

    With `name` None, it gets the name that the server sends.
    """

    url: str
    folder: str
    name: str | None
    size: int | None = None
    sha256: str | None = None
    allow_pickle: bool = False


@dataclass(frozen=True)
class Pulled:
    """A model that is in the bucket. `sha256` is None when it existed before and was not read."""

    key: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Progress:
    """Callbacks of `pull`: `total` gets the file's size once known, `advance` the bytes of each uploaded part."""

    total: Callable[[int], object] = lambda size: None
    advance: Callable[[int], object] = lambda count: None


def pull(
    store: ModelStore,
    wanted: Wanted,
    tokens: Tokens,
    *,
    force: bool = False,
    connections: int = CONNECTIONS,
    progress: Progress | None = None,
    retry_pause: float = 0.5,
) -> Pulled:
    """Copy one model into the bucket, unless it exists there with the right size.

    Raises OperationError when the source fails, the file is not the expected one, or the key holds another file.
    """
    progress = progress or Progress()

    def open_source() -> Source:
        return Source(wanted.url, tokens, connections=connections, retry_pause=retry_pause)

    source = open_source() if wanted.name is None else None
    key = f"{wanted.folder}/{wanted.name or (source.facts.name if source else '')}"
    if (problem := layout.problem(key)) is not None:
        raise UserError(f"{wanted.url}: {key!r} {problem}; name it with --as")
    present = None if force else store.size(key)
    if present is not None:
        if wanted.size not in (None, present):
            raise OperationError(
                f"{key} in {store.bucket} has {present} bytes, not {wanted.size}: another file. --force replaces it"
            )
        return Pulled(key, present, None)
    source = source or open_source()
    size = _agreed_size(source, wanted)
    expected = wanted.sha256 or source.facts.sha256
    try:
        formats.check(key, size, source.read, allow_pickle=wanted.allow_pickle)
    except formats.NotAModelError as error:
        raise OperationError(f"{source.shown}: {error}") from None
    progress.total(size)
    with store.errors(f"write {key} to"):
        upload = store.multipart(key, size, {"sha256": expected} if expected else {})
        digest = _transfer(source, upload, connections, progress)
        if expected is not None and digest != expected:
            upload.abort()
            raise OperationError(
                f"{source.shown}: its sha256 is {digest}, not {expected}: damaged, or another file; nothing was stored"
            )
        upload.complete(force=force)
    return Pulled(key, size, digest)


def _agreed_size(source: Source, wanted: Wanted) -> int:
    """The size in bytes. Raises OperationError when catalogue and source differ, before anything is read."""
    reported = source.facts.size
    if reported is None and wanted.size is None:
        raise OperationError(
            f"{source.shown}: the server does not send its size; download it, then use 'comfyeks models add'"
        )
    if None not in (reported, wanted.size) and reported != wanted.size:
        raise OperationError(f"{source.shown}: has {reported} bytes, not {wanted.size}: an error page, or another file")
    theirs = source.facts.sha256
    if None not in (theirs, wanted.sha256) and theirs != wanted.sha256:
        raise OperationError(
            f"{source.shown}: its host reports sha256 {theirs}, it must be {wanted.sha256}: another file"
        )
    size = reported or wanted.size
    assert size is not None
    return size


def _transfer(source: Source, upload: MultipartUpload, connections: int, progress: Progress) -> str:
    """Transfer every part; return the sha256 (hex) of the file. Uses at most 2 × connections + 2 buffers of a part."""
    digest = hashlib.sha256()
    buffers = _Buffers(upload.part_bytes)
    uploading: set[Future[None]] = set()

    def send(number: int, part: memoryview) -> None:
        upload.put(number, part)
        progress.advance(len(part))
        buffers.give(part)

    with ThreadPoolExecutor(connections) as fetchers, ThreadPoolExecutor(connections) as senders:
        try:
            for number, part in enumerate(_parts(source, upload, fetchers, buffers, connections), 1):
                digest.update(part)
                if len(uploading) >= connections:
                    done, uploading = wait(uploading, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                uploading.add(senders.submit(send, number, part))
            for future in uploading:
                future.result()
        except BaseException:
            source.stop.set()
            fetchers.shutdown(cancel_futures=True)
            senders.shutdown(cancel_futures=True)
            raise
    return digest.hexdigest()


class _Buffers:
    """A pool of reusable buffers: a new one for every part would fragment the heap, which grows with every GB."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: SimpleQueue[bytearray] = SimpleQueue()

    def take(self, length: int) -> memoryview:
        try:
            buffer = self._free.get_nowait()
        except Empty:
            buffer = bytearray(self._size)
        return memoryview(buffer)[:length]

    def give(self, part: memoryview) -> None:
        buffer = part.obj
        assert isinstance(buffer, bytearray)
        self._free.put(buffer)


def _parts(
    source: Source, upload: MultipartUpload, fetchers: ThreadPoolExecutor, buffers: _Buffers, connections: int
) -> Iterator[memoryview]:
    """Yield the parts in order: read ahead over several connections, or sequentially from a server without ranges."""
    if not source.facts.ranges:
        yield from _parts_of_stream(source.chunks(0, upload.size), upload, buffers)
        return

    def fetch(start: int, stop: int) -> memoryview:
        part = buffers.take(stop - start)
        source.read_into(part, start)
        return part

    ahead: deque[Future[memoryview]] = deque()
    for start, stop in upload.ranges:
        ahead.append(fetchers.submit(fetch, start, stop))
        if len(ahead) > connections:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _parts_of_stream(chunks: Iterator[bytes], upload: MultipartUpload, buffers: _Buffers) -> Iterator[memoryview]:
    rest = b""
    for start, stop in upload.ranges:
        part, at = buffers.take(stop - start), 0
        while at < len(part):
            chunk = rest or next(chunks)
            taken = chunk[: len(part) - at]
            part[at : at + len(taken)] = taken
            at, rest = at + len(taken), chunk[len(taken) :]
        yield part
