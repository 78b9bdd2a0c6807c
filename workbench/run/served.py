"""A part of the section Serve of a run's page: what servers reported of the draft, beside what was predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from engine.errors import DraftbenchError
from engine.numbers import interval
from engine.runs.folder import RunFolder
from workbench.shared import chart_parts, queries, theme, ui

if TYPE_CHECKING:
    from engine.deploy.figures import Figure
    from engine.deploy.measurements import Kept
    from engine.deploy.verdict import Verdict

_BADGES = {
    "agrees": ":green-badge[:material/check: agrees]",
    "differs": ":orange-badge[:material/difference: differs]",
    "open": ":gray-badge[:material/help: open]",
}
_SHOWN_CAUSES = 4
_MOST = 30  # measurements that are drawn, the newest first
_COLUMN = st.column_config
_COLUMNS: dict[str, Any] = {
    "figure": _COLUMN.TextColumn(""),
    "predicted": _COLUMN.TextColumn("Predicted [95% interval]"),
    "served": _COLUMN.TextColumn("Served [95% interval]"),
    "apart": _COLUMN.TextColumn("Standard errors apart"),
    "limit": _COLUMN.TextColumn(
        "Chance allows",
        help="More than this is called a difference. Of several places one is off sooner, so each "
        "may be further apart (Holm's correction).",
    ),
}


def served(run: RunFolder) -> None:
    """Draw each served measurement with verdict, causes and acceptance by place; without one, how to add it."""
    from engine.deploy.measurements import kept_measurements  # reads Parquet and loads torch: only where it is needed

    try:
        kept = kept_measurements(run.path)
    except DraftbenchError as error:
        ui.error_box(error)
        return
    if not kept:
        st.write("No server has reported on this draft yet. From a terminal:")
        st.code(
            f"draftbench served probe http://127.0.0.1:8000/v1 --run {run.id}\n"
            f"draftbench served import {run.id} before.txt --after after.txt --temperature 0",
            language="bash",
        )
        return
    newest = sorted(kept, key=_recorded_at, reverse=True)
    for one in newest[:_MOST]:
        with st.container(border=True, key=f"served-{one.name}"):
            _one(run, one)
    if len(newest) > _MOST:
        st.caption(f"{len(newest) - _MOST} older ones: `draftbench served show {run.id}`")


def _recorded_at(kept: Kept) -> str:
    return (kept.measurement.recorded_at if kept.measurement else None) or ""


def _one(run: RunFolder, kept: Kept) -> None:
    if kept.measurement is None:
        st.warning(f"**{ui.text(kept.name)}** cannot be read: {ui.text(kept.problem)}", icon=":material/broken_image:")
        return
    from engine.deploy.verdict import judge_of_run

    verdict = judge_of_run(kept.measurement, run)
    st.markdown(f"{_BADGES[verdict.outcome]} **{ui.text(kept.name)}**")
    st.caption(ui.text(kept.measurement.in_words))
    if kept.problem:
        st.warning(f"Left out: {ui.text(kept.problem)}", icon=":material/broken_image:")
    if not verdict.figures:
        st.write(ui.sentence(verdict.sentence))
    else:
        frame = figures(verdict)
        st.dataframe(frame, hide_index=True, column_config=_COLUMNS, alt="Predicted and served figures with intervals")
    for place, cause in enumerate(verdict.causes[:_SHOWN_CAUSES], 1):
        st.markdown(f"{place}. **{ui.text(cause.title)}**: {ui.sentence(cause.why)}  \n{ui.sentence(cause.fix)}")
    if verdict.fix:
        st.write(ui.sentence(verdict.fix))
    notes = [*verdict.taken, *kept.measurement.notes]
    if notes:
        st.caption("  \n".join(ui.sentence(note) for note in notes))
    if verdict.places:
        subject = f"{chart_parts.of_run(queries.run(run.id))}; {kept.measurement.in_words}"
        figure = chart_parts.about(by_place(verdict, theme.mode()), subject)
        alt = "Acceptance at each place of the proposal, predicted and served"
        ui.chart(figure, key=f"served-places-{kept.name}", alt=alt, name=f"{run.id}-{kept.name}")


def figures(verdict: Verdict) -> pd.DataFrame:
    """A row per figure: figure, predicted, served, how far apart they are and may be by chance."""
    return pd.DataFrame(
        [
            {
                "figure": figure.title,
                "predicted": interval(figure.predicted),
                "served": interval(figure.served),
                "apart": _apart(figure),
                "limit": f"{figure.limit:.1f}",
            }
            for figure in (*verdict.figures, *verdict.places)
        ],
        columns=list(_COLUMNS),
    )


def _apart(figure: Figure) -> str:
    """'+0.4', '-3.7, differs'; '–' where it cannot be said."""
    return figure.apart + (", differs" if figure.agrees is False else "")


def by_place(verdict: Verdict, tone: str) -> go.Figure:
    """Acceptance at each place of the proposal: predicted and served, with their intervals."""
    sides = {
        side: pd.DataFrame(
            [{"place": place, **getattr(item, side).as_dict()} for place, item in enumerate(verdict.places, 1)]
        )
        for side in ("predicted", "served")
    }
    over = {"predicted": "prompts", "served": " and ".join(sorted({figure.basis for figure in verdict.places}))}
    notes = [
        f"{side}: 95% interval over {over[side]}" if chart_parts.has_interval(rows).any() else f"{side}: no interval"
        for side, rows in sides.items()
    ]
    figure = chart_parts.titled("Acceptance (fraction) by place in the proposal", ", ".join(notes), tone)
    for number, (side, rows) in enumerate(sides.items()):
        figure.add_scatter(
            x=rows.place,
            y=rows.value,
            mode="lines+markers",
            name=side,
            line={"color": chart_parts.colour(number), "dash": chart_parts.dash_of(number)},
            marker={"symbol": chart_parts.symbol_of(number), "size": 9},
            error_y=chart_parts.error_bars(rows),
            hovertemplate="%{hovertext}<extra></extra>",
            hovertext=[f"{side}<br>token {row.place}: {chart_parts.with_interval(row)}" for row in rows.itertuples()],
        )
    figure.update_xaxes(title="place in the proposal", dtick=1)
    figure.update_yaxes(title="accepted, share of rounds", rangemode="tozero")
    return figure
