"""The pinned versions of the project, read from versions.yaml on first use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import yaml

from comfyeks.errors import UserError
from comfyeks.paths import MARKER, REPO_ROOT


class Versions(Mapping[str, Any]):
    """versions.yaml of the checkout. Raises UserError outside a checkout."""

    @cached_property
    def _pins(self) -> dict[str, Any]:
        try:
            pins: dict[str, Any] = yaml.safe_load((REPO_ROOT / MARKER).read_text())
        except FileNotFoundError as error:
            raise UserError(f"{REPO_ROOT} is not in a checkout of comfyeks: run this command in one") from error
        return pins

    def __getitem__(self, key: str) -> Any:
        return self._pins[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pins)

    def __len__(self) -> int:
        return len(self._pins)


VERSIONS = Versions()
