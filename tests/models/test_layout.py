from __future__ import annotations

from pathlib import Path

import pytest

from comfyeks.errors import UserError
from comfyeks.models import layout
from comfyeks.models.store import target_key
from tests.support.model_keys import MODEL_KEYS, KeyCase


@pytest.mark.parametrize("case", MODEL_KEYS, ids=[repr(case.key)[:40] for case in MODEL_KEYS])
def test_the_layout_rule_agrees_with_the_other_components(case: KeyCase) -> None:
    assert (layout.problem(case.key) is None) is case.is_model, case.why


def test_names_that_no_disk_can_hold_are_refused() -> None:
    assert layout.problem("loras/" + "ä" * 127) is None
    assert "longer than 255 bytes" in str(layout.problem("loras/" + "ä" * 128))
    assert "longer than 1024 bytes" in str(layout.problem("/".join(["folder" * 10] * 20)))


def test_a_key_below_another_file_is_a_conflict() -> None:
    assert layout.conflicts(["vae/a", "vae/a/b", "vae/a/b/c", "vae/ab", "loras/x/y"]) == {"vae/a/b", "vae/a/b/c"}


def test_a_folder_that_comfyui_does_not_read_is_reported_with_the_nearest_one() -> None:
    assert layout.folder_notice("loras/a") is None
    assert "Did you mean 'checkpoints'?" in str(layout.folder_notice("checkpoint/a"))
    assert "Did you mean" not in str(layout.folder_notice("ipadapter/a"))


def test_a_target_is_built_from_folder_and_name() -> None:
    path = Path("/somewhere/model+v2 (final).safetensors")
    assert target_key(path, "loras/style/", None) == "loras/style/model+v2 (final).safetensors"
    assert target_key(path, "/vae", "x.safetensors") == "vae/x.safetensors"


@pytest.mark.parametrize("folder", ["", "/", "..", "loras/../..", "loras//x", ".hidden", "loras/a\nb"])
def test_a_target_outside_the_layout_is_refused(folder: str) -> None:
    with pytest.raises(UserError, match=r"model\.ckpt"):
        target_key(Path("model.ckpt"), folder, None)
