"""Which object keys are models: the object `<folder>/<path>` becomes `models/<folder>/<path>` on every GPU node."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

# The folders that ComfyUI's own loaders read; custom nodes read others.
KNOWN_FOLDERS = (
    "audio_encoders", "background_removal", "checkpoints", "classifiers", "clip", "clip_vision", "configs",
    "controlnet", "detection", "diffusers", "diffusion_models", "embeddings", "frame_interpolation",
    "geometry_estimation", "gligen", "hypernetworks", "latent_upscale_models", "loras", "model_patches",
    "optical_flow", "photomaker", "style_models", "t2i_adapter", "text_encoders", "unet", "upscale_models", "vae",
    "vae_approx",
)  # fmt: skip
_MAX_KEY_BYTES = 1024  # S3's limit
_MAX_NAME_BYTES = 255  # of one name, on the nodes' file systems


def problem(key: str) -> str | None:
    """Why the nodes skip this key, as a clause; None when it is a model."""
    segments = key.split("/")
    if any(unicodedata.category(char) == "Cc" for char in key):
        return "has control characters"
    if key.endswith("/"):
        return "is a folder marker, not a file"
    if len(segments) < 2:
        return "has no folder: write <folder>/<file>, for example checkpoints/model.safetensors"
    if "" in segments:
        return "has an empty folder name"
    if hidden := [segment for segment in segments if segment.startswith(".")]:
        return f"has a name that starts with a dot ({hidden[0]!r})"
    if len(key.encode()) > _MAX_KEY_BYTES:
        return f"is longer than {_MAX_KEY_BYTES} bytes"
    if long := [segment for segment in segments if len(segment.encode()) > _MAX_NAME_BYTES]:
        return f"has a name longer than {_MAX_NAME_BYTES} bytes ({long[0][:40]}…)"
    return None


def folder_notice(key: str) -> str | None:
    """A warning when the key's folder is not one that ComfyUI itself reads, else None."""
    folder = key.partition("/")[0]
    if folder in KNOWN_FOLDERS:
        return None
    near = difflib.get_close_matches(folder, KNOWN_FOLDERS, n=1, cutoff=0.85)
    return f"ComfyUI itself does not read a folder {folder!r}; a custom node may" + (
        f". Did you mean {near[0]!r}?" if near else ""
    )


def conflicts(keys: Iterable[str]) -> set[str]:
    """The keys that no disk can hold, because another key is a file where they need a folder (`a/b` and `a/b/c`)."""
    known = set(keys)
    return {key for key in known if any(key[:at] in known for at, char in enumerate(key) if char == "/")}
