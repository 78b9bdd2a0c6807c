"""Drafts side by side: everything that the Compare page and its report show, prepared once.

The statistics are those of `engine.measure.compare`. Where a rate may not be compared, the reason stands in place of
the difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import streamlit as st

from engine.errors import DraftbenchError
from engine.index.queries import Run
from engine.measure.compare import (
    ON_TARGET_TEXT,
    SAME_TEMPERATURE,
    Measurement,
    RateDifference,
    agreement,
    compare,
    differing_conditions,
    paired,
    rate_interval,
    same_answers,
)
from engine.measure.definitions import RATES
from engine.measure.interval_words import bounds_words, mark, trusted
from engine.measure.statistics import SAMPLES
from engine.measure.trace import slot_intervals
from engine.records.interval import Interval
from engine.records.speed import Speed
from engine.records.summary import Conditions
from engine.traces.measured import trace_of_run
from engine.traces.trace import Trace
from workbench.shared import queries
from workbench.shared.series_names import series_names

MOST_DRAFTS = 6
_LETTERS = "ABCDEF"
_CHANGE = ("delta", "delta_low", "delta_high", "delta_prompts", "baseline_there")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Draft:
    """One of the compared drafts. `label`: a letter and what its title has of its own, its name in every figure."""

    run: Run
    label: str

    @property
    def id(self) -> str:
        return self.run.run_id

    @property
    def conditions(self) -> Conditions:
        return self.run.summary.conditions

    @property
    def temperatures(self) -> list[float]:
        """Temperatures at which it was measured, ascending. A draft measured as it came has no improvement."""
        summary = self.run.summary
        return sorted({row.temperature for row in summary.improvement} | set(summary.by_slot))

    def was_measured_at(self, temperature: float) -> bool:
        return any(abs(t - temperature) < SAME_TEMPERATURE for t in self.temperatures)

    def measurement(self, prompts: pd.DataFrame) -> Measurement:
        """Its sums out of the comparison's `prompts`, with the conditions that they were measured under."""
        samples = (self.run.config.get("measure") or {}).get("bootstrap_samples") or SAMPLES
        return Measurement(prompts[prompts.run_id == self.id], self.conditions, int(samples))


@dataclass(frozen=True)
class Comparison:
    """Two to six drafts at one temperature.

    `rates`: run_id, label, metric, value, low, high, n_prompts, n_tokens, before (untrained), delta, delta_low,
    delta_high, delta_prompts (from the baseline), baseline_there (the baseline's rate on these prompts, where they are
    fewer than its own; else NaN), reason (why there is no delta). Bounds are NaN where there are too few prompts for
    them. `prompts`: sums per run and prompt, with `answer`.
    `slots`: the frame of `rate_charts.by_slot`. `agreement`: McNemar's counts per draft against the baseline.
    """

    temperature: float
    baseline: str
    drafts: tuple[Draft, ...]
    rates: pd.DataFrame
    prompts: pd.DataFrame
    slots: pd.DataFrame
    agreement: pd.DataFrame

    def draft(self, run_id: str) -> Draft:
        return next(draft for draft in self.drafts if draft.id == run_id)

    @property
    def labels(self) -> dict[str, str]:
        return {draft.id: draft.label for draft in self.drafts}

    @property
    def letter(self) -> str:
        """The baseline's letter."""
        return self.draft(self.baseline).label[0]

    @property
    def circumstances(self) -> str:
        """Temperature and training seeds."""
        seeds = sorted({str(draft.run.seed) for draft in self.drafts if draft.run.seed is not None})
        return f"T = {self.temperature:g}, training seed {', '.join(seeds) or 'not known'}"

    @property
    def note(self) -> str:
        """As `noted` of the exact rate, which rests on all held-out prompts."""
        return self.noted("exact")

    def noted(self, metric: str) -> str:
        """n of the rate, temperature and seeds, for the second line of a title."""
        n = sorted({int(n) for n in self.rates[self.rates.metric == metric].n_prompts.dropna()})
        several = f"{n[0]} to {n[-1]}" if len(n) > 1 else str(n[0]) if n else "no"
        return f"n = {several} prompts, {self.circumstances}"


def rate_words(row: Any) -> str:
    """The bounds of a rate in a row of `Comparison.rates`, or that there are too few prompts."""
    if pd.isna(row.n_prompts):
        return ""
    return bounds_words(Interval(row.value, row.low, row.high, int(row.n_prompts)))


def change_words(row: Any, baseline: str, *, marked: bool = True) -> str:
    """The paired change of a row of `Comparison.rates`: '▲ +0.050 [+0.041, +0.059]'.

    Where fewer prompts are paired than the baseline's rate rests on, it says so with the baseline's rate there, as the
    change is not the difference of the two rates beside it: '-0.017, paired on 2 prompts (A there: 0.175); ...'.
    `baseline`: the letter of the baseline; `marked`: with ▲, ▼ or ≈.
    """
    change = Interval(row.delta, row.delta_low, row.delta_high, int(row.delta_prompts))
    within = bounds_words(change, sign="+")
    value = f"{mark(change) if marked else ''} {row.delta:+.3f}".strip()
    few = within.startswith("n")
    if pd.isna(row.baseline_there):
        return f"{value} ({within})" if few else f"{value} {within}".rstrip()
    prompts = f"{change.n_prompts} prompt{'' if change.n_prompts == 1 else 's'}"
    paired_on = f"paired on {prompts} ({baseline} there: {row.baseline_there:.3f})"
    return f"{value}, {paired_on}; {within}" if few else f"{value} {within}".rstrip() + f", {paired_on}"


def load_comparison(run_ids: Sequence[str], temperature: float, baseline: str) -> Comparison:
    """The comparison of these runs; kept until one of them is measured again or renamed."""
    known = queries.runs()
    labels = ["title", "notes", "tags"]  # which the report shows
    rows = known[known.run_id.isin(list(run_ids))][["run_id", "updated_at", *labels, "exact", "certificate"]]
    return _load(str(queries.home().root), tuple(run_ids), temperature, baseline, rows.to_json(date_format="iso"))


@st.cache_data(ttl=600, max_entries=64, show_spinner=False)
def _load(root: str, run_ids: tuple[str, ...], temperature: float, baseline: str, stamp: str) -> Comparison:
    runs = [queries.run(run_id) for run_id in run_ids]
    return compared(
        runs, queries.metrics(list(run_ids)), *queries.measured(list(run_ids), temperature), temperature, baseline
    )


def compared(
    runs: Sequence[Run],
    metrics: pd.DataFrame,
    prompts: pd.DataFrame,
    rounds: pd.DataFrame,
    tokens: pd.DataFrame,
    temperature: float,
    baseline: str,
) -> Comparison:
    """The comparison from what the index holds; `baseline` is the id of one of the runs."""
    names = series_names([run.title or run.name or run.run_id for run in runs])
    drafts = tuple(Draft(run, f"{letter} · {name}") for letter, run, name in zip(_LETTERS, runs, names, strict=False))
    first = next(draft for draft in drafts if draft.id == baseline)
    own = {rate: _rate_row(first, rate, metrics, temperature)["n_prompts"] for rate in RATES}
    rates, counts, slots = [], [], []
    for draft in drafts:
        deltas = [] if draft is first else compare(first.measurement(prompts), draft.measurement(prompts))
        by_rate = {row.metric: row for row in deltas}
        for rate in RATES:
            row = _rate_row(draft, rate, metrics, temperature)
            row |= _delta(first, draft, by_rate, rate, temperature, own[rate])
            if by_rate and math.isnan(row["value"]) and rate in ON_TARGET_TEXT:
                row["reason"] = ""  # in place of the rate stands that it was not measured
            rates.append(row)
        if by_rate:
            mine, baselines = (tokens[tokens.run_id == one.id] for one in (draft, first))
            common = same_answers(*_sides(prompts, first, draft))[0].index
            matrix = agreement(baselines, mine, common)
            counts += [] if matrix is None else [{"run_id": draft.id, **matrix.as_dict()}]
        slots.append(slot_intervals(rounds[rounds.run_id == draft.id]).assign(label=draft.label))
    return Comparison(
        temperature, baseline, drafts, pd.DataFrame(rates), prompts, pd.concat(slots), pd.DataFrame(counts)
    )


def _sides(prompts: pd.DataFrame, first: Draft, second: Draft) -> list[pd.DataFrame]:
    """The sums of two drafts, indexed by prompt id."""
    return [prompts[prompts.run_id == draft.id].set_index("prompt_id") for draft in (first, second)]


def _rate_row(draft: Draft, rate: str, metrics: pd.DataFrame, temperature: float) -> dict[str, Any]:
    near = (metrics.temperature - temperature).abs() < SAME_TEMPERATURE
    rows = metrics[(metrics.run_id == draft.id) & (metrics.metric == rate) & near]
    by_draft = {row["draft"]: row for row in rows.to_dict("records")}
    trained, initial = by_draft.get("trained", {}), by_draft.get("initial", {})
    return {
        "run_id": draft.id,
        "label": draft.label,
        "metric": rate,
        **_bounded({key: trained.get(key, math.nan) for key in ("value", "low", "high", "n_prompts", "n_tokens")}),
        "before": initial.get("value", math.nan),
    }


def _bounded(row: dict[str, Any]) -> dict[str, Any]:
    """The row with bounds only where there are prompts enough."""
    if pd.isna(row["n_prompts"]):
        return row
    known = trusted(Interval(row["value"], row["low"], row["high"], int(row["n_prompts"])))
    return {**row, "low": known.low, "high": known.high}


def _delta(
    first: Draft, draft: Draft, deltas: Mapping[str, RateDifference], rate: str, temperature: float, own: float
) -> dict[str, Any]:
    """The change of this draft to the baseline, or why there is none; `own`: prompts of the baseline's own rate."""
    row = deltas.get(rate)
    reason = "" if draft is first else _reason(first, draft, deltas, rate, temperature)
    if row is None or reason:
        return {**dict.fromkeys(_CHANGE, math.nan), "reason": reason}
    change = trusted(row.difference)
    return {
        "delta": change.value,
        "delta_low": change.low,
        "delta_high": change.high,
        "delta_prompts": change.n_prompts,
        "baseline_there": row.a if change.n_prompts < own else math.nan,
        "reason": "",
    }


def _reason(first: Draft, draft: Draft, deltas: Mapping[str, RateDifference], rate: str, temperature: float) -> str:
    for one, words in ((draft, "this draft"), (first, "the baseline")):
        if not one.was_measured_at(temperature):
            return f"{words} was not measured at T = {temperature:g}"
    if not deltas:
        return "no held-out answer in common with the baseline: other target, prompts or sampling"
    if rate not in deltas and rate in ON_TARGET_TEXT:
        return "not measured of the baseline, by an earlier version; `draftbench measure RUN` measures it again"
    if rate not in deltas:
        return "no traced prompt in common with the baseline"
    values = differing_conditions(first.conditions, draft.conditions)
    return "; ".join(
        f"{key} is {word(values[key][1])} here and {word(values[key][0])} in the baseline"
        for key in deltas[rate].blocked_by
    )


def measured_temperatures(run_ids: Iterable[str]) -> list[float]:
    """Temperatures that any of the runs was measured at, the lowest first."""
    values = queries.exact_values()
    return sorted({float(t) for t in values[values.run_id.isin(list(run_ids))].temperature})


def paired_prompts(comparison: Comparison, first: str, second: str, rate: str) -> pd.DataFrame:
    """The frame of `rate_charts.prompt_scatter`: prompts with the same answer under both drafts, and both rates."""
    side_a, side_b = _sides(comparison.prompts, comparison.draft(first), comparison.draft(second))
    pair = paired(side_a, side_b, rate)
    if pair is None:
        return pd.DataFrame(columns=["prompt_id", "group", "text", "n_a", "a", "n_b", "b"])
    here = side_a.loc[pair.a.prompts]
    rows = pd.DataFrame({"prompt_id": here.index, "group": here.prompt_group.fillna("").array, "text": here.text.array})
    for side, sums in (("a", pair.a), ("b", pair.b)):
        rows[f"n_{side}"] = sums.denominators
        with np.errstate(divide="ignore", invalid="ignore"):
            rows[side] = sums.numerators / sums.denominators
    return rows.dropna(subset=["a", "b"]).sort_values("prompt_id")


def rates_by_group(comparison: Comparison, rate: str) -> pd.DataFrame:
    """The frame of `rate_charts.group_bars`: the rate of each draft on each prompt group.

    `n_tokens` is what it is of a run's rates: positions of the target's text, or emitted tokens of a sampled rate.
    """
    counted, rows = "n_positions" if rate in ON_TARGET_TEXT else "emitted", []
    for draft in comparison.drafts:
        prompts = comparison.prompts[comparison.prompts.run_id == draft.id].set_index("prompt_id")
        for group, part in prompts.groupby(prompts.prompt_group.fillna("")):
            interval, _ = rate_interval(part, rate)
            if interval.n_prompts:
                values = {**trusted(interval).as_dict(), "n_tokens": part[counted].sum()}
                rows.append({"label": draft.label, "group": group, **values})
    return pd.DataFrame(rows, columns=["label", "group", "value", "low", "high", "n_prompts", "n_tokens"])


def accepted_lengths(comparison: Comparison) -> dict[str, list[int]]:
    """Rounds with 0, 1, ... accepted tokens, for each draft that was traced at this temperature."""
    counts = {
        draft.label: at_temperature(draft.run.summary.accepted_lengths, comparison.temperature)
        for draft in comparison.drafts
    }
    return {label: rounds for label, rounds in counts.items() if rounds}


def timings(comparison: Comparison) -> dict[str, Speed]:
    """The timing of each draft that was timed."""
    return {d.label: d.run.summary.speed for d in comparison.drafts if d.run.summary.speed}


def trace_of(draft: Draft, temperature: float, prompt: str) -> Trace | None:
    """The draft's trace of a prompt; None if it was not traced, or cannot be read."""
    try:
        return trace_of_run(queries.folder(draft.id), temperature, prompt)
    except DraftbenchError:
        return None


def at_temperature(by_temperature: Mapping[float, _T], temperature: float) -> _T | None:
    return next((v for t, v in by_temperature.items() if abs(t - temperature) < SAME_TEMPERATURE), None)


def word(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(word, value)) or "none"
    return (
        {None: "none", True: "yes", False: "no"}.get(value, str(value))
        if value is None or isinstance(value, bool)
        else str(value)
    )
