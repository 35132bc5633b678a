"""Tiny model files: valid ones and damaged ones."""

from __future__ import annotations

import json
import struct
from pathlib import Path


def safetensors(text: str = "", size: int = 16) -> bytes:
    """A valid safetensors file: one tensor of `size` zero bytes, `text` in its metadata (so files can differ)."""
    header = json.dumps(
        {
            "__metadata__": {"note": text},
            "weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]},
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


def write_model(models: Path, key: str, content: bytes | None = None) -> Path:
    """A model file at models/<key>, valid unless `content` says otherwise."""
    path = models / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors(key) if content is None else content)
    return path


# Results of an interrupted copy: ComfyUI lists each of them, it passes validation, and fails when it is loaded.
BROKEN = {
    "empty": b"",
    "cut in the header": safetensors("a long enough note")[:40],
    "cut in the data": safetensors("", size=64)[:-10],
    "a web page": b"<!doctype html><html><head><title>404 Not Found</title></head></html>",
}
