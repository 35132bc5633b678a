"""Times every call of helm in these tests; tests/conftest.py sums them up in the closing summary."""

from __future__ import annotations

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before = len(_seconds)
    try:
        return (yield)
    finally:
        item.user_properties.append(("renders", _seconds[before:]))
