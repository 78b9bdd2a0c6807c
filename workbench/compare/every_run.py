"""The Compare page's map of all runs of a domain, and the runs that it suggests to compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from engine.measure.compare import SAME_TEMPERATURE
from engine.measure.definitions import SERVED_TEXT
from workbench.compare.comparison import MOST_DRAFTS, measured_temperatures
from workbench.compare.figures import View
from workbench.shared import chart_parts, queries, rate_charts, ui
from workbench.shared.method_names import mode_word

_CELL = ["loss", "scenario", "mode"]
_EFFORT = ("n_train", "steps_done")
_SUGGESTED = 4  # runs at most


def cells(runs: pd.DataFrame, values: pd.DataFrame, domain: str, target: str, temperature: float) -> pd.DataFrame:
    """The frame of `rate_charts.heat_map`: exact acceptance in a domain and target, by loss, scenario and mode.

    A mean over several sizes would say nothing about the loss, nor would a row of them. So a cell shows the runs of the
    number of training queries that most cells have and, among these, of the most steps; one without that number shows
    its largest, and then each row is named with its number. `n_train` is a cell's, `passed_over` counts the other runs
    of its loss, scenario and mode. Where several remain, as
    with other seeds, the cell holds the mean of their values and of their bounds; `sets` counts the sets of held-out
    prompts that they were measured on, `run_ids` names them. Archived runs and those whose certificate failed are left
    out.
    """
    fit = runs[
        runs.acceptance_rule.ne(SERVED_TEXT)
        & (runs.domain == domain)
        & (runs.target.fillna("unknown") == target)
        & ~runs.archived
        & ~runs.certificate.eq(False)
    ]
    here = values[(values.temperature - temperature).abs() < SAME_TEMPERATURE]
    known = fit[["run_id", *_CELL, "seed", "heldout_hash", *_EFFORT]].merge(here, on="run_id").dropna(subset=["value"])
    known[_CELL] = known[_CELL].fillna("unknown")
    known["mode"] = known["mode"].map(mode_word)
    known["before"] = known.groupby(_CELL).run_id.transform("nunique")
    known = _most_trained(_of_the_usual_size(known))
    if known.n_train.nunique(dropna=False) > 1:
        known["loss"] = [f"{loss}, {size_words(n)}" for loss, n in zip(known.loss, known.n_train, strict=True)]
    cells = known.groupby(_CELL).agg(
        value=("value", "mean"),
        low=("low", "mean"),
        high=("high", "mean"),
        n_prompts=("n_prompts", "min"),
        runs=("run_id", "nunique"),
        seeds=("seed", "nunique"),
        sets=("heldout_hash", "nunique"),
        least=("value", "min"),
        most=("value", "max"),
        n_train=("n_train", "max"),
        run_ids=("run_id", lambda ids: list(dict.fromkeys(ids))),
        before=("before", "max"),
    )
    return cells.assign(passed_over=cells.before - cells.runs).drop(columns="before").reset_index()


def size_words(n_train: float) -> str:
    """'200 queries'."""
    return "queries not known" if pd.isna(n_train) else f"{n_train:,.0f} queries"


def _of_the_usual_size(known: pd.DataFrame) -> pd.DataFrame:
    """The runs of the number of queries that most cells have, the larger of equals; all of a cell that has none."""
    sizes = known.drop_duplicates([*_CELL, "n_train"]).n_train.value_counts()
    if sizes.empty:
        return known
    usual = known.n_train == max(sizes.index, key=lambda size: (sizes[size], size))
    kept: pd.DataFrame = known[usual | ~usual.groupby([known[key] for key in _CELL]).transform("any")]
    return kept


def _most_trained(known: pd.DataFrame) -> pd.DataFrame:
    """In each cell, the runs with the most queries, then with the most steps."""
    for effort in _EFFORT:
        amount = known[effort].fillna(-1.0)
        known = known[amount == amount.groupby([known[key] for key in _CELL]).transform("max")]
    return known


def remarks(cells: pd.DataFrame) -> list[str]:
    """What a reader should know before comparing the cells with each other."""
    notes, sizes = [], cells.n_train.dropna()
    if sizes.nunique() > 1:
        notes.append(
            f"The rows differ in training queries, {sizes.min():,.0f} to {sizes.max():,.0f}, which explains part of "
            "their differences: compare within a row, or choose a study of one size."
        )
    if (cells.passed_over > 0).any():
        notes.append(
            "A cell shows its runs with the number of training queries that most cells have, else with its largest; "
            f"of those, the runs with the most steps. {int(cells.passed_over.sum())} runs are not shown."
        )
    if (cells.runs > 1).any():
        notes.append("Where several remain, it shows the mean of their values and of their bounds.")
    if (cells.sets > 1).any():
        notes.append("Some were measured on different held-out prompts.")
    return notes


def suggested(runs: pd.DataFrame) -> list[str]:
    """Runs worth comparing when none are selected: the best that were measured alike, the baseline among them."""
    fit = runs[~runs.exact.isna() & runs.acceptance_rule.ne(SERVED_TEXT) & ~runs.archived & ~runs.certificate.eq(False)]
    if fit.empty:
        return []
    alike = ["target", "domain", "heldout_hash", "num_draft_tokens", "dtype", "device"]
    ranked = fit.sort_values(["baseline", "exact"], ascending=False)
    named = ranked[ranked.baseline]
    best = (named if len(named) else ranked).iloc[0]
    for keys in (alike, alike[:1], []):  # as alike as there are two of
        same = ranked[(ranked[keys].astype(str) == best[keys].astype(str)).all(axis=1)] if keys else ranked
        if len(same) > 1:
            break
    one_each = same.drop_duplicates(["loss", "mode"])  # the methods first, then further seeds of them
    rest = same[~same.run_id.isin(one_each.run_id)]
    return [*one_each.run_id, *rest.run_id][:_SUGGESTED]


@dataclass(frozen=True)
class MapPlace:
    """The domain and target of the map, the choices of each, and the runs of both. None where no run has a domain."""

    domains: list[str]
    targets: list[str]
    domain: str | None
    target: str | None
    runs: pd.DataFrame


def map_place(measured: pd.DataFrame) -> MapPlace:
    """The domain that the address names, else that of the drafts in it, else of the newest run; the target alike."""
    domains = sorted(measured.domain.dropna().unique())
    if not domains:
        return MapPlace([], [], None, None, measured)
    chosen = measured[measured.run_id.isin(st.query_params.get_all("runs"))]
    first = chosen.domain.dropna() if chosen.domain.notna().any() else measured.domain.dropna()
    domains.sort(key=lambda domain: domain != first.iloc[0])
    domain = ui.chosen(domains, "domain")
    here = measured[measured.domain == domain]
    theirs = here[here.run_id.isin(chosen.run_id)]
    targets = list(dict.fromkeys(pd.concat([theirs, here]).target.fillna("unknown")))
    target = ui.chosen(targets, "target")
    return MapPlace(domains, targets, domain, target, here[here.target.fillna("unknown") == target])


def pick_temperature(known: list[float], key: str) -> float:
    """One of the measured temperatures, the lowest if none is named."""
    labels = {f"{t:g}": f"{t:g} (greedy)" if t == 0 else f"{t:g}" for t in known}
    return float(ui.choose_one("Temperature", list(labels), labels, key))


Show = Callable[..., None]  # view, key, options of the chart


def section(measured: pd.DataFrame, place: MapPlace, show: Show) -> None:
    """The heat map over everything that is measured of a domain and target; a click on a cell chooses its runs."""
    if place.domain is None or place.target is None:
        st.caption("No run has a domain.")
        return
    left, middle, right = st.columns([2, 3, 2])
    with left:
        ui.choose_one("Domain", place.domains, {}, "domain")
    with middle:
        ui.choose_one("Target", place.targets, {}, "target")
    with right:
        temperature = pick_temperature(measured_temperatures(place.runs.run_id), "map_temperature")
    shown = cells(measured, queries.exact_values(), place.domain, place.target, temperature)
    if shown.empty:
        st.caption("No run of this choice was measured at this temperature.")
        return
    st.caption(
        "Click a cell to compare its runs; with Shift, the runs of several cells."
        if st.session_state.get(_TOO_MANY, 0) <= MOST_DRAFTS
        else f"{st.session_state[_TOO_MANY]} runs lie in the chosen cells; the {MOST_DRAFTS} best of them are compared."
    )
    view = map_view(shown, temperature, chart_parts.subject([place.domain], [place.target]))
    show(view, "map", wide=True, on_select=_take_click, selection_mode="points")
    for remark in remarks(shown):
        st.caption(remark)


_TOO_MANY = "_map_runs"  # state of the session: how many runs lay in the cells that were clicked last
_BEFORE = "_map_before"  # state of the session: what was compared before that click, as in the address
_OF_THE_DRAFTS = ("runs", "baseline", "against", "prompt")  # parameters that name drafts, or are of them


def map_view(cells: pd.DataFrame, temperature: float, subject: str) -> View:
    """The map as a figure; `subject`: its domain and target."""
    n, seeds = int(cells.runs.sum()), int(cells.seeds.max())
    within = chart_parts.interval_note(cells)
    if (chart_parts.has_interval(cells) & (cells.runs > 1)).any():
        within += ", for several runs the mean of their intervals"
    runs = f"{n} run{'s' if n > 1 else ''}"
    note = f"T = {temperature:g}, {runs}, up to {seeds} seed{'s' if seeds > 1 else ''} per cell; [{within}]"
    described = "; ".join(f"{c.loss}, {c.scenario}, {c.mode}: {c.value:.3f}" for c in cells.itertuples())
    return View(
        f"acceptance-map-T{temperature:g}",
        f"Exact acceptance. {described}",
        lambda tone: chart_parts.about(rate_charts.heat_map(cells, tone, note), subject),
        cells.assign(run_ids=cells.run_ids.map(", ".join)),
    )


def _take_click() -> None:
    """The runs of the clicked cells become the compared drafts."""
    run_ids = clicked_runs(st.session_state.get("map"))
    if run_ids:
        st.session_state[_TOO_MANY] = len(run_ids)
        st.session_state[_BEFORE] = {name: st.query_params.get_all(name) for name in _OF_THE_DRAFTS}
        compare_instead({"runs": _best(run_ids)})


def back() -> None:
    """A button, after a click on the map, that brings the drafts of before back with their baseline."""
    before = st.session_state.get(_BEFORE)
    if before and before["runs"] and before["runs"] != st.query_params.get_all("runs"):

        def change() -> None:
            st.session_state.pop(_BEFORE, None)
            st.session_state.pop(_TOO_MANY, None)
            compare_instead(before)

        st.button("Back to the drafts before", key="drafts-before", on_click=change, icon=":material/undo:")


def compare_instead(wanted: Mapping[str, list[str]]) -> None:
    """Other drafts in the address; what it says about the old ones leaves it."""
    known = {f"{t:g}" for t in measured_temperatures(wanted["runs"])}
    elsewhere = ["temperature"] if st.query_params.get("temperature") not in known else []
    for name in (*_OF_THE_DRAFTS, *elsewhere):
        st.session_state.pop(name, None)
        st.query_params.pop(name, None)
    st.query_params.update({name: values for name, values in wanted.items() if values})


def clicked_runs(event: Any) -> list[str]:
    """The ids of the runs of the selected cells, each once."""
    return list(dict.fromkeys(run_id for text in ui.selected(event) for run_id in text.split()))


def _best(run_ids: Sequence[str]) -> list[str]:
    """As many of the runs as may be compared, those of the highest exact acceptance first."""
    known = queries.runs()
    rows = known[known.run_id.isin(list(run_ids))].sort_values("exact", ascending=False)
    return list(rows.run_id[:MOST_DRAFTS])
