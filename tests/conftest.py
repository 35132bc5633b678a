"""For every folder: how tests are spread over workers, what costs them less, and how they say what they measured."""

import functools
import gc
import json
import marshal
import signal
from collections.abc import Callable, Generator, Iterator

import hypothesis
import pytest
from botocore.loaders import JSONFileLoader

# Service models and plans are large trees, made and dropped: looking for cycles after every 700 objects takes a third
# of the processor time of the tests that call AWS.
gc.set_threshold(50_000)

# A shell starts background jobs with SIGINT ignored, which every program that a test interrupts would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Nothing here is a timed test: on a busy machine any example can take longer than Hypothesis' 200 ms.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kubeconfig", help="run tests/cluster on this cluster instead of a control plane of their own")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A file of `local` tests shares its emulators, so it stays on one worker.
    for item in items:
        if item.get_closest_marker("local") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One more than there are cores: tests of processes, queues and timers wait for a third of their time."""
    return (yield) + 1


@pytest.fixture(autouse=True, scope="session")
def _service_models_are_parsed_once() -> Iterator[None]:
    """botocore parses megabytes of JSON for each session: a third of the processor time of the tests that call AWS.

    Each session gets a copy of its own, for botocore changes what it has read.
    """
    read = JSONFileLoader.load_file

    @functools.cache
    def parsed(path: str) -> bytes:
        return marshal.dumps(json.loads(json.dumps(read(JSONFileLoader(), path))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda _, path: marshal.loads(parsed(path)))
        yield


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Says a figure in the closing summary, also when the test passes on a worker."""
    return lambda text: record_property("measured", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = terminalreporter.getreports("passed")
    for report in passed:
        for name, text in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(f"measured: {text}")
    properties = [item for report in passed for item in report.user_properties]
    ended = [report for report in terminalreporter.getreports("") if report.when == "teardown"]
    if evaluations := [value for report in ended for name, value in report.user_properties if name == "evaluations"]:
        terminalreporter.write_line(f"policies: {sum(evaluations)} evaluations in {len(evaluations)} tests")
    calls = [value for name, value in properties if name == "renders"]
    if seconds := [second for call in calls for second in call]:
        each = sum(seconds) / len(seconds)
        cpu = sum(value for name, value in properties if name == "cpu")
        terminalreporter.write_line(
            f"charts: {len(calls)} tests, {len(seconds)} renders, {each:.3f} s per render; {cpu:.0f} s of one core"
        )
