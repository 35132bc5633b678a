from __future__ import annotations

import struct
from pathlib import Path

import pytest

from comfyeks.client.errors import MissingResultError
from comfyeks.client.events import decode_binary
from comfyeks.client.results import OutputData, OutputFile, local_path, new_file, parse_outputs


def put(wanted: Path, content: bytes) -> Path:
    with new_file(wanted) as (stream, publish):
        stream.write(content)
        return publish()


def test_every_kind_of_output_is_a_result() -> None:
    item = {"filename": "a.png", "subfolder": "s", "type": "output", "id": "asset-1"}
    files, data = parse_outputs(
        {
            "1": {"images": [item], "animated": [True]},
            "2": {"audio": [{"filename": "b.flac"}], "text": ["hello", "world"]},
            "3": {"3d": [{"filename": "c.glb", "type": "temp"}]},
            "4": {},
        }
    )
    assert files == [
        OutputFile("1", "images", "a.png", "s", "output"),
        OutputFile("2", "audio", "b.flac", "", "output"),
        OutputFile("3", "3d", "c.glb", "", "temp"),
    ]
    assert data == [OutputData("2", "text", ".txt", text) for text in (b"hello", b"world")]


@pytest.mark.parametrize("name", ["../x.png", "a/../../x", "/etc/passwd", "", "a\nb", "a\\b"])
def test_a_result_cannot_be_written_outside_the_folder(name: str) -> None:
    with pytest.raises(MissingResultError, match="not saved"):
        local_path(Path("out"), name)


def test_subfolders_are_kept() -> None:
    assert local_path(Path("out"), "video/clip..v2.mp4") == Path("out/video/clip..v2.mp4")


def test_nothing_is_overwritten_and_nothing_is_stored_twice(tmp_path: Path) -> None:
    wanted = tmp_path / "sub" / "a.png"
    assert put(wanted, b"one") == wanted
    assert put(wanted, b"two") == tmp_path / "sub" / "a (1).png"
    assert put(wanted, b"three") == tmp_path / "sub" / "a (2).png"
    assert put(wanted, b"two") == tmp_path / "sub" / "a (1).png"
    assert wanted.read_bytes() == b"one"
    assert len(list((tmp_path / "sub").iterdir())) == 3


def test_a_file_that_was_not_finished_leaves_nothing(tmp_path: Path) -> None:
    def break_off() -> None:
        with new_file(tmp_path / "a.png") as (stream, _):
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert list(tmp_path.iterdir()) == []


def test_previews_are_decoded_with_and_without_metadata() -> None:
    event = decode_binary(struct.pack(">II", 1, 2) + b"PNG!")
    assert event is not None
    assert (event.data, event.image) == ({"format": "png"}, b"PNG!")
    details = b'{"node_id": "3", "image_type": "image/jpeg"}'
    event = decode_binary(struct.pack(">II", 4, len(details)) + details + b"JPEG")
    assert event is not None
    assert (event.data["node_id"], event.data["format"], event.image) == ("3", "jpeg", b"JPEG")
    assert decode_binary(struct.pack(">II", 3, 5) + b"other") is None
    assert decode_binary(b"short") is None
