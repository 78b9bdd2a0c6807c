"""The results on a run's page: cards of the main metrics, all rates, and the certificate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from engine.index.queries import Run
from engine.measure import definitions, speed_words
from engine.measure.decision import Decision, decide
from engine.numbers import interval, ratio_digits
from engine.records.certificate import Certificate
from engine.records.interval import Interval
from engine.records.speed import Speed
from engine.records.summary import Conditions, Improvement, Metric, Served, Summary
from engine.runs.advice import changes_of
from engine.runs.folder import RunFolder
from workbench.shared import chart_parts, downloads, queries, ui

_MARKS = {
    "passed": ":material/check: passed",
    "failed": ":material/close: failed",
    "reported": ":material/info: for information",
}
VERDICT_ICONS = {
    "serve it": ":material/check:",
    "no gain": ":material/close:",
    "not decided yet": ":material/help:",
}
_COLUMN = st.column_config
EXACT_MEANS = (
    "It is the probability that the target accepts a token proposed at a position of its own text; "
    "tokens discarded after a rejection do not count."
)
Card = tuple[str, str, str | None, str, str]  # name, value, difference, note, help
CHECKS = {
    "sampled_equals_expected": "Sampled acceptance agrees with expected acceptance",
    "self_draft": "A draft identical to the target is always accepted",
    "greedy_identity_float32": "Greedy text is the target's own, token for token (float32)",
    "greedy_margins_low_precision": "Greedy text in low precision, where rounding may lead to another token",
    "traced_equals_captured": "The trace's text at temperature 0 is the target's captured text",
    "ragged_identity_float32": "Rows of different lengths decoded together give the target's own text (float32)",
    "chi_square_pair": "Tokens of this pair follow the target's distribution (chi-square)",
    "chi_square": "The sampling rule of this build on a built-in pair (chi-square)",
}


def results(run: RunFolder, indexed: Run) -> None:
    """Draw cards of the main metrics, the certificate, and all rates."""
    values = queries.metrics([run.id])
    exact = values[values.metric == "exact"]
    trained = exact[exact.draft == "trained"].sort_values("temperature")
    if indexed.summary.subject == "target alone":
        target_alone(run, indexed, values)
        return
    if trained.empty:
        return
    summary, before = indexed.summary, exact[exact.draft == "initial"].set_index("temperature")
    tau = values[(values.metric == "tau") & (values.draft == "trained")].set_index("temperature")
    gains = summary.gains()
    cards = [_exact_card(row, before, gains) for row in trained.itertuples()]
    cards += [_tau_card(row, summary.conditions) for row in tau.sort_index().head(1).reset_index().itertuples()]
    cards += _speed_card(indexed, summary)
    verdict(run, summary, values)
    with st.container(key="cards-results"):
        places = st.columns(len(cards))
    for place, (name, value, delta, note, help_text) in zip(places, cards, strict=True):
        with place.container(border=True, height="stretch"):
            st.metric(name, value, delta, help=help_text)
            st.caption(note)
    served(summary.served)
    certificate(summary.certificate)
    as_it_is = summary.subject == "draft as it is"
    title = "All rates of the draft as it is" if as_it_is else "All rates, before and after training"
    with st.expander(title, icon=":material/table_chart:"):
        frame = rates(values)
        if as_it_is:
            frame = frame.rename(columns={"trained": "as it is"}).drop(columns="initial")
        st.dataframe(frame, hide_index=True, column_config=_RATE_COLUMNS, alt="Every acceptance rate with its interval")
        downloads.download_row(
            f"{run.id}-rates",
            "all-rates",
            frame=frame,
            caption=f"Acceptance rates of run {run.id}, {chart_parts.INTERVAL}",
        )


def target_alone(run: RunFolder, indexed: Run, values: pd.DataFrame) -> None:
    """Draw how fast a target decodes without a draft; there is nothing else to say of it."""
    summary = indexed.summary
    verdict(run, summary, values)
    speed, where = summary.speed or Speed(), speed_words.measured_where(summary, indexed.provenance)
    ways = {"plain": "Plain decoding", "transformers": "Transformers' own generate", "served": "The server"}
    shown = [(name, speed.tokens_per_s[way]) for way, name in ways.items() if way in speed.tokens_per_s]
    for place, (name, rate) in zip(st.columns(max(1, len(shown))), shown, strict=False):
        with place.container(border=True, height="stretch"):
            st.metric(f"{name}, tokens/s", ui.number(rate.value, 1))
            st.caption(ui.interval_line(rate, 1))
    st.caption(ui.text(f"Batch size 1, temperature {speed.temperature:g}" + (f", on {where}" if where else "")))


def verdict(run: RunFolder, summary: Summary, values: pd.DataFrame) -> None:
    """Draw whether to serve the draft, why, and what would change that. `values`: the run's rates, as indexed."""
    columns = ["draft", "temperature", "metric", "value", "low", "high", "n_prompts"]
    decision = decide(summary, [Metric.model_validate(row) for row in values[columns].to_dict("records")])
    decision_box(decision, run)


def decision_box(decision: Decision, run: RunFolder) -> None:
    """Draw the answer in its colour, with its reasons and, in commands for this run, what would change it."""
    changes = "".join(f"\n- {ui.sentence(change)}" for change in changes_of(decision, run))
    text = f"**{decision.answer.capitalize()}:** {ui.sentence('; '.join(decision.reasons))}."
    {"serve it": st.success, "no gain": st.warning}.get(decision.answer, st.info)(
        text + (f"\n\nWhat would change it:{changes}" if changes else ""), icon=VERDICT_ICONS[decision.answer]
    )


def _exact_card(row: Any, before: pd.DataFrame, gains: Mapping[float, Improvement]) -> Card:
    notes = [f"{ui.interval_line(row)}, {ui.number(row.n_tokens, 0)} tokens"]
    delta = None
    if row.temperature in before.index:
        old = before.loc[row.temperature]
        delta = f"{row.value - old.value:+.3f} by training"
        notes.append(f"untrained: {interval(old)}")
    if gain := gains.get(row.temperature):
        notes.append(f"gain: {interval(gain)}, paired by prompt")
    explained = f"{definitions.RATES['exact'].definition} {EXACT_MEANS}"
    return f"Exact acceptance, T = {row.temperature:g}", ui.number(row.value), delta, "  \n".join(notes), explained


def _tau_card(row: Any, conditions: Conditions) -> Card:
    where = " on ".join(filter(None, (conditions.precision, conditions.device)))
    note = f"{ui.interval_line(row, 2)}  \n{', '.join(filter(None, (conditions.proposing, where)))}"
    return (
        f"tau, T = {row.temperature:g}",
        ui.number(row.value, 2),
        None,
        note,
        definitions.RATES["tau"].definition,
    )


def _speed_card(indexed: Run, summary: Summary) -> list[Card]:
    if indexed.speedup is None or pd.isna(indexed.speedup):
        return []
    speed = summary.speed or Speed()
    digits = ratio_digits(speed.speedup or Interval())
    note = ui.interval_line(speed.speedup, digits) if speed.speedup else "no interval"
    speeds = [f"{way} {ui.number(rate.value, 1)} tokens/s" for way, rate in speed.tokens_per_s.items()]
    where = speed_words.measured_where(summary, indexed.provenance)
    return [
        (
            "Speed-up",
            f"{indexed.speedup:.{digits}f}×",
            None,
            f"{note}  \n{', '.join(speeds)}" + (f"  \nmeasured on {where}" if where else ""),
            "Paired: each prompt is decoded both plainly and speculatively.",
        )
    ]


def served(measured: Served | None) -> None:
    """Describe a measurement against a served model's text: its source, the tokens used, and its limits."""
    if measured is None:
        return
    parts = []
    for at in measured.positions:
        out = (
            f" {at.left_out:,} left out because their identity or probability is uncertain"
            if at.left_out
            else " all used"
        )
        parts.append(f"T = {at.temperature:g}: {at.used:,} tokens,{out}")
    st.info(
        f"Measured against the text of **{ui.text(measured.model)}** at {ui.text(measured.base_url)}: exact "
        "acceptance is the mean of min(1, q(x)/p(x)) over the tokens x that it drew. Sampled rates, tau, speed and the "
        f"certificate require running the target on this machine.  \n{'; '.join(parts)}.",
        icon=":material/dns:",
    )


def certificate(record: Certificate | None) -> None:
    """Draw the losslessness certificate with its checks."""
    if record is None:
        return
    passed = record.passed
    word = "passed" if passed is True else "failed" if passed is False else "incomplete"
    icon = {"passed": ":material/verified:", "failed": ":material/gpp_bad:"}.get(word, ":material/help:")
    with st.expander(f"Losslessness certificate: {word}", icon=icon, expanded=passed is False):
        if passed is False:
            st.write(
                "This run is not ranked: speculative decoding was not shown to leave the target's output unchanged."
            )
        for check in record.checks:
            mark = _MARKS["passed" if check.passed else "failed" if check.passed is False else "reported"]
            name, n = CHECKS.get(check.name, check.name), ui.number(check.n_tokens, 0)
            st.markdown(f"{mark} · **{ui.text(name)}**  \n{ui.text(check.detail)} (n = {n} tokens)")


_RATE_COLUMNS: dict[str, Any] = {
    "as it is": _COLUMN.TextColumn("As it is [95% interval]"),
    "temperature": _COLUMN.NumberColumn("T", format="%g"),
    "metric": _COLUMN.TextColumn("Rate", help="The Learn page defines the rates."),
    "trained": _COLUMN.TextColumn("Trained [95% interval]"),
    "n": _COLUMN.TextColumn("n"),
    "initial": _COLUMN.TextColumn("Untrained [95% interval]"),
}


def rates(values: pd.DataFrame) -> pd.DataFrame:
    """All measured rates with intervals. Columns: temperature, metric, trained, n, initial."""
    order = list(definitions.RATES)
    rows: dict[tuple[float, str], dict[str, Any]] = {}
    row: Any
    for row in values.itertuples():
        title = definitions.RATES[row.metric].title if row.metric in definitions.RATES else row.metric
        place = rows.setdefault((row.temperature, row.metric), {"temperature": row.temperature, "metric": title})
        place[row.draft] = interval(row)
        if row.metric == "exact":  # a run of an earlier version has no argmax, and says so
            lacking = {"temperature": row.temperature, "metric": definitions.RATES["argmax"].title}
            rows.setdefault((row.temperature, "argmax"), {**lacking, "trained": "not measured"})
        if row.draft == "trained":
            place["n"] = f"{ui.number(row.n_prompts, 0)} prompts, {ui.number(row.n_tokens, 0)} tokens"
    keys = sorted(rows, key=lambda key: (key[0], order.index(key[1]) if key[1] in order else len(order), key[1]))
    return (
        pd.DataFrame([rows[key] for key in keys])
        .reindex(columns=[c for c in _RATE_COLUMNS if c != "as it is"])
        .fillna("–")
    )
