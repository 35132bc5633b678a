"""The server's directories: model folders with ComfyUI's caching of listings, input, output, temp and user."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MODEL_EXTENSIONS = frozenset({".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl"})

# kind -> (folders below models/, extensions; an empty set lists every file)
_KINDS: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    "checkpoints": (("checkpoints",), MODEL_EXTENSIONS),
    "configs": (("configs",), frozenset({".yaml"})),
    "loras": (("loras",), MODEL_EXTENSIONS),
    "vae": (("vae",), MODEL_EXTENSIONS),
    "text_encoders": (("text_encoders", "clip"), MODEL_EXTENSIONS),
    "diffusion_models": (("unet", "diffusion_models"), MODEL_EXTENSIONS),
    "clip_vision": (("clip_vision",), MODEL_EXTENSIONS),
    "style_models": (("style_models",), MODEL_EXTENSIONS),
    "embeddings": (("embeddings",), MODEL_EXTENSIONS),
    "diffusers": (("diffusers",), frozenset({"folder"})),
    "vae_approx": (("vae_approx",), MODEL_EXTENSIONS),
    "controlnet": (("controlnet", "t2i_adapter"), MODEL_EXTENSIONS),
    "gligen": (("gligen",), MODEL_EXTENSIONS),
    "upscale_models": (("upscale_models",), MODEL_EXTENSIONS),
    "latent_upscale_models": (("latent_upscale_models",), MODEL_EXTENSIONS),
    "hypernetworks": (("hypernetworks",), MODEL_EXTENSIONS),
    "photomaker": (("photomaker",), MODEL_EXTENSIONS),
    "classifiers": (("classifiers",), frozenset({""})),
    "model_patches": (("model_patches",), MODEL_EXTENSIONS),
    "audio_encoders": (("audio_encoders",), MODEL_EXTENSIONS),
    "background_removal": (("background_removal",), MODEL_EXTENSIONS),
    "frame_interpolation": (("frame_interpolation",), MODEL_EXTENSIONS),
    "geometry_estimation": (("geometry_estimation",), MODEL_EXTENSIONS),
    "optical_flow": (("optical_flow",), MODEL_EXTENSIONS),
    "detection": (("detection",), MODEL_EXTENSIONS),
}
_LEGACY_KINDS = {"unet": "diffusion_models", "clip": "text_encoders"}
_ANNOTATION = re.compile(r"(.*) \[(input|output|temp)\]")


@dataclass
class _Listing:
    files: list[str]
    mtimes: dict[Path, float]


class Folders:
    """The server's directories, from its command line.

    Raises FileNotFoundError where the real server crashes at its start: a missing extra-paths file, a base directory
    without custom_nodes.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        base: Path = (options.base_directory or Path.cwd()).absolute()
        if options.base_directory is not None and not (base / "custom_nodes").is_dir():
            raise FileNotFoundError(f"[Errno 2] No such file or directory: '{base / 'custom_nodes'}'")
        self.models: Path = (options.models_directory or base / "models").absolute()
        self.output: Path = (options.output_directory or base / "output").absolute()
        self.input: Path = (options.input_directory or base / "input").absolute()
        self.temp: Path = (options.temp_directory or base).absolute() / "temp"
        self.user: Path = (options.user_directory or base / "user").absolute()
        self._kinds: dict[str, tuple[list[Path], frozenset[str]]] = {
            kind: ([self.models / name for name in names], extensions) for kind, (names, extensions) in _KINDS.items()
        }
        for group in options.extra_model_paths_config:
            for config in group:
                self._add_extra_paths(config)
        self._listings: dict[str, _Listing] = {}
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Create the writable directories; empties the temp directory, even if another server uses it."""
        self.clean_temp()
        self.input.mkdir(parents=True, exist_ok=True)

    def clean_temp(self) -> None:
        shutil.rmtree(self.temp, ignore_errors=True)

    def by_type(self, kind: str) -> Path | None:
        return {"output": self.output, "input": self.input, "temp": self.temp}.get(kind)

    def annotated(self, name: str) -> tuple[str, Path | None]:
        """Split a file name that may end in ` [input|output|temp]` into (name, directory or None)."""
        match = _ANNOTATION.fullmatch(name)
        return (match[1], self.by_type(match[2])) if match else (name, None)

    # Models -----------------------------------------------------------------------------------------------------------

    def kinds(self) -> list[str]:
        return list(self._kinds)

    def paths(self, kind: str) -> list[Path]:
        return list(self._kinds[kind][0])

    def model_names(self, kind: str) -> list[str]:
        """Sorted relative paths of one kind.

        As on the server, the list is cached, and read again only if the mtime of a known directory has changed. Raises
        FileNotFoundError while a directory that was listed before is missing, and KeyError for an unknown kind.
        """
        roots, extensions = self._kinds[kind]
        with self._lock:
            listing = self._listings.get(kind)
            if listing is None or not self._is_current(listing, roots):
                listing = self._scan(roots, extensions)
                self._listings[kind] = listing
            return list(listing.files)

    def model_path(self, kind: str, name: str) -> Path | None:
        for root in self._kinds[_LEGACY_KINDS.get(kind, kind)][0]:
            path = root / os.path.relpath(os.path.join("/", name), "/")  # noqa: PTH118 - handles ".." as the server does
            if path.is_file():
                return path
        return None

    def model_details(self, kind: str) -> list[dict[str, Any]]:
        """The rows of /experiment/models/{kind}; always a fresh scan."""
        rows = []
        roots, extensions = self._kinds[kind]
        for index, root in enumerate(roots):
            for name in self._scan([root], extensions).files:
                stat = (root / name).stat()
                rows.append(
                    {
                        "name": name,
                        "pathIndex": index,
                        "modified": stat.st_mtime,
                        "created": stat.st_ctime,
                        "size": stat.st_size,
                    }
                )
        return rows

    @staticmethod
    def _is_current(listing: _Listing, roots: list[Path]) -> bool:
        if any(path.stat().st_mtime != mtime for path, mtime in listing.mtimes.items()):
            return False
        return all(root in listing.mtimes for root in roots if root.is_dir())

    @staticmethod
    def _scan(roots: list[Path], extensions: frozenset[str]) -> _Listing:
        files: set[str] = set()
        mtimes: dict[Path, float] = {}
        for root in roots:
            for folder, subfolders, names in os.walk(root, followlinks=True):
                subfolders[:] = [name for name in subfolders if name != ".git"]
                here = Path(folder)
                mtimes[here] = here.stat().st_mtime
                files.update(
                    str((here / name).relative_to(root))
                    for name in names
                    if not extensions or Path(name).suffix.lower() in extensions
                )
        return _Listing(sorted(files), mtimes)

    def _add_extra_paths(self, config: Path) -> None:
        with config.open(encoding="utf-8") as stream:
            sections: dict[str, dict[str, Any]] = yaml.safe_load(stream) or {}
        for section in sections.values():
            settings = dict(section or {})
            base = settings.pop("base_path", None)
            first = settings.pop("is_default", False)
            root = config.absolute().parent / os.path.expanduser(os.path.expandvars(base or ""))  # noqa: PTH111
            for kind, block in settings.items():
                for line in str(block).split("\n"):
                    if line.strip():
                        self._add_path(_LEGACY_KINDS.get(kind, kind), root / line.strip(), first=bool(first))

    def _add_path(self, kind: str, path: Path, *, first: bool) -> None:
        if kind == "custom_nodes":
            if not path.is_dir():
                raise FileNotFoundError(f"[Errno 2] No such file or directory: '{path}'")
            return
        paths, _ = self._kinds.setdefault(kind, ([], frozenset()))
        if path not in paths:
            paths.insert(0 if first else len(paths), path)


def next_counter(folder: Path, prefix: str) -> int:
    """The number of SaveImage's next file: one more than the highest in the folder. No lock, as on the server."""
    pattern = re.compile(re.escape(prefix) + r"_(\d+)_?(?:\..*)?", re.IGNORECASE)
    numbers = [int(match[1]) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    return max(numbers, default=0) + 1
