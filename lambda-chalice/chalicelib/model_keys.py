"""Which keys of the models bucket are models."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Unicode category Cc


def why_ignored(key: str) -> str | None:
    """Why this (decoded) key is not a model; None if it is one.

    A model's key is `<folder>/<path...>`. The node program has the same rule and decides; this one avoids needless
    commands.
    """
    segments = key.split("/")
    if not segments[-1]:
        return "folder marker"
    if len(segments) == 1:
        return "no folder"
    if "" in segments:
        return "empty segment"
    if any(segment.startswith(".") for segment in segments):
        return "hidden or relative segment"
    if _CONTROL.search(key):
        return "control character"
    return None
