"""Explorer: all runs at once. Two figures against each other, parallel coordinates, settings that matter, curves."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from engine.explore.alike import Difference
from engine.explore.figures import Figure, chosen_by_user, varied
from engine.measure.compare import SAME_TEMPERATURE
from workbench.explorer import curves, parallel, scatter, selection, settings
from workbench.explorer import runs as explored
from workbench.explorer.colouring import is_number
from workbench.explorer.runs import Shown
from workbench.shared import downloads, queries, theme, ui

TABS = ["Scatter", "Parallel coordinates", "Settings that matter", "Curves"]
_X = ("n_train", "loss", "scenario", "mode")  # the first in which the runs differ, else another setting or rate
_MOST_AXES = 8  # of parallel coordinates, unless chosen


def render() -> None:
    """Draw the page."""
    ui.heading("explorer")
    shown = explored.choose()
    if shown is None:
        ui.empty(
            "No trained draft is measured yet. Every run that trained and measured one is a point here.",
            "Start a run",
            "launch",
        )
        return
    if shown.table.empty:
        st.info(shown.if_none, icon=":material/filter_list_off:")
        return
    x, y, colour = choose_figures(shown)
    sections = dict(zip(TABS, (_scatter, _parallel, _settings, _curves), strict=True))
    for name, tab in zip(TABS, st.tabs(TABS, key="view", bind="query-params"), strict=True):
        if tab.open:
            with tab:
                sections[name](shown, x, y, colour)


def choose_figures(shown: Shown) -> tuple[Figure, Figure, Figure | None]:
    """Both axes and the colour; the settings in which no run differs come last."""
    differ = {figure.name for figure in varied(shown.table, shown.figures.values())}
    figures = sorted(shown.figures.values(), key=lambda figure: figure.name not in differ)
    titles = {figure.name: figure.title for figure in figures} | {"": "nothing"}
    names = [figure.name for figure in figures]
    y_first = next((name for name in names if name.startswith("exact_")), names[0])
    others = [figure.name for figure in figures if chosen_by_user(figure) or figure.kind == "rate"]
    x_first = next((name for name in (*_X, *others) if name in differ and name != y_first), names[0])
    first, second, third = st.columns(3)
    with first:
        x = ui.choose_one("X axis", _first(names, x_first), titles, "x")
    with second:
        y = ui.choose_one("Y axis", _first(names, y_first), titles, "y")
    with third:
        own = "loss" if "loss" in differ else ""
        colour = ui.choose_one("Colour", _first(["", *names], own), titles, "colour")
    return shown.figures[x], shown.figures[y], shown.figures.get(colour)


def _first(names: list[str], name: str) -> list[str]:
    return [name, *(other for other in names if other != name)]


def _scatter(shown: Shown, x: Figure, y: Figure, colour: Figure | None) -> None:
    differences = explored.warn(shown, [x, y])
    with st.container(horizontal=True):
        log_x = st.toggle("Log X axis", key="log_x", bind="query-params")
        log_y = st.toggle("Log Y axis", key="log_y", bind="query-params")
    apart = [difference.column for difference in differences]
    bounds = explored.bounds(shown, [x, y])
    drawn = scatter.prepared(shown.table, x, y, colour, (log_x, log_y), apart, bounds)
    if drawn.rows.empty:
        st.info(f"No run has both {ui.text(x.title)} and {ui.text(y.title)}.", icon=":material/info:")
        return
    run_ids = selection.picked(shown)
    figure = scatter.draw(drawn, shown.labels, set(run_ids), theme.mode())
    ui.chart(
        explored.about(figure, drawn.rows),
        key=selection.CHART,
        name=f"{y.name}-by-{x.name}",
        alt=_described(drawn, shown),
        lasso=True,
        on_select=selection.take,
        selection_mode=("points", "box", "lasso"),
    )
    for note in drawn.notes:
        st.caption(ui.text(note))
    selection.section(shown, run_ids, drawn.figures)
    _front(drawn, shown, differences)


def _described(drawn: scatter.Scatter, shown: Shown) -> str:
    best = [shown.labels[run_id] for line in drawn.fronts for run_id in line.run_id]
    front = f" On the Pareto line: {'; '.join(best[:12])}." if best else ""
    return f"{drawn.y.title} against {drawn.x.title}, {len(drawn.rows)} runs.{front}"


def _front(drawn: scatter.Scatter, shown: Shown, differences: list[Difference]) -> None:
    """Which runs no other beats."""
    rows = drawn.rows[drawn.on_front.reindex(drawn.rows.index).fillna(False)]
    if rows.empty:
        return
    with st.expander(f"{explored.runs_in_words(len(rows))} on the Pareto line", icon=":material/trending_up:"):
        best = selection.best_first(rows, drawn.y)
        selection.listing(best, drawn.figures, shown.labels, "front-runs")
        if not differences:
            selection.link_to_compare(best, drawn.y)


def _parallel(shown: Shown, x: Figure, y: Figure, colour: Figure | None) -> None:
    by = colour if colour and is_number(shown.table[colour.name]) else y
    usual = [f.name for f in varied(shown.table, filter(chosen_by_user, shown.figures.values()))]
    usual = [name for name in usual if name != y.name][: _MOST_AXES - 1]
    names = ui.choose_some(
        "Axes", list(shown.figures), {f.name: f.title for f in shown.figures.values()}, "lines", [*usual, y.name]
    )
    if len(names) < 2:
        st.info("Choose two axes or more.", icon=":material/info:")
        return
    chosen = [shown.figures[name] for name in names]
    explored.warn(shown, [*chosen, by])
    rows, notes = parallel.drawable(shown.table, chosen, by)
    for note in notes:
        st.caption(ui.text(note))
    if rows.empty:
        st.info("No run has a value on every axis.", icon=":material/info:")
        return
    alt = f"Parallel coordinates of {len(rows)} runs over {', '.join(f.title for f in chosen)}"
    figure = explored.about(parallel.draw(rows, chosen, by, theme.mode()), rows)
    ui.chart(figure, key="parallel", alt=alt, wide=True)
    st.caption("Drag along an axis to keep the runs in that range; drag an axis's name to move it.")


def _settings(shown: Shown, x: Figure, y: Figure, colour: Figure | None) -> None:
    if not is_number(shown.table[y.name]):
        st.info(f"{ui.text(y.title)} is not a number: choose another figure for Up.", icon=":material/info:")
        return
    titles = {figure.name: figure.title for figure in shown.figures.values()}
    differ = varied(shown.table, (f for f in shown.figures.values() if f.kind in ("setting", "cost")))
    usual = [figure.name for figure in differ if chosen_by_user(figure) and figure.name != y.name]
    names = ui.choose_some("Settings", [figure.name for figure in differ], titles, "settings", usual)
    explored.warn(shown, [y])
    rows = shown.table[["run_id", y.name, *(name for name in names if name != y.name)]]
    results = settings.importances(rows, y.name, tuple(name for name in names if name != y.name))
    known = shown.table[shown.table[y.name].notna()]
    n = len(known)
    if not results:
        st.info(f"{n} runs have {ui.text(y.title)}: too few, or they differ in no setting.", icon=":material/info:")
        return
    st.caption(settings.SENTENCE)
    frame = settings.table(results, titles, "acceptance" if y.kind in ("rate", "sampled rate") else y.title)
    alt = f"Share of the differences in {y.title} by setting. " + "; ".join(
        f"{row.setting}: {row[3]}, {row.verdict}" for row in frame.itertuples()
    )

    def draw(tone: str) -> go.Figure:
        return explored.about(settings.draw(results, titles, y, n, tone), known)

    ui.chart(draw(theme.mode()), key="importance", alt=alt, wide=True, save=False)
    st.dataframe(frame, hide_index=True, alt=alt)
    caption = f"Share of the variance of {y.title} between {n} runs by setting"
    downloads.download_row(
        "importance",
        "importance",
        draw=draw,
        frame=frame,
        caption=caption,
    )
    st.caption(settings.verdicts_in_words(len(results)))
    if shown.table.seed.nunique() <= 1 or settings.repeats_no_seed(known, usual):
        st.caption("No seed is repeated here, so chance between trainings is not in these intervals.")


def _curves(shown: Shown, x: Figure, y: Figure, colour: Figure | None) -> None:
    run_ids = selection.picked(shown)
    rows = shown.table[shown.table.run_id.isin(run_ids)] if run_ids else shown.table
    left, middle, right = st.columns([5, 3, 3], vertical_alignment="bottom")
    with left:
        axis = ui.choose_axis()
    weight = middle.slider("Smoothing of the loss", 0.0, 0.99, 0.6, 0.01, key="smooth", bind="query-params")
    with st.container(horizontal=True):
        log = (
            st.toggle("Log X axis", key="log_steps", bind="query-params"),
            st.toggle("Log loss", key="log_loss", bind="query-params"),
        )
        seeds = st.toggle(
            "Mean over seeds",
            key="seeds",
            bind="query-params",
            help="One line per recipe: the mean over its seeds, in a band from the least to the most of them.",
        )
    if len(rows) > curves.MOST_RUNS:
        st.caption(
            f"{curves.MOST_RUNS} of {len(rows)} runs are drawn, the newest. Select runs in the scatter to draw those."
        )
        rows = rows.head(curves.MOST_RUNS)
    points = queries.curve(list(rows.run_id))
    without = [shown.labels[run_id] for run_id in rows.run_id if run_id not in set(points.run_id)]
    if len(without) == len(rows):
        st.info("None of these runs recorded a curve.", icon=":material/info:")
        return
    if without:
        st.caption(f"Without a curve: {ui.text(', '.join(without[:5]))}{' …' if len(without) > 5 else ''}.")
    if rows.loss.nunique() > 1:
        st.caption("Different losses: the shapes of their curves compare, the heights do not.")
    explored.warn(shown, [y])
    known = sorted(points[points.kind == "eval"].temperature.dropna().unique())
    if len(known) > 1:
        labels = {f"{t:g}": f"{t:g} (greedy)" if t == 0 else f"{t:g}" for t in known}
        with right:
            temperature = float(ui.choose_one("Temperature of the acceptance", list(labels), labels, "temperature"))
        points = points[(points.kind == "train") | ((points.temperature - temperature).abs() < SAME_TEMPERATURE)]
    longest = int(points.groupby(["run_id", "kind", "temperature"], dropna=False).size().max())
    if longest > curves.MOST_POINTS:
        st.caption(f"Lines of more than {curves.MOST_POINTS} points are drawn by every k-th point, smoothed before.")
    labels = shown.labels
    if seeds:
        points, rows, labels = _over_seeds(points, rows)
    figure = curves.draw(points, rows, labels, colour, axis=axis, weight=weight, log=log, tone=theme.mode())
    alt = f"Training loss and watched acceptance by {axis}, {curves.counted(points, rows)}"
    ui.chart(explored.about(figure, rows), key="many-curves", alt=alt, name="learning-curves")


def _over_seeds(points: pd.DataFrame, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """The points as means over seeds, one run per recipe, and the recipes' names by that run's id."""
    recipes = queries.recipes()
    rows = curves.once_per_seed(rows, recipes)
    points = curves.over_seeds(points[points.run_id.isin(rows.run_id)], recipes)
    if not (points.seeds > 1).any():
        st.caption("No recipe has two seeds among these runs: each line shows one.")
    rows = rows[rows.run_id.isin(points.run_id)]
    counts = points.groupby("run_id").seeds.first()
    labels = {
        run: f"{recipes.get(run, run)}, {counts[run]} seed{'s' if counts[run] > 1 else ''}" for run in rows.run_id
    }
    return points, rows, labels
