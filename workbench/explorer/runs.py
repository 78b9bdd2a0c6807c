"""The runs that the Explorer shows: one group that was measured alike or all, under a condition; and its figures."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from engine.errors import DraftbenchError
from engine.explore.alike import DEPENDS_ON, Difference, differing, measured_alike
from engine.explore.figures import Figure, figures_of, rate_of
from engine.index.contents import MEASURED_ONLY
from engine.index.expressions import EXAMPLE, matching_runs
from engine.measure.compare import SAME_TEMPERATURE
from workbench.shared import chart_parts, queries, ui

ALL = "all"
_MOST_NAMED = 3  # domains or targets in a figure's title
_NONE = "No measured run fulfils the condition."


@dataclass(frozen=True)
class Shown:
    """The runs on the page, newest first. `table`: rows of the wide table, with `label`. `figures`: of all runs.

    `if_none`: what to say if the table has no row.
    """

    table: pd.DataFrame
    figures: dict[str, Figure]
    labels: dict[str, str]
    if_none: str = _NONE


def choose() -> Shown | None:
    """Let the visitor choose a group of runs that were measured alike, and a condition; None without measured runs."""
    known = queries.runs()
    known = known[~known.archived & known.heldout_hash.notna()]
    failed = known.certificate.eq(False)
    if failed.any():
        st.caption(f"{runs_in_words(int(failed.sum()))} whose losslessness certificate failed: left out.")
    known = known[~failed]
    as_it_is = known["mode"] == MEASURED_ONLY
    if as_it_is.any():
        st.caption(f"{runs_in_words(int(as_it_is.sum()))} that measured a draft as it is and trained none: left out.")
    known = known[~as_it_is]
    if known.empty:
        return None
    wide = queries.wide()
    figures = figures_of(wide)
    table = wide[wide.run_id.isin(set(known.run_id))]
    groups = measured_alike(table)
    labels = group_labels(table, groups)
    own = known.loc[~known["sample"], "run_id"]
    first = groups[table.run_id == own.iloc[0]].iloc[0] if len(own) else next(iter(labels))
    options = sorted(labels, key=lambda name: name != first)
    left, right = st.columns([3, 4])
    with left:
        group = ui.choose_one(
            "Runs measured alike", [*options, ALL], {**labels, ALL: f"all {len(table)} measured runs"}, "alike"
        )
    right.text_input(
        "Condition",
        key="where",
        bind="query-params",
        placeholder=f"{EXAMPLE}, train.learning_rate >= 1e-3",
        help="As on the page Runs: any setting by its dotted name, any rate with its "
        "temperature (`tau_0`, `argmax_1`).",
    )
    table = table if group == ALL else table[groups == group]
    kept = _fulfilling(table, st.session_state["where"] or "")
    fulfil = "No run is shown until the condition is fixed." if kept is None else _NONE
    table = table.head(0) if kept is None else kept
    names = dict(zip(known.run_id, known.label, strict=True))
    return Shown(table, figures, {run_id: names[run_id] for run_id in table.run_id}, fulfil)


def group_labels(table: pd.DataFrame, groups: pd.Series[str]) -> dict[str, str]:
    """A name for people of each group, those with most runs first."""
    labels = {}
    for group, n in groups.value_counts().items():
        first = table[groups == group].iloc[0]
        domain = f"{first.domain}, " if isinstance(first.domain, str) and first.domain not in str(first.target) else ""
        prompts = f", {first.n_prompts:.0f} held-out prompts" if pd.notna(first.n_prompts) else ""
        labels[str(group)] = f"{runs_in_words(n)}: {domain}{first.target or 'unknown target'}{prompts}"
    return ui.distinct(labels)


def _fulfilling(table: pd.DataFrame, condition: str) -> pd.DataFrame | None:
    """The rows for which the condition is true; None, with an error on the page, if it cannot be evaluated."""
    if not condition.strip():
        return table
    try:
        return table[table.run_id.isin(set(matching_runs(table, condition)))]
    except DraftbenchError as error:
        ui.error_box(error)
        return None


def bounds(shown: Shown, figures: list[Figure]) -> dict[str, pd.DataFrame]:
    """The 95% intervals of those figures that have one, as low and high by run id: rates, and the speed-up."""
    known = queries.metrics(list(shown.table.run_id))
    known = known[known.draft == "trained"]
    found = {}
    for figure in figures:
        rate = rate_of(figure.name)
        if rate:
            here = known[(known.metric == rate[0]) & ((known.temperature - rate[1]).abs() < SAME_TEMPERATURE)]
            found[figure.name] = here.drop_duplicates("run_id").set_index("run_id")[["low", "high"]]
    if any(figure.name == "speedup" for figure in figures):
        speeds = queries.runs().set_index("run_id")[["speedup_low", "speedup_high"]]
        found["speedup"] = speeds.rename(columns={"speedup_low": "low", "speedup_high": "high"})
    return found


def about(figure: go.Figure, rows: pd.DataFrame) -> go.Figure:
    """The figure with the domains and targets of the runs that it shows; of more than a few, how many there are."""
    domains, targets = (list(rows[name].dropna().unique()) for name in ("domain", "target"))
    subject = chart_parts.subject(
        domains if len(domains) <= _MOST_NAMED else [f"{len(domains)} domains"],
        targets if len(targets) <= _MOST_NAMED else [],
    )
    more = f"{len(targets)} targets" if len(targets) > _MOST_NAMED else ""
    return chart_parts.about(figure, "; ".join(filter(None, [subject, more])))


def warn(shown: Shown, figures: list[Figure]) -> list[Difference]:
    """Say in what the runs differ that these figures depend on, and offer to colour by it."""
    differences = differing(shown.table, figures)
    if not differences:
        return []
    lines = [f"{d.words} ({_counted(d.counts)})" for d in differences]
    columns = {difference.column for difference in differences}
    named = dict.fromkeys(figure.title for figure in figures if columns & set(DEPENDS_ON[figure.kind]))
    names = " and ".join(named)
    with st.container(border=True):
        st.warning(
            f"**Not all comparable.** {ui.text(names)} also depend{'s' * (len(named) == 1)} on what these runs "
            f"differ in: {ui.text('; '.join(lines))}.",
            icon=":material/block:",
        )
        with st.container(horizontal=True):
            for difference in differences[:4]:
                st.button(
                    f"Colour by {difference.words}",
                    key=f"colour-by-{difference.column}",
                    on_click=_colour_by,
                    args=(difference.column,),
                    type="tertiary",
                    icon=":material/palette:",
                )
    return differences


def _counted(counts: dict[str, int], most: int = 4) -> str:
    words = [f"{_short(value)}: {runs_in_words(n)}" for value, n in list(counts.items())[:most]]
    rest = sum(list(counts.values())[most:])
    return ", ".join(words + ([f"{len(counts) - most} others: {runs_in_words(rest)}"] if rest else []))


def runs_in_words(n: int) -> str:
    """'1 run', '2 runs'."""
    return f"{n:,} run{'s' if n != 1 else ''}"


def _short(value: str, longest: int = 48) -> str:
    return value if len(value) <= longest else f"{value[: longest - 9]}…{value[-8:]}"


def _colour_by(column: str) -> None:
    st.query_params["colour"] = column
