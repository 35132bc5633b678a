"""Both charts refuse what cannot work: with these words, and not what is next to it."""

from __future__ import annotations

import re
from functools import cache

import pytest

from comfyeks.charts import CHARTS, CHARTS_ROOT
from comfyeks.charts.render import RenderError
from tests.charts.refusals import REFUSALS, RENDER, Refusal

# One worker for all, so that what one test renders the next one need not.
pytestmark = pytest.mark.xdist_group("chart-refusals")
each_refusal = pytest.mark.parametrize(
    "number", range(len(REFUSALS)), ids=[f"{chart}: {refusal.words}"[:100] for chart, refusal in REFUSALS]
)


@cache
def said(number: int) -> str:
    """What helm says of the wrong values."""
    chart, refusal = REFUSALS[number]
    with pytest.raises(RenderError) as caught:
        RENDER[chart](refusal.wrong, release=refusal.wrong_release)
    return " ".join(caught.value.stderr.split())


@each_refusal
def test_what_cannot_work_is_refused_in_these_words(number: int) -> None:
    assert REFUSALS[number][1].words in said(number)


@each_refusal
def test_the_nearest_legal_values_are_taken(number: int) -> None:
    chart, refusal = REFUSALS[number]
    assert len(RENDER[chart](refusal.legal, release=refusal.legal_release)) > 0


@pytest.mark.parametrize("chart", CHARTS)
def test_every_refusal_of_the_templates_is_among_them(chart: str) -> None:
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
        for place in re.findall(r"execution error at \((\S+?:\d+):\d+\)", said(number))
    }
    assert len(written) > 10
    assert written - seen == set()


def test_the_table_has_each_refusal_once() -> None:
    assert len({repr(refusal) for _, refusal in REFUSALS}) == len(REFUSALS)
    assert all(isinstance(refusal, Refusal) for _, refusal in REFUSALS)
