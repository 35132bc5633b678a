"""`comfyeks demo` cleans up in order, however it ends."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from comfyeks.errors import OperationError
from comfyeks_local.demo import base, cli
from comfyeks_local.demo.short import ShortDemo


class Pod:
    def __init__(self, ended: list[str]) -> None:
        self._ended = ended

    def stop(self) -> None:
        self._ended.append("pod")


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the end of the demo has stopped; a test adds the steps before it."""
    monkeypatch.setattr(base, "HOME", tmp_path)
    monkeypatch.setattr(cli, "chosen", lambda cluster: ShortDemo())
    ended: list[str] = []
    monkeypatch.setattr(base, "stop_everything", lambda: ended.append("everything"))
    monkeypatch.setattr(ShortDemo, "summary", lambda self, kept: None)
    return ended


@pytest.fixture
def steps(ended: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Replaces the steps of the demo: a pod, then the given step."""

    def replace(step: Callable[[], object]) -> None:
        def run(self: ShortDemo) -> None:
            self.pod = Pod(ended)  # type: ignore[assignment]
            step()

        monkeypatch.setattr(ShortDemo, "run", run)

    return replace


def fail() -> None:
    raise OperationError("the image is not in the bucket")


@pytest.mark.parametrize("keep", [False, True])
def test_a_step_that_fails_is_exit_code_1_and_everything_is_torn_down(
    ended: list[str], steps: Callable[..., None], keep: bool
) -> None:
    steps(fail)
    with pytest.raises(OperationError, match="the image is not in the bucket") as error:
        cli.run(keep=keep)
    assert error.value.exit_code == 1
    assert ended == ["pod", "everything"]


@pytest.mark.parametrize(("keep", "expected"), [(True, []), (False, ["pod", "everything"])])
def test_keep_leaves_it_running_after_success(
    ended: list[str], steps: Callable[..., None], keep: bool, expected: list[str]
) -> None:
    steps(lambda: None)
    cli.run(keep=keep)
    assert ended == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_tears_down_everything(
    ended: list[str], steps: Callable[..., None], number: signal.Signals, code: int
) -> None:
    steps(lambda: signal.raise_signal(number))
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # without the demo's own handler: a plain interrupt
    try:
        with pytest.raises(typer.Exit) as ending:
            cli.run(keep=True)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ending.value.exit_code == code
    assert ended == ["pod", "everything"]


@pytest.mark.parametrize(
    "trouble",
    [subprocess.TimeoutExpired("hook", 1), OperationError("no"), KeyboardInterrupt()],
    ids=["hook", "failure", "second signal"],
)
def test_a_pod_that_does_not_stop_keeps_nothing_else_running(
    ended: list[str], monkeypatch: pytest.MonkeyPatch, trouble: BaseException
) -> None:
    def refuse(self: Pod) -> None:
        raise trouble

    monkeypatch.setattr(Pod, "stop", refuse)
    shown = ShortDemo()
    shown.pod = Pod(ended)  # type: ignore[assignment]
    with pytest.raises(type(trouble)):
        shown.tear_down()
    assert ended == ["everything"]


def test_the_end_is_not_cut_off_by_another_signal(ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_everything() -> None:
        signal.raise_signal(signal.SIGINT)
        ended.append("everything")

    monkeypatch.setattr(base, "stop_everything", stop_everything)
    ShortDemo().tear_down()
    assert ended == ["everything"]
