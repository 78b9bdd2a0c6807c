"""The Compare page's map of all runs, and the runs that it suggests to compare."""

from __future__ import annotations

import pandas as pd

from engine.measure.compare import SAME_TEMPERATURE
from engine.measure.definitions import SERVED_TEXT
from workbench.shared.method_names import mode_word

_CELL = ["loss", "scenario", "mode"]
_EFFORT = ("n_train", "steps_done")


def cells(runs: pd.DataFrame, values: pd.DataFrame, domain: str, target: str, temperature: float) -> pd.DataFrame:
    """The frame of `charts.heat_map`: exact acceptance of the runs of a domain and target, by loss, scenario and mode.

    A cell shows the runs with the most training queries and, among these, the most steps: a mean over several sizes
    would say nothing about the loss. `n_train` is their size, `passed_over` counts the others. Where several remain, as
    with other seeds, the cell holds the mean of their values and of their bounds; `sets` counts the sets of held-out
    prompts that they were measured on. Archived runs and those whose certificate failed are left out.
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
    before = known.groupby(_CELL).run_id.nunique().rename("before")
    known = _most_trained(known)
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
    )
    cells = cells.join(before)
    return cells.assign(passed_over=cells.before - cells.runs).drop(columns="before").reset_index()


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
            f"The cells differ in training queries, {sizes.min():,.0f} to {sizes.max():,.0f}, which explains part of "
            "their differences. Choose a study to compare runs of one size."
        )
    if (cells.passed_over > 0).any():
        notes.append(
            "A cell shows the runs with the most training queries and, among these, the most steps: "
            f"{int(cells.passed_over.sum())} runs with fewer are not shown."
        )
    if (cells.runs > 1).any():
        notes.append("Where several remain, it shows the mean of their values and of their bounds.")
    if (cells.sets > 1).any():
        notes.append("Some were measured on different held-out prompts.")
    return notes


def suggested(runs: pd.DataFrame, most: int = 4) -> list[str]:
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
    return [*one_each.run_id, *rest.run_id][:most]
