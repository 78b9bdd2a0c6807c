"""What the Slices tab is made of: one order of slices for all drafts, marks of small ones, and no markup of others."""

from __future__ import annotations

import math

import pandas as pd

from engine.records.interval import Interval
from engine.slices.of_run import SlicedRuns
from engine.slices.slices import Slice, Sliced, SliceDifference
from workbench.compare.slices import WAYS, Shown, _change, changes_table, for_reading
from workbench.shared import slice_chart

EVIL = "<img src=x onerror=alert(1)>"


def frame(few: bool = False) -> pd.DataFrame:
    rows = [
        {"label": label, "slice": name, "value": value, "low": value - 0.1, "high": value + 0.1, "n_prompts": 9,
         "n_tokens": 120, "refusal_share": 0.5, "few": few and name == EVIL}
        for label, shift in (("A", 0.0), ("B", 0.1))
        for name, value in ((EVIL, 0.3), ("number", 0.6))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_figure_has_a_bar_for_each_draft_and_slice_in_both_panels():
    figure = slice_chart.slices(frame(few=True), "exact", "kind of token", "light", "n = 9")
    assert len(figure.data) == 4  # two drafts, rate and share
    assert all(len(bar.y) == 2 for bar in figure.data)
    assert [bar.showlegend for bar in figure.data] == [True, False, True, False]
    assert list(figure.data[0].y) == ["&lt;img src=x onerror=alert(1)&gt; (few)", "number"]
    assert EVIL not in figure.to_json()
    assert figure.data[0].error_x.array[0] == 0.1 or math.isclose(figure.data[0].error_x.array[0], 0.1)


def test_of_tau_the_shares_are_of_target_forwards():
    titles = [note.text for note in slice_chart.slices(frame(), "tau", "kind of token", "dark").layout.annotations]
    assert "share of all target forwards" in titles


def test_a_change_is_marked_only_where_its_interval_excludes_zero():
    assert _change(Interval(0.2, 0.1, 0.3, 9)).startswith("▲ +0.200")
    assert _change(Interval(-0.2, -0.3, -0.1, 9)).startswith("▼ -0.200")
    assert _change(Interval(0.2, -0.1, 0.3, 9)).startswith("≈ +0.200")
    assert _change(Interval(0.2, math.nan, math.nan, 1)) == "+0.200 (n = 1: too few for an interval)"
    assert _change(Interval(-0.024, -0.099, -0.009, 2)) == "-0.024 (n = 2: too few for an interval)"
    assert _change(Interval()) == "–"


def test_what_may_not_be_subtracted_says_why():
    part = Slice("number", Interval(0.5, 0.4, 0.6, 9), 120, 9, 1.0, 60.0, 1.0, Interval(), False)
    sliced = Sliced("kind", "exact", 0.0, part.rate, 120, (part,))
    change = SliceDifference("number", 0.5, 0.6, Interval(0.1, 0.05, 0.15, 9), 120, 9, 1.0, True)
    results = {
        "a": SlicedRuns("a", sliced),
        "b": SlicedRuns("a", sliced, (), "b", sliced, (change,), 9),
        "c": SlicedRuns("a", sliced, (), "c", sliced, (), 9, {"dtype": ("float32", "bfloat16")}),
    }
    table = changes_table(Shown(results, {}), {"a": "A", "b": "B", "c": "C"})
    (row,) = table.to_dict("records")
    assert row["Δ B"] == "▲ +0.100 [+0.050, +0.150] (few)"
    assert row["Δ C"] == "not comparable: dtype differ"
    assert set(WAYS) == {"kind", "position", "context", "entropy", "group", "category"}


def test_the_reports_table_marks_small_slices_and_has_each_value_with_its_interval():
    """The report's table had neither the mark nor an explanation of it."""
    rows = for_reading(frame(few=True), "exact")
    assert list(rows.columns) == ["draft", "slice", "exact [95% interval]", "n (tokens)", "prompts", "of all refusals"]
    assert rows.iloc[0].tolist() == ["A", f"{EVIL} (few)", "0.300 [0.200, 0.400]", 120, 9, "50%"]
    few = for_reading(frame().assign(n_prompts=2), "tau").iloc[1]
    assert few[["slice", "tau [95% interval]"]].tolist() == ["number", "0.600 (n = 2: too few for an interval)"]
