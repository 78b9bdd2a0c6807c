"""The Compare page's slices: where each draft fails, what is to be gained there, and how to train for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

import pandas as pd
import streamlit as st

from engine.errors import DraftbenchError
from engine.measure.definitions import RATES
from engine.measure.interval_words import mark, stated, trusted
from engine.numbers import share
from engine.records.interval import Interval
from engine.slices.kinds import KINDS
from engine.slices.of_run import SlicedRuns, slices_against, slices_of_run
from engine.slices.slices import FEW_PROMPTS, FEW_TOKENS, Slice
from engine.slices.tokens import BY, PAST_THE_END
from workbench.compare.comparison import Comparison
from workbench.compare.figures import View, file_name, view_of
from workbench.shared import chart_parts, queries, slice_chart, ui, url_warnings

WAYS = {
    "kind": "Kind of token",
    "position": "Position in the answer",
    "context": "Position in the context",
    "entropy": "Entropy of the target",
    "group": "Prompt group",
    "category": "SPEED-Bench category",
}
"""What a visitor can slice by; single prompts have a tab of their own."""
FEW_MEANS = f"(few): fewer than {FEW_PROMPTS} prompts or {FEW_TOKENS} tokens, too little to conclude from"
_COLUMNS = ["label", "slice", "value", "low", "high", "n_prompts", "n_tokens", "token_share", "refusal_share"]
_COLUMNS += ["gain", "gain_low", "gain_high", "few"]
Table = Callable[[pd.DataFrame, str, str, str], None]  # frame, file name, caption, key


@dataclass(frozen=True)
class Shown:
    """The slices of the drafts that have them, by draft id, and why others have none, by label."""

    results: dict[str, SlicedRuns]
    missing: dict[str, str]


def section(comparison: Comparison, metric: str, show: Callable[[View, str], None], table: Table) -> None:
    """The choice of slices, the figure, the changes from the baseline, and the command that trains for one."""
    left, right = st.columns(2)
    with left:
        by = ui.choose_one("Slice by", list(WAYS), WAYS, "slice")
    shown = load(comparison, by, metric)
    for why, labels in _together(shown.missing).items():
        st.info(f"{ui.text(', '.join(labels))}: {ui.sentence(why)}", icon=":material/info:")
    if not shown.results:
        return
    view = figure(comparison, metric, by, shown)
    show(view, "slices")
    for sentence in chances(comparison, shown):
        st.caption(ui.sentence(sentence))
    lost = slice_chart.lost(metric)
    st.caption(f"Slices that hold most {lost} come first, unless they have an order of their own. {FEW_MEANS}.")
    changes = changes_table(shown, comparison.labels)
    if not changes.empty:
        st.subheader("Change from the baseline by slice", anchor=False)
        caption = (
            f"Change of {metric} from the baseline by {WAYS[by].lower()}, {comparison.note}, {chart_parts.INTERVAL}"
        )
        table(changes, file_name(f"slices-{by}-{metric}", comparison, baseline=True), caption, "slice-changes")
    if by == "kind":
        with st.expander("What the kinds are"):
            st.markdown("\n".join(f"- `{kind}`: {ui.sentence(what)}" for kind, what in KINDS.items()))
    for note in dict.fromkeys(note for result in shown.results.values() for note in result.notes):
        st.caption(ui.sentence(note))
    with right:
        _train_for(shown, comparison, by)


Stamps = tuple[tuple[str, str], ...]  # run id and when its measurement changed: the draft, then the baseline
Read = Callable[[str, Stamps, str, str, float], SlicedRuns | DraftbenchError]


def load(comparison: Comparison, by: str, metric: str, read: Read | None = None) -> Shown:
    """The slices of every draft, against the baseline where it is another one.

    `read`: `sliced_runs` where Streamlit may not be asked for what it keeps.
    """
    results: dict[str, SlicedRuns] = {}
    missing: dict[str, str] = {}
    for draft in comparison.drafts:
        against = None if draft.id == comparison.baseline else comparison.draft(comparison.baseline)
        stamps = tuple((one.id, str(_changed(one.id))) for one in (draft, against) if one is not None)
        result = (read or _cached)(str(queries.home().root), stamps, by, metric, comparison.temperature)
        if isinstance(result, DraftbenchError):
            missing[draft.label] = f"{result.what}. {result.fix}".strip(". ")
        else:
            results[draft.id] = result
    return Shown(results, missing)


@st.cache_data(ttl=600, max_entries=256, show_spinner="Reading the tokens ...")
def _cached(root: str, stamps: Stamps, by: str, metric: str, temperature: float) -> SlicedRuns | DraftbenchError:
    return sliced_runs(root, stamps, by, metric, temperature)


def sliced_runs(root: str, stamps: Stamps, by: str, metric: str, temperature: float) -> SlicedRuns | DraftbenchError:
    """The slices of the first run, as b of a comparison with the second if there is one and they have answers in
    common; or the error that says why there are none: it is the same until a run is measured again."""
    try:
        run = queries.folder(stamps[0][0])
        alone = slices_of_run(run, by=by, rate=metric, temperature=temperature)
        if len(stamps) == 1:
            return alone
        try:
            return slices_against(queries.folder(stamps[1][0]), run, by=by, rate=metric, temperature=temperature)
        except DraftbenchError:  # nothing in common, or the baseline lacks it: its own slices can be shown
            return alone
    except DraftbenchError as error:
        return error


def _changed(run_id: str) -> int:
    path = queries.folder(run_id).summary_path
    return path.stat().st_mtime_ns if path.exists() else 0


def _own(result: SlicedRuns, run_id: str) -> Any:
    """The slices of the run itself, which is b where it is compared with the baseline."""
    return result.sliced_b if result.b == run_id and result.sliced_b is not None else result.sliced


def frame(comparison: Comparison, shown: Shown) -> pd.DataFrame:
    """The frame of `slice_chart.slices`: slices in the order of the first draft, then those that only others have."""
    order: list[str] = []
    rows: list[dict[str, Any]] = []
    for draft in comparison.drafts:
        if draft.id in shown.results:
            items: list[Slice] = _own(shown.results[draft.id], draft.id).in_order()
            order += [item.name for item in items if item.name not in order]
            rows += [_row(draft.label, item) for item in items]
    table = pd.DataFrame(rows, columns=_COLUMNS)
    return table.sort_values("slice", key=lambda names: names.map(order.index), kind="stable")


def for_reading(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of `frame` as a reader wants them: values with intervals, and a word at slices that are too small."""
    return pd.DataFrame(_readable(row, metric) for row in rows.itertuples())


def _readable(row: Any, metric: str) -> dict[str, Any]:
    return {
        "draft": row.label,
        "slice": row.slice + (" (few)" if row.few else ""),
        f"{metric} [95% interval]": stated(Interval(row.value, row.low, row.high, int(row.n_prompts))),
        "n" if RATES[metric].per_forward else "n (tokens)": row.n_tokens,
        "prompts": row.n_prompts,
        f"of all {slice_chart.lost(metric)}": share(row.refusal_share),
    }


def _row(label: str, item: Slice) -> dict[str, Any]:
    gain = trusted(item.gain)
    return {
        **{"label": label, "slice": item.name, **trusted(item.rate).as_dict()},
        **{"n_prompts": item.n_prompts, "n_tokens": item.n_tokens, "token_share": item.token_share},
        **{"refusal_share": item.refusal_share, "few": item.few},
        **{"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high},
    }


def figure(comparison: Comparison, metric: str, by: str, shown: Shown) -> View:
    """The rate by slice of each draft, with the share of what is lost."""
    rows = frame(comparison, shown)
    note = f"{comparison.noted(metric)}; {chart_parts.interval_note(rows)}"
    what = BY[by].split(":")[0]
    most = rows.sort_values("refusal_share", ascending=False).drop_duplicates("label")
    worst = "; ".join(f"{row.label}: most in {row.slice}" for row in most.itertuples())
    return view_of(
        comparison,
        file_name(f"slices-{by}-{metric}", comparison),
        f"{RATES[metric].title} by {what}, and the share of the {slice_chart.lost(metric)}. {worst}",
        lambda tone: slice_chart.slices(rows, metric, what, tone, note),
        rows,
    )


def chances(comparison: Comparison, shown: Shown) -> list[str]:
    """For each draft the slice that holds back the whole most, with what it would be as good as the rest."""
    sentences = []
    for draft in comparison.drafts:
        if draft.id not in shown.results:
            continue
        own = _own(shown.results[draft.id], draft.id)
        held = [item for item in own.slices if not item.few and not math.isnan(item.gain.low) and item.gain.low > 0]
        if held:
            worst = max(held, key=lambda item: item.gain.value)
            sentences.append(
                f"{draft.label}: most to gain in {worst.name}, which holds {share(worst.refusal_share)} of what is "
                f"lost. As good as the rest, it would bring {own.metric} from {own.overall.value:.3f} to "
                f"{own.overall.value + worst.gain.value:.3f}."
            )
    return sentences


def changes_table(shown: Shown, labels: Mapping[str, str]) -> pd.DataFrame:
    """The change of each draft from the baseline by slice; why, in words, where it may not be subtracted."""
    changes: dict[str, dict[str, str]] = {}
    for run_id, label in labels.items():
        result = shown.results.get(run_id)
        if result is None or result.b != run_id:
            continue
        column = f"Δ {label}"
        if result.blocked_by:
            for item in result.sliced.slices:
                changes.setdefault(item.name, {})[column] = f"not comparable: {', '.join(result.blocked_by)} differ"
        for row in result.differences:
            changes.setdefault(row.name, {})[column] = _change(row.difference) + (" (few)" if row.few else "")
    return pd.DataFrame([{"slice": name, **row} for name, row in changes.items()]).fillna("–")


def _change(change: Interval) -> str:
    if math.isnan(change.value):
        return "–"
    return f"{mark(change)} {stated(change, sign='+')}".strip()


def _train_for(shown: Shown, comparison: Comparison, by: str) -> None:
    """The command that chooses training prompts for a slice: it loads the models, so it is not run from a page."""
    first = next(draft for draft in comparison.drafts if draft.id in shown.results)
    names = [item.name for item in _own(shown.results[first.id], first.id).slices if item.name != PAST_THE_END]
    options = {"": "all refusals", **{name: name for name in names}}
    if st.session_state.get("_sliced_by", by) != by:  # a slice of another kind, which is nothing to be warned about
        st.query_params.pop("only", None)
        st.session_state.pop("only", None)
        url_warnings.handled("only")
    st.session_state["_sliced_by"] = by
    only = ui.choose_one("Train for", list(options), options, "only")
    slice_of = f" --by {by} --only {quote(only)}" if only else ""
    st.code(f"draftbench slices {first.id} --worst 0.6{slice_of} --out focus.jsonl", language="bash", wrap_lines=True)
    st.caption(
        "Writes the fewest training prompts that hold 60% of these refusals. Held-out prompts are never among them."
    )


def _together(missing: dict[str, str]) -> dict[str, Sequence[str]]:
    together: dict[str, list[str]] = {}
    for label, why in missing.items():
        together.setdefault(why, []).append(label)
    return dict(together)
