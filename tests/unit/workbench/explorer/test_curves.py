"""Curves of many runs: smoothing, thinning, and what the figure holds; colours by a third figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from engine.explore.figures import Figure
from workbench.explorer import curves, scatter
from workbench.explorer.colouring import MOST_VALUES, NO_VALUE, colouring
from workbench.explorer.selection import selected_ids


def test_smoothing_is_the_unbiased_moving_average():
    values = pd.Series([1.0, 3.0, 5.0])
    assert list(curves.smoothed(values, 0.0)) == [1, 3, 5]
    assert curves.smoothed(values, 0.5).tolist() == pytest.approx([1, (3 + 0.5) / 1.5, (5 + 1.5 + 0.25) / 1.75])


def test_a_long_line_is_thinned_and_keeps_its_ends():
    rows = pd.DataFrame({"step": range(5_000)})
    thin = curves.thinned(rows)
    assert len(thin) <= curves.MOST_POINTS + 1
    assert (thin.step.iloc[0], thin.step.iloc[-1]) == (0, 4_999)
    assert curves.thinned(rows.head(10)) is not None
    assert len(curves.thinned(rows.head(10))) == 10


def points(run_id: str, n: int = 30) -> pd.DataFrame:
    step = np.arange(1, n + 1)
    train = pd.DataFrame({"run_id": run_id, "kind": "train", "temperature": np.nan, "step": step, "value": 3.0 / step})
    watched = train.assign(kind="eval", temperature=0.0, value=1 - 1 / step).iloc[::10]
    return pd.concat([train, watched]).assign(tokens_seen=lambda t: t.step * 100, seconds=lambda t: t.step * 0.5)


def test_both_panels_have_every_run_and_zoom_together():
    runs = pd.DataFrame({"run_id": ["a", "b"], "loss": ["jsd", "tvd"]})
    figure = curves.draw(
        pd.concat([points("a"), points("b")]),
        runs,
        {"a": "<b>one</b>", "b": "two"},
        Figure("loss", "Loss", "setting"),
        axis="tokens",
        weight=0.6,
        log=(True, False),
        tone="light",
    )
    assert figure.layout.xaxis.matches == "x2"
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "linear")
    assert len(figure.data) == 2 * 3, "raw, smoothed, watched"
    assert max(figure.data[0].x) == 3_000
    assert {trace.name for trace in figure.data if trace.showlegend} == {"jsd", "tvd"}
    assert "&lt;b&gt;one" in figure.data[1].hovertext[0]


def test_words_have_styles_that_differ_and_too_many_of_them_are_said():
    rows = pd.DataFrame({"run_id": [str(n) for n in range(30)], "kind": [f"kind {n}" for n in range(30)]})
    few = colouring(rows.head(14), "kind", "Kind")
    assert len({(group.colour, group.symbol) for group in few.groups}) == 14
    many = colouring(rows, "kind", "Kind")
    assert len(many.groups) == MOST_VALUES
    assert many.groups[-1].name == f"{many.others} other values"
    assert sum(len(group.rows) for group in many.groups) == 30


def test_numbers_have_a_scale_and_a_missing_one_is_said():
    rows = pd.DataFrame({"run_id": list("abcdefghi"), "seconds": [1.0, 2, 3, 4, 5, 6, 7, 8, None]})
    colours = colouring(rows, "seconds", "Seconds")
    assert (colours.scale, colours.range) == ("seconds", (1.0, 8.0))
    assert [group.name for group in colours.groups] == ["Seconds", NO_VALUE]


def test_a_selection_names_each_run_once_and_the_pareto_line_none():
    event = {"selection": {"points": [{"customdata": "a"}, {"x": 1}, {"customdata": ["b"]}, {"customdata": "a"}]}}
    assert selected_ids(event) == ["a", "b"]
    assert selected_ids(None) == []


def test_seeds_of_a_recipe_become_their_mean_with_least_and_most():
    both = pd.concat([points("a"), points("b").assign(value=lambda t: t.value + 0.2), points("c", 60)])
    mean = curves.over_seeds(both, pd.Series({"a": "one", "b": "one", "c": "other"}))
    watched = mean[(mean.run_id == "a") & (mean.kind == "eval")].set_index("step")
    assert watched.value[11] == pytest.approx(1 - 1 / 11 + 0.1)
    assert (watched.low[11], watched.high[11]) == pytest.approx((1 - 1 / 11, 1.2 - 1 / 11))
    assert set(mean.run_id) == {"a", "c"}
    assert mean.groupby("run_id").seeds.first().to_dict() == {"a": 2, "c": 1}


def test_of_a_repeated_seed_the_newest_run_counts():
    runs = pd.DataFrame({"run_id": ["a", "b", "c"], "seed": [0, 0, 1], "created_at": pd.to_datetime([1, 2, 0])})
    assert list(curves.once_per_seed(runs, pd.Series({"a": "one", "b": "one", "c": "one"})).run_id) == ["b", "c"]


def test_a_step_that_a_seed_lacks_has_no_mean():
    both = pd.concat([points("a", 30), points("b", 20)])
    mean = curves.over_seeds(both, pd.Series({"a": "one", "b": "one"}))
    assert mean[mean.kind == "train"].step.max() == 20


def test_the_band_is_drawn_and_said_where_a_recipe_has_seeds():
    runs = pd.DataFrame({"run_id": ["a"], "watched": [10.0]})
    mean = curves.over_seeds(pd.concat([points("a"), points("b")]), pd.Series({"a": "one", "b": "one"}))
    figure = curves.draw(mean, runs, {"a": "one"}, None, axis="steps", weight=0.5, log=(False, False), tone="light")
    assert [trace.fill for trace in figure.data] == ["toself", None, "toself", None]
    assert "1 recipe: mean over 2 seeds, band from the least to the most" in figure.layout.title.subtitle.text
    assert "10 watched prompts" in figure.layout.annotations[1].text


def test_a_scatter_has_the_intervals_that_a_figure_has_and_says_so():
    exact, queries = Figure("exact_0", "Exact, T = 0", "rate", "higher"), Figure("n_train", "Prompts", "cost", "lower")
    table = pd.DataFrame({"run_id": ["a", "b"], "exact_0": [0.4, 0.5], "n_train": [50.0, 200.0]})
    bounds = {"exact_0": pd.DataFrame({"low": [0.3, np.nan], "high": [0.45, np.nan]}, index=["a", "b"])}
    drawn = scatter.prepared(table, queries, exact, None, (False, False), [], bounds)
    figure = scatter.draw(drawn, {"a": "A", "b": "B"}, (), "light")
    points_ = next(trace for trace in figure.data if trace.mode == "markers")
    assert points_.error_x.array is None
    above = list(points_.error_y.array)
    assert above[0] == pytest.approx(0.05)
    assert np.isnan(above[1])
    assert figure.layout.title.subtitle.text == "n = 2 runs; 95% interval over prompts of Exact, T = 0"
    alone = scatter.prepared(table, queries, exact, None, (False, False), [])
    assert scatter.interval_words(alone) == "no intervals"
