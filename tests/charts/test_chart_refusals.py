"""Both charts refuse values that cannot work, with these messages, and accept the nearest values that can."""

from __future__ import annotations

import re
from functools import cache

import pytest

from comfyeks.charts import CHARTS, CHARTS_ROOT
from comfyeks.charts.render import RenderError
from tests.charts.refusals import REFUSALS, RENDER, Refusal

# One worker for all, so that the tests share their renders.
pytestmark = pytest.mark.xdist_group("chart-refusals")
each_refusal = pytest.mark.parametrize(
    "number", range(len(REFUSALS)), ids=[f"{chart}: {refusal.message}"[:100] for chart, refusal in REFUSALS]
)


@cache
def message_of(number: int) -> str:
    """Helm's message for the wrong values."""
    chart, refusal = REFUSALS[number]
    with pytest.raises(RenderError) as caught:
        RENDER[chart](refusal.wrong, release=refusal.wrong_release)
    return " ".join(caught.value.stderr.split())


@each_refusal
def test_values_that_cannot_work_are_refused_with_this_message(number: int) -> None:
    assert REFUSALS[number][1].message in message_of(number)


@each_refusal
def test_the_nearest_legal_values_are_accepted(number: int) -> None:
    chart, refusal = REFUSALS[number]
    assert len(RENDER[chart](refusal.legal, release=refusal.legal_release)) > 0


@pytest.mark.parametrize("chart", CHARTS)
def test_every_refusal_of_the_templates_is_in_the_table(chart: str) -> None:
    templates = CHARTS_ROOT / chart / "templates"
    written = {
        f"{chart}/templates/{file.name}:{line}"
        for file in templates.iterdir()
        for line, text in enumerate(file.read_text().splitlines(), start=1)
        if re.search(r"\bfail [(\"]", text)
    }
    seen = {
        place
        for number, (of, _) in enumerate(REFUSALS)
        if of == chart
        for place in re.findall(r"execution error at \((\S+?:\d+):\d+\)", message_of(number))
    }
    assert len(written) > 10
    assert written - seen == set()


def test_the_table_has_each_refusal_once() -> None:
    assert len({repr(refusal) for _, refusal in REFUSALS}) == len(REFUSALS)
    assert all(isinstance(refusal, Refusal) for _, refusal in REFUSALS)
