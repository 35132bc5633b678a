"""Files that are replaced as a whole."""

from pathlib import Path

import pytest

from comfyeks.files import write_atomically


def test_a_file_is_written_in_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b.json", "中")
    assert (tmp_path / "a" / "b.json").read_text(encoding="utf-8") == "中"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")

    def full(self: Path, target: Path) -> Path:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
