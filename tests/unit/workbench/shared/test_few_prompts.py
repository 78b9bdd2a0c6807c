"""Of fewer than six prompts no bounds are drawn or written, and a figure's note says so."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from engine.records.interval import Interval
from workbench.shared import chart_parts, queries, rate_charts, ui
from workbench.shared.figure_data import figure_data

NAMES = ["a", "b"]


def rows(*prompts: int) -> pd.DataFrame:
    values = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 90}
    return pd.DataFrame(
        [
            {"label": name, "group": name, "slot": 1, "kind": "joint", **values, "n_prompts": n}
            for name, n in zip(NAMES, prompts, strict=True)
        ]
    )


FIGURES = [
    lambda frame: rate_charts.rate_bars(frame, "exact", "light"),
    lambda frame: rate_charts.group_bars(frame, "exact", "light"),
    lambda frame: rate_charts.by_slot(frame, "light"),
]


@pytest.mark.parametrize("draw", FIGURES)
def test_a_note_says_interval_only_where_one_is_drawn(draw):
    for prompts, note in (
        ((12, 12), "95% interval over prompts"),
        ((12, 4), "95% interval over prompts, none of fewer than 6 prompts"),
        ((2, 4), "no interval: too few prompts"),
    ):
        figure = draw(rows(*prompts))
        drawn = figure_data(figure)
        bars = 0 if "low" not in drawn else int(drawn.low.notna().sum())
        assert bars == sum(n >= 6 for n in prompts)
        assert figure.layout.title.subtitle.text == note


def test_a_row_of_too_few_prompts_has_its_value_alone():
    few, many = (next(rows(n, n).itertuples()) for n in (5, 6))
    assert chart_parts.with_interval(few) == "0.500"
    assert chart_parts.with_interval(many) == "0.500 [0.400, 0.600]"
    assert ui.interval_line(few) == "n = 5 prompts: too few for an interval"
    assert ui.interval_line(many) == "95% interval [0.400, 0.600], n = 6 prompts"
    assert ui.interval_line(Interval(0.5, math.nan, math.nan, 9)) == "no interval, n = 9 prompts"


def test_what_pages_read_of_the_index_has_no_bounds_to_rank_by():
    frame = queries._trusted(rows(5, 6))
    assert frame.low.isna().tolist() == [True, False]
    assert frame.value.tolist() == [0.5, 0.5]
    unmeasured = queries._trusted(rows(5, 6).assign(n_prompts=[None, 6]))
    assert unmeasured.low.notna().all()
