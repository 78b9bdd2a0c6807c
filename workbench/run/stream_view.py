"""The chart "Acceptance along the stream" of an online run: what was accepted of late, and what was to be expected."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from engine.records.events import StreamedQuery
from workbench.shared import chart_parts as parts
from workbench.shared import theme

WINDOW = 32  # queries
_COUNTS = ("query", "step", "prompt_id", "emitted", "rounds", "drafted", "accepted", "examined", "expected")
COLUMNS = (*_COUNTS, "acceptance", "expected_acceptance", "window_examined")
_HOVER = "%{hovertext}<extra></extra>"


def along(points: Sequence[StreamedQuery], window: int = WINDOW) -> pd.DataFrame:
    """A row a query with the rolling rates over the last `window` queries, fewer at the start.

    `acceptance` is accepted / examined, `expected_acceptance` the sum of sum_v min(p, q) over the same judged
    positions by their number; both NaN as long as nothing was judged. An `expected` that is not known leaves its
    query out of the expected rate.
    """
    frame = pd.DataFrame([vars(point) for point in points], columns=list(_COUNTS))
    frame["expected"] = frame.expected.astype(float)
    told = frame.examined.where(frame.expected.notna(), 0)
    recent = (
        pd.DataFrame(
            {
                "accepted": frame.accepted,
                "examined": frame.examined,
                "expected": frame.expected.fillna(0.0),
                "told": told,
            }
        )
        .rolling(window, min_periods=1)
        .sum()
    )
    frame["acceptance"] = recent.accepted / recent.examined.where(recent.examined > 0)
    frame["expected_acceptance"] = recent.expected / recent.told.where(recent.told > 0)
    frame["window_examined"] = recent.examined.astype(int)
    return frame


def figure(frame: pd.DataFrame, tone: str, window: int = WINDOW) -> go.Figure:
    """Rolling acceptance against the query's number, with what was expected and a mark at each update.

    `frame` as `along` makes it. The two lines differ by the luck of the draws alone; they part for good only if the engine errs.
    """
    note = f"n = {len(frame):,} queries, rolling over the last {min(window, len(frame))}, no interval"
    made = parts.titled("Acceptance along the stream (accepted / examined, fraction)", note, tone)
    for place, (column, name) in enumerate(
        (("acceptance", "accepted"), ("expected_acceptance", "expected, sum min(p, q)"))
    ):
        made.add_scatter(
            x=frame["query"],
            y=frame[column],
            name=name,
            mode="lines+markers" if len(frame) < 3 else "lines",
            hovertemplate=_HOVER,
            hovertext=_hovers(frame, column, name),
            line={"color": parts.colour(place), "dash": parts.dash_of(place), "width": 2.0 - 0.4 * place},
            marker={"symbol": parts.symbol_of(place), "size": 7},
        )
    updates = frame[frame.step > frame.step.shift(fill_value=0)]
    made.add_scatter(
        x=updates["query"] - 0.5,
        y=[0.0] * len(updates),
        name="update of the draft",
        mode="markers",
        hovertemplate=_HOVER,
        hovertext=[
            f"after {step:,} steps, before query {query:,}"
            for query, step in zip(updates["query"], updates.step, strict=True)
        ],
        marker={"symbol": "line-ns-open", "size": 9, "color": theme.TONES[tone].faint, "line": {"width": 1.3}},
        cliponaxis=False,
    )
    made.update_xaxes(title="query of the stream", rangemode="tozero")
    made.update_yaxes(title="acceptance (fraction)", rangemode="tozero")
    return made.update_layout(showlegend=True, uirevision="keep")


def _hovers(frame: pd.DataFrame, column: str, name: str) -> list[str]:
    return [
        f"{name}: {'not known' if pd.isna(value) else f'{value:.3f}'}<br>up to query {query:,}, "
        f"{judged:,} judged positions<br>draft after {step:,} optimiser steps"
        for value, query, judged, step in zip(
            frame[column], frame["query"], frame.window_examined, frame.step, strict=True
        )
    ]


def alt(frame: pd.DataFrame, label: str) -> str:
    """The chart in words."""
    last = frame.iloc[-1]
    rates = [
        f"{'not known' if pd.isna(value) else f'{value:.3f}'} {word}"
        for value, word in ((last.acceptance, "accepted"), (last.expected_acceptance, "expected"))
    ]
    return f"Acceptance along the stream of {label}: after {last['query']:,} queries {', '.join(rates)}"
