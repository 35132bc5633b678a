"""Every place where an emulator answers differently from AWS and this project needs the answer of AWS.

A bridge patches one emulator inside its own process, before it serves. Each has a probe in `tests/local` that fails on
the unpatched emulator and passes on the bridged one, so a test fails when a newer emulator no longer needs the bridge.
The product has no code for emulators: a difference that only an emulator shows is bridged here or accepted.

    from comfyeks_local.emulators.bridges import BRIDGES, bridge

    @bridge("ssm-run-command", "moto", aws="…", gap="…", needed_by="…")
    def run_command() -> None:
        '''Patch the emulator's modules, which must be imported here and not earlier.'''
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Emulator = Literal["moto", "ministack"]

_MODULES: dict[Emulator, tuple[str, ...]] = {
    "moto": ("moto_ssm", "moto_ec2", "moto_fleets", "moto_account", "moto_efs", "moto_elb"),
    "ministack": (
        "ministack_s3",
        "ministack_lambda",
        "ministack_eks",
        "ministack_codebuild",
        "ministack_cognito",
        "ministack_cloudfront",
    ),
}


@dataclass(frozen=True)
class Bridge:
    """One gap and the patch over it. `aws` and `gap` are one sentence each: what AWS does, what the emulator does."""

    name: str
    emulator: Emulator
    aws: str
    gap: str
    needed_by: str
    apply: Callable[[], None]


BRIDGES: dict[str, Bridge] = {}


def bridge(
    name: str, emulator: Emulator, *, aws: str, gap: str, needed_by: str
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a function that patches an emulator (a decorator)."""

    def register(apply: Callable[[], None]) -> Callable[[], None]:
        if name in BRIDGES:
            raise ValueError(f"two bridges have the name {name!r}")
        BRIDGES[name] = Bridge(name, emulator, aws, gap, needed_by, apply)
        return apply

    return register


def load(emulator: Emulator) -> list[Bridge]:
    """All bridges of an emulator, without applying them."""
    for module in _MODULES[emulator]:
        importlib.import_module(f"{__name__}.{module}")
    return [bridge for bridge in BRIDGES.values() if bridge.emulator == emulator]


def apply_all(emulator: Emulator) -> list[str]:
    """Patch the emulator in this process; returns the names of the bridges."""
    bridges = load(emulator)
    for each in bridges:
        each.apply()
    return [each.name for each in bridges]
