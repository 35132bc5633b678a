"""models/catalogue.yaml is right, and a wrong one is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfyeks.errors import UserError
from comfyeks.models import catalogue

SHA = "0123456789abcdef" * 4
GOOD = f"""\
# a comment
models:
  - id: base
    groups: [sdxl]
    folder: checkpoints
    file: base.safetensors
    url: https://huggingface.co/a/b/resolve/462165984030d82259a11f4367a4eed129e94a7b/base.safetensors
    size: 10
    sha256: {SHA}
    licence: MIT
    gated: false

  - id: fine-vae   # a comment behind
    groups: [sdxl, vaes]
    folder: vae
    file: fine.safetensors
    url: https://example.com/fine.safetensors
    size: null
    sha256:
    licence: MIT
    gated: true
"""


def write(tmp_path: Path, text: str = GOOD) -> Path:
    path = tmp_path / "catalogue.yaml"
    path.write_text(text)
    return path


def test_the_projects_own_catalogue_is_valid_and_has_the_promised_groups() -> None:
    known = catalogue.load()
    assert {"sdxl", "sd3.5", "flux", "qwen-image", "wan", "ltx"} <= set(known.groups)
    assert any(entry.gated for entry in known.entries)
    assert [entry.id for entry in known.entries if entry.size is None or entry.sha256 is None] == ["ltx-video-2b"]


def test_models_are_selected_by_id_and_group_each_once(tmp_path: Path) -> None:
    known = catalogue.load(write(tmp_path))
    assert [entry.id for entry in known.select(["fine-vae", "sdxl"])] == ["fine-vae", "base"]
    entry = known.at("vae/fine.safetensors")
    assert entry is not None
    assert (entry.size, entry.sha256, entry.gated, entry.line) == (None, None, True, 13)


def test_an_unknown_name_is_reported_with_similar_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'sdx' is not a model or group of the catalogue; did you mean sdxl\?"):
        catalogue.load(write(tmp_path)).select(["sdx"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("folder: checkpoints", "folder: checkpoint", "did you mean 'checkpoints'"),
        ("id: fine-vae", "id: base", "catalogue.yaml:13: id 'base' is already used in line 3"),
        (
            "folder: vae\n    file: fine", "folder: checkpoints\n    file: base",
            ":13: key 'checkpoints/base.safetensors' is already used in line 3"),
        ("    file: fine.safetensors\n", "", "catalogue.yaml:13: missing field 'file'"),
        ("size: 10", "size: 10\n    hash: x", "catalogue.yaml:3: unknown field 'hash'"),
        ("size: 10", "size: '10'", "catalogue.yaml:3: size '10' must be bytes, or null"),
        ("size: 10", "size: true", "catalogue.yaml:3: size True must be bytes, or null"),
        (SHA, "abc", "catalogue.yaml:3: sha256 'abc' must be 64 hex digits, or null"),
        ("https://example.com", "http://example.com", ":13: url 'http://example.com/fine.safetensors' must be an"),
        ("462165984030d82259a11f4367a4eed129e94a7b", "main", "main/base.safetensors' does not name a revision"),
        ("file: fine.safetensors", "file: ../fine.safetensors", ":13: file '../fine.safetensors' is a path"),
        ("gated: true", "gated: maybe", "catalogue.yaml:13: gated 'maybe' must be true or false"),
        ("groups: [sdxl, vaes]", "groups: [base]", "catalogue.yaml:3: id 'base' is also the name of a group"),
        ("  - id: base", "  - just text\n  - id: base", "catalogue.yaml:3: a model is a mapping with id"),
        ("models:", "model:", "must be a mapping with the one key 'models'"),
        ("models:", "models: [", "is not YAML"),
    ],
)  # fmt: skip
def test_an_invalid_entry_is_refused_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError) as refused:
        catalogue.load(write(tmp_path, GOOD.replace(old, new, 1)))
    assert message in str(refused.value)


def test_the_first_pull_fills_in_null_fields_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path)
    known = catalogue.load(path)
    base, fine = known.entries
    assert not known.record(base, 99, "f" * 64)
    assert path.read_text() == GOOD
    assert known.record(fine, 123, SHA)
    assert path.read_text() == GOOD.replace("size: null", "size: 123").replace("    sha256:\n", f"    sha256: {SHA}\n")
    assert catalogue.load(path).select(["fine-vae"])[0].sha256 == SHA
