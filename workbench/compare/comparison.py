"""Drafts side by side: everything that the Compare page and the report show, worked out once.

Two rates are subtracted only where they mean the same: on prompts that the target answered with the
same tokens, under equal conditions. Where not, the reason stands in place of the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from engine.errors import DraftbenchError
from engine.index.queries import Run
from engine.measure.compare import RATES, blocking, differences, paired_rate
from engine.measure.statistics import bootstrap_ratio, mcnemar
from engine.traces.measured import trace_of_run
from engine.traces.trace import Trace
from workbench.shared import queries

MOST = 6
_SAME = 1e-6  # temperatures nearer than this are one
_LETTERS = "ABCDEF"
_SUMS = ("exact_sum", "agree_sum", "n_positions", "rounds", "drafted", "accepted", "rejected", "emitted")


@dataclass(frozen=True)
class Draft:
    """One of the compared drafts. `label` is a letter and the run's title: what every figure calls it."""

    run: Run
    label: str

    @property
    def id(self) -> str:
        return self.run.run_id

    @property
    def conditions(self) -> dict[str, Any]:
        found: dict[str, Any] = self.run.summary.get("conditions") or {}
        return found


@dataclass(frozen=True)
class Comparison:
    """Two to six drafts at one temperature.

    `rates`: run_id, label, metric, value, low, high, n_prompts, n_tokens, before (untrained), delta, delta_low,
    delta_high, delta_prompts (to the baseline), reason (why there is no delta). `prompts`: sums a run and
    prompt, with `answer`. `slots`: the frame of `charts.by_slot`. `agreement`: McNemar's counts a run.
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
    def note(self) -> str:
        """As `noted` of the exact rate, which rests on all held-out prompts."""
        return self.noted("exact")

    def noted(self, metric: str) -> str:
        """n of the rate, temperature and seeds, for the second line of a title."""
        n = sorted({int(n) for n in self.rates[self.rates.metric == metric].n_prompts.dropna()})
        seeds = sorted({str(draft.run.seed) for draft in self.drafts if draft.run.seed is not None})
        several = f"{n[0]} to {n[-1]}" if len(n) > 1 else str(n[0]) if n else "no"
        return f"n = {several} prompts, T = {self.temperature:g}, training seed {', '.join(seeds) or 'not known'}"


def load(run_ids: Sequence[str], temperature: float, baseline: str) -> Comparison:
    """The comparison of these runs; kept until one of them is measured again or renamed."""
    known = queries.runs()
    rows = known[known.run_id.isin(list(run_ids))][["run_id", "updated_at", "title", "notes", "exact", "certificate"]]
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
    answers: pd.DataFrame,
    temperature: float,
    baseline: str,
) -> Comparison:
    """The comparison from what the index holds; `baseline` is the id of one of the runs."""
    drafts = tuple(
        Draft(run, f"{letter} · {_short(run.title or run.name or run.run_id)}")
        for letter, run in zip(_LETTERS, runs, strict=False)
    )
    whole = prompts.merge(answers, on=["run_id", "prompt_id"], how="left")
    first = next(draft for draft in drafts if draft.id == baseline)
    pairs = {draft.id: _pair(whole, first, draft) for draft in drafts}
    rates = [
        _rate_row(draft, metric, metrics, temperature) | _delta(metric, first, draft, pairs[draft.id], temperature)
        for draft in drafts
        for metric in RATES
    ]
    counted = [{"run_id": draft.id, **_discordance(pairs[draft.id])} for draft in drafts if draft is not first]
    return Comparison(
        temperature, baseline, drafts, pd.DataFrame(rates), whole, _slots(rounds, drafts), pd.DataFrame(counted)
    )


def _pair(prompts: pd.DataFrame, first: Draft, second: Draft) -> pd.DataFrame:
    """Prompts of both drafts whose answers are the same tokens; columns end with _a (first) and _b."""
    a, b = (prompts[prompts.run_id == draft.id].dropna(subset=["answer"]) for draft in (first, second))
    both = a.merge(b, on="prompt_id", suffixes=("_a", "_b"))
    return both[both.answer_a == both.answer_b]


def _rate_row(draft: Draft, metric: str, metrics: pd.DataFrame, temperature: float) -> dict[str, Any]:
    here = metrics[
        (metrics.run_id == draft.id) & (metrics.metric == metric) & ((metrics.temperature - temperature).abs() < _SAME)
    ]
    found = {row["draft"]: row for row in here.to_dict("records")}
    trained, initial = found.get("trained", {}), found.get("initial", {})
    values = {key: trained.get(key, float("nan")) for key in ("value", "low", "high", "n_prompts", "n_tokens")}
    return {
        "run_id": draft.id,
        "label": draft.label,
        "metric": metric,
        **values,
        "before": initial.get("value", float("nan")),
    }


def _delta(metric: str, first: Draft, draft: Draft, both: pd.DataFrame, temperature: float) -> dict[str, Any]:
    """This draft less the baseline on the prompts of both, or why not."""
    nothing = dict.fromkeys(("delta", "delta_low", "delta_high", "delta_prompts"), float("nan"))
    if draft is first:
        return {**nothing, "reason": ""}
    reason, found = _reason(metric, first, draft, both, temperature), None
    if not reason:
        found = paired_rate(both, metric)
        reason = "" if found else "no traced prompt in common with the baseline"
    if not found:
        return {**nothing, "reason": reason}
    change = found["difference"]
    told = {"delta": change["value"], "delta_low": change["low"], "delta_high": change["high"]}
    return {**told, "delta_prompts": change["n_prompts"], "reason": ""}


def _reason(metric: str, first: Draft, draft: Draft, both: pd.DataFrame, temperature: float) -> str:
    for one, words in ((draft, "this draft"), (first, "the baseline")):
        if not any(abs(t - temperature) < _SAME for t in _temperatures(one.run)):
            return f"{words} was not measured at T = {temperature:g}"
    if both.empty:
        return "no held-out answer in common with the baseline: other target, prompts or sampling"
    odd = differences(first.conditions, draft.conditions)
    told = [
        f"{key} is {word(odd[key][1])} here and {word(odd[key][0])} in the baseline" for key in blocking(metric, odd)
    ]
    return "; ".join(told)


def _temperatures(run: Run) -> list[float]:
    return sorted({float(row["temperature"]) for row in run.summary.get("improvement") or []})


def _discordance(both: pd.DataFrame) -> dict[str, Any]:
    """McNemar's counts of greedy agreement, baseline against this draft, token by token."""
    counts = dict.fromkeys(("11", "10", "01", "00"), 0)
    for a, b in zip(both.agree_a, both.agree_b, strict=True):
        for one, other in zip(a, b, strict=True):
            counts[one + other] += 1
    return mcnemar(counts["11"], counts["10"], counts["01"], counts["00"]).as_dict()


def _slots(rounds: pd.DataFrame, drafts: Sequence[Draft]) -> pd.DataFrame:
    """Acceptance at each place of the proposal with intervals over prompts; see `trace.acceptance_by_slot`."""
    found = []
    for draft in drafts:
        rows = rounds[rounds.run_id == draft.id]
        refused = (rows.emitted > rows.accepted) & (rows.accepted < rows.num_draft_tokens)
        for slot in range(1, int(rows.num_draft_tokens.max() if len(rows) else 0) + 1):
            proposed, kept = rows.num_draft_tokens >= slot, rows.accepted >= slot
            cases = {
                "joint": proposed & (refused | kept),
                "conditional": proposed & (kept | (refused & (rows.accepted == slot - 1))),
            }
            for kind, judged in cases.items():
                sums = (
                    pd.DataFrame({"prompt": rows.prompt_id, "top": kept & judged, "bottom": judged})
                    .groupby("prompt")
                    .sum()
                )
                interval = bootstrap_ratio(sums.top, sums.bottom).as_dict()
                found.append({"label": draft.label, "slot": slot, "kind": kind, **interval, "n": int(judged.sum())})
    columns = ["label", "slot", "kind", "value", "low", "high", "n_prompts", "n"]
    return pd.DataFrame(found, columns=columns)


def temperatures(run_ids: Iterable[str]) -> list[float]:
    """Temperatures that any of the runs was measured at, the lowest first."""
    values = queries.exact_values()
    return sorted({float(t) for t in values[values.run_id.isin(list(run_ids))].temperature})


def paired_prompts(found: Comparison, first: str, second: str, metric: str) -> pd.DataFrame:
    """The frame of `charts.prompt_scatter`: prompts with the same answer under both drafts, the rate under each."""
    both = _pair(found.prompts, found.draft(first), found.draft(second))
    top, bottom = RATES[metric]
    rows = pd.DataFrame({"prompt_id": both.prompt_id, "group": both.prompt_group_a.fillna(""), "text": both.text_a})
    for side in "ab":
        rows[f"n_{side}"] = sum(both[f"{name}_{side}"].astype(float) for name in bottom)
        rows[side] = both[f"{top}_{side}"].astype(float) / rows[f"n_{side}"]
    return rows.dropna(subset=["a", "b"]).sort_values("prompt_id")


def groups(found: Comparison, metric: str) -> pd.DataFrame:
    """The frame of `charts.group_bars`: the rate of each draft on each prompt group."""
    top, bottom = RATES[metric]
    rows = []
    for draft in found.drafts:
        mine = found.prompts[found.prompts.run_id == draft.id].dropna(subset=[top, *bottom])
        for group, part in mine.groupby(mine.prompt_group.fillna("")):
            wholes = part[bottom].astype(float).sum(axis=1)
            interval = bootstrap_ratio(part[top].astype(float), wholes).as_dict()
            rows.append({"label": draft.label, "group": group, **interval, "n_tokens": float(wholes.sum())})
    return pd.DataFrame(rows, columns=["label", "group", "value", "low", "high", "n_prompts", "n_tokens"])


def lengths(found: Comparison) -> dict[str, list[int]]:
    """Rounds with 0, 1, ... accepted tokens, of each draft that was traced at this temperature."""
    told = {d.label: at_temperature(d.run.summary.get("accepted_lengths"), found.temperature) for d in found.drafts}
    return {label: counts for label, counts in told.items() if counts}


def speeds(found: Comparison) -> dict[str, dict[str, Any]]:
    """The timing of each draft that was timed."""
    return {d.label: d.run.summary["speed"] for d in found.drafts if d.run.summary.get("speed")}


def trace_of(draft: Draft, temperature: float, prompt: str) -> Trace | None:
    """The draft's trace of a prompt; None if it was not traced, or cannot be read."""
    try:
        return trace_of_run(queries.folder(draft.id), temperature, prompt)
    except DraftbenchError:
        return None


def at_temperature(by_temperature: Mapping[str, Any] | None, temperature: float) -> Any:
    return next((v for t, v in (by_temperature or {}).items() if abs(float(t) - temperature) < _SAME), None)


def word(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(word, value)) or "none"
    return (
        {None: "none", True: "yes", False: "no"}.get(value, str(value))
        if value is None or isinstance(value, bool)
        else str(value)
    )


def _short(text: str, longest: int = 46) -> str:
    return text if len(text) <= longest else f"{text[: longest - 9]}…{text[-8:]}"
