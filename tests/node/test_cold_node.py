"""The phase chart of a cold node: its arithmetic. What it measures needs no test, what it concludes does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.cold_node import Assumptions, Cost, chart, joins_first, syncs_first

GIVEN = Assumptions(
    launch=50, join=25, image=18e9, unpack=0.15e9, models=250e9, first_set=12e9, files=200, network=0.6e9, server=25
)
FREE = Cost(run=0, file=0)


def test_bytes_of_image_and_models_share_the_network_and_none_is_lost() -> None:
    phases = {phase.name: phase for phase in joins_first(GIVEN, FREE)}
    pull, whole = phases["image pull"], phases["models: all"]
    assert (pull.begin, pull.end) == (75, 195)
    assert (whole.end - 75) * 0.6e9 == pytest.approx(250e9 + 18e9)
    assert phases["models: first set"].end == pytest.approx(75 + 12e9 / 0.45e9)
    assert phases["server start"].begin == 195, "the image is what the first image waits for"


def test_a_large_first_set_is_what_pods_wait_for() -> None:
    phases = {phase.name: phase for phase in joins_first(replace(GIVEN, first_set=100e9), FREE)}
    assert phases["server start"].begin == pytest.approx(75 + (100e9 + 18e9) / 0.6e9)


def test_syncing_first_waits_for_everything_in_turn() -> None:
    phases = list(syncs_first(GIVEN, Cost(run=3, file=0)))
    assert [phase.begin for phase in phases[1:]] == [phase.end for phase in phases[:-1]]
    assert phases[-1].end == pytest.approx(50 + 3 + 250 / 0.6 + 25 + 120 + 25)


def test_a_node_that_joins_too_late_is_said_so() -> None:
    late = list(syncs_first(replace(GIVEN, models=600e9), FREE))
    assert "Karpenter gives up on a node after 900 s" in chart("x", late, 30)
    assert "gives up" not in chart("x", list(joins_first(GIVEN, FREE)), 30)
