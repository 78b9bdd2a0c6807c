"""The Explorer's points: runs that share a value of X stand side by side, and what is saved are their values."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from engine.explore.figures import Figure
from workbench.explorer import runs, scatter
from workbench.shared import chart_parts
from workbench.shared.figure_data import figure_data

PROMPTS = Figure("n_train", "Training prompts", "cost", "lower")
LOSS = Figure("loss", "Loss", "setting")
EXACT = Figure("exact_0", "Exact acceptance, T = 0", "rate", "higher")
TAU = Figure("tau_0", "tau, T = 0", "rate", "higher")


@pytest.fixture
def table() -> pd.DataFrame:
    cells = list(itertools.product([50, 200, 1000], ["jsd", "tvd"], range(3)))
    frame = pd.DataFrame(cells, columns=["n_train", "loss", "seed"])
    frame["run_id"] = [f"run-{place}" for place in range(len(frame))]
    frame["exact_0"] = [0.3 + n / 10_000 + seed / 100 + (loss == "jsd") / 50 for n, loss, seed in cells]
    frame["tau_0"] = 2 * frame.exact_0.round(1)
    return frame


def points(figure) -> pd.DataFrame:
    """Where each run is drawn."""
    rows = [
        (run_id, trace.name, x, y)
        for trace in figure.data
        if trace.mode == "markers"
        for run_id, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    ]
    return pd.DataFrame(rows, columns=["run_id", "loss", "x", "y"]).set_index("run_id")


def drawn(table: pd.DataFrame, x: Figure, colour: Figure | None, *, log_x: bool = False):
    prepared = scatter.prepared(table, x, EXACT, colour, (log_x, False), [])
    return prepared, scatter.draw(prepared, {name: name for name in table.run_id}, [], "light")


def test_runs_of_one_value_stand_side_by_side_by_colour(table: pd.DataFrame):
    prepared, figure = drawn(table, PROMPTS, LOSS)
    at = points(figure)
    assert list(figure.layout.xaxis.ticktext) == ["50", "200", "1000"]
    assert at.groupby("x").loss.nunique().max() == 1, "no point hides one of another loss"
    places = at.join(table.set_index("run_id").n_train).groupby("n_train").x
    assert [(round(low, 3), round(high, 3)) for low, high in zip(places.min(), places.max(), strict=True)] == [
        (-0.2, 0.2),
        (0.8, 1.2),
        (1.8, 2.2),
    ]
    assert any("side by side, in the order of Loss; the distances" in note for note in prepared.notes)
    line = next(trace for trace in figure.data if trace.name == "Pareto line")
    assert len(line.x) == 3
    assert set(zip(line.x, line.y, strict=True)) <= set(zip(at.x, at.y, strict=True)), "the line meets its runs"


def test_what_is_saved_are_the_values_of_the_runs(table: pd.DataFrame):
    _, figure = drawn(table, PROMPTS, LOSS)
    saved = figure_data(figure)
    assert set(saved.x) == {50, 200, 1000}
    assert sorted(saved[saved.series == "tvd"].y) == sorted(table[table.loss == "tvd"].exact_0)


@pytest.mark.parametrize(
    ("x", "colour", "log_x"),
    [(PROMPTS, None, False), (PROMPTS, LOSS, True), (TAU, LOSS, False), (PROMPTS, TAU, False)],
    ids=["one colour", "log axis", "a measured value", "few runs a value"],
)
def test_else_a_run_stands_at_its_value(table: pd.DataFrame, x: Figure, colour: Figure | None, log_x: bool):
    table = table if colour is not TAU else table.groupby("n_train").head(2)
    prepared, figure = drawn(table, x, colour, log_x=log_x)
    assert prepared.columns == []
    assert points(figure).x.to_dict() == table.set_index("run_id")[x.name].to_dict()


def test_a_figure_says_of_which_domains_and_targets_its_runs_are():
    """An exported scatter said 'n = 12 runs' and not what of."""

    def second_line(domains: list[str], targets: list[str]) -> str:
        figure = chart_parts.titled("t", "n = 2 runs", "light")
        rows = pd.DataFrame({"domain": domains, "target": targets})
        return str(runs.about(figure, rows).layout.title.subtitle.text)

    assert second_line(["biology", "biology"], ["hub:a/b", None]) == "biology; target b<br>n = 2 runs"
    letters = list("abcd")
    assert second_line(letters, letters) == "4 domains; 4 targets<br>n = 2 runs"
