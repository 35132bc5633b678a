"""Measures every call of helm and the processor time of each test here; tests/conftest.py prints the sums."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from subprocess import CompletedProcess
from typing import Any

import pytest

from comfyeks.charts import render

_seconds: list[float] = []


@pytest.fixture(scope="session", autouse=True)
def _timed() -> Iterator[None]:
    real = render.helm

    def helm(*arguments: Any, **options: Any) -> CompletedProcess[str]:
        began = time.perf_counter()
        try:
            return real(*arguments, **options)
        finally:
            _seconds.append(time.perf_counter() - began)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "helm", helm)
        yield


def _cpu_seconds() -> float:
    """User and system time of this process and of those that it waited for: the same however busy the machine is."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before, cpu = len(_seconds), _cpu_seconds()
    try:
        return (yield)
    finally:
        item.user_properties.append(("renders", _seconds[before:]))
        item.user_properties.append(("cpu", _cpu_seconds() - cpu))
