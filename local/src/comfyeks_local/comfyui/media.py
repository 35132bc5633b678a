"""Real files with invented content: pictures with their prompt drawn on them, video, audio, safetensors."""

from __future__ import annotations

import colorsys
import hashlib
import json
import struct
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.video.stream import VideoStream
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

_MAX_HEADER_BYTES = 100_000_000


class SafetensorError(Exception):
    """The error of the safetensors library for a file that it cannot read."""

    __module__ = "safetensors_rust"  # the module of the library's own class, which clients see in exception_type


def check_safetensors(path: Path) -> None:
    """Raise SafetensorError when the header is cut, is not JSON, or does not match the length of the file."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise SafetensorError("Error while deserializing header: header too small")
        (length,) = struct.unpack("<Q", prefix)
        if length > _MAX_HEADER_BYTES:
            raise SafetensorError("Error while deserializing header: header too large")
        if 8 + length > size:
            raise SafetensorError("Error while deserializing header: invalid header length")
        try:
            header = json.loads(stream.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SafetensorError(f"Error while deserializing header: invalid JSON in header: {error}") from error
    if max(ends, default=0) != size - 8 - length:
        raise SafetensorError("Error while deserializing header: incomplete metadata, file not fully covered")


def safetensors_bytes(metadata: Mapping[str, str], data: bytes = b"\0" * 16) -> bytes:
    """The content of a valid file with one tensor of bytes."""
    header = json.dumps(
        {
            "__metadata__": dict(metadata),
            "tensor": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]},
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + data


@dataclass(frozen=True)
class Picture:
    """Replaces the result of a diffusion model: its size in pixels, and lines with the prompt and the settings."""

    width: int
    height: int
    lines: tuple[str, ...]

    def draw(self) -> Image.Image:
        """The image; equal pictures give equal pixels."""
        digest = hashlib.sha256("\n".join(self.lines).encode()).digest()
        size = (self.width, self.height)
        mask = Image.radial_gradient("L").resize(size)
        image = Image.composite(
            Image.new("RGB", size, _colour(digest[1])), Image.new("RGB", size, _colour(digest[2])), mask
        )
        draw = ImageDraw.Draw(image)
        for x, y, r, hue in zip(digest[3:8], digest[8:13], digest[13:18], digest[18:23], strict=True):
            centre, radius = (x * self.width // 255, y * self.height // 255), r * min(size) // 1500 + 1
            draw.circle(centre, radius, fill=_colour(hue))
        points = max(10, min(size) // 28)
        font = ImageFont.load_default(points)
        columns = max(8, int(self.width * 0.92 / (points * 0.52)))
        text = "\n".join(piece for line in self.lines for piece in textwrap.wrap(line, columns) or [""])
        draw.multiline_text(
            (points, points), text, fill="white", font=font, stroke_width=max(1, points // 12), stroke_fill="black"
        )
        return image


def _colour(byte: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(byte / 255, 0.55, 0.75)
    return int(red * 255), int(green * 255), int(blue * 255)


def write_png(path: Path, image: Image.Image, metadata: Mapping[str, str]) -> None:
    """Write under the final name from the start, as on the server: an observer of the folder sees a partial file."""
    info = PngInfo()
    for key, value in metadata.items():
        info.add_text(key, value)
    image.save(path, pnginfo=info, compress_level=4)


def write_video(path: Path, frames: Iterable[Image.Image], fps: float, codec: str, metadata: Mapping[str, str]) -> None:
    """Write mp4, mkv or webm, by the suffix. `codec` is PyAV's encoder name. Odd sizes lose a row or column."""
    options = {"movflags": "use_metadata_tags"} if path.suffix == ".mp4" else {}
    with av.open(str(path), mode="w", options=options) as container:
        for key, value in metadata.items():
            container.metadata[key] = value
        stream: VideoStream | None = None
        for image in frames:
            if stream is None:
                stream = cast(VideoStream, container.add_stream(codec, rate=Fraction(round(fps * 1000), 1000)))
                stream.width, stream.height = image.width // 2 * 2, image.height // 2 * 2
                stream.pix_fmt = "yuv420p"
                if codec.startswith("libvpx"):
                    stream.options = {"deadline": "realtime", "cpu-used": "8"}
            cropped = image.convert("RGB").crop((0, 0, stream.width, stream.height))
            container.mux(stream.encode(av.VideoFrame.from_image(cropped)))  # type: ignore[no-untyped-call]
        if stream is not None:
            container.mux(stream.encode())


def write_flac(path: Path, seconds: float, rate: int) -> None:
    """Silence, mono."""
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream("flac", rate=rate)
        stream.layout = "mono"
        total, block = int(seconds * rate), 4096
        for start in range(0, total, block):
            frame = av.AudioFrame(format="s16", layout="mono", samples=min(block, total - start))
            frame.planes[0].update(bytes(frame.planes[0].buffer_size))
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read_video(path: Path) -> tuple[list[Image.Image], float]:
    """The frames of a video, and their number per second."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_image() for frame in container.decode(stream)]  # type: ignore[no-untyped-call]
        return frames, float(stream.average_rate or 24)
