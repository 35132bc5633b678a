"""Detects from its first bytes whether a file is a model, or something else with a model's name."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

SAFETENSORS = (".safetensors", ".sft")
# Formats that run code when they are loaded.
PICKLES = (".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl")
_MAX_HEADER = 100_000_000  # the limit of the safetensors library
_SNIFF = 512

# Reads bytes [start, stop) of the file, fewer only at its end.
Read = Callable[[int, int], bytes | bytearray]


class NotAModelError(Exception):
    """The file is not a model; the message is a clause that says what it is."""


def check(name: str, size: int, read: Read, *, allow_pickle: bool = False) -> None:
    """Raise NotAModelError when a file of `size` bytes does not have the format that its name implies."""
    suffix = PurePosixPath(name).suffix.lower()
    start = bytes(read(0, min(size, _SNIFF)))
    if not start:
        raise NotAModelError("is empty")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise NotAModelError("is a web page, not a model")
    if text.startswith(b"version https://git-lfs"):
        raise NotAModelError("is a Git LFS pointer, not the file it points to")
    if suffix in SAFETENSORS:
        _check_safetensors(size, read)
    elif not allow_pickle and (suffix in PICKLES or _is_pickle(start)):
        raise NotAModelError(
            "is in a pickle format, which can run any code on the GPU nodes when it is loaded; "
            "if you trust its source, pass --allow-pickle"
        )


def _is_pickle(start: bytes) -> bool:
    """A pickle of protocol 2 or newer, or torch's zip archive around one."""
    return (start[:1] == b"\x80" and start[1:2] <= b"\x05") or start[:4] == b"PK\x03\x04"


def _check_safetensors(size: int, read: Read) -> None:
    if size < 8:
        raise NotAModelError(f"has {size} bytes, too few for a safetensors file")
    (length,) = struct.unpack("<Q", read(0, 8))
    if not 2 <= length <= min(_MAX_HEADER, size - 8):
        raise NotAModelError(f"is not a safetensors file, or is truncated: its header claims {length} of {size} bytes")
    try:
        header: dict[str, Any] = json.loads(read(8, 8 + length))
        end = max((tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise NotAModelError("is not a safetensors file: its header cannot be read") from None
    if 8 + length + end != size:
        raise NotAModelError(f"has {size} bytes, but its safetensors header describes {8 + length + end}")
