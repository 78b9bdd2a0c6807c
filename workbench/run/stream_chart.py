"""The chart "Acceptance along the stream" of an online run: recent acceptance, sampled and expected."""

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
    """One row per query with rolling rates over the last `window` queries, fewer at the start.

    `acceptance` is accepted / examined; `expected_acceptance` is the mean of sum_v min(p, q) over the same judged
    positions. Both are NaN until a position has been judged. Queries with unknown `expected` do not count in the
    expected rate.
    """
    frame = pd.DataFrame([vars(point) for point in points], columns=list(_COUNTS))
    frame["expected"] = frame.expected.astype(float)
    with_expected = frame.examined.where(frame.expected.notna(), 0)
    recent = (
        pd.DataFrame(
            {
                "accepted": frame.accepted,
                "examined": frame.examined,
                "expected": frame.expected.fillna(0.0),
                "with_expected": with_expected,
            }
        )
        .rolling(window, min_periods=1)
        .sum()
    )
    frame["acceptance"] = recent.accepted / recent.examined.where(recent.examined > 0)
    frame["expected_acceptance"] = recent.expected / recent.with_expected.where(recent.with_expected > 0)
    frame["window_examined"] = recent.examined.astype(int)
    return frame


def figure(frame: pd.DataFrame, tone: str, window: int = WINDOW) -> go.Figure:
    """Draw rolling acceptance against the number of the query, with the expected rate and a mark at each update.

    `frame` is returned by `along`. The two lines differ by chance only; a lasting gap would be an error of the engine.
    """
    note = f"n = {len(frame):,} queries, rolling over the last {min(window, len(frame))}, no interval"
    chart = parts.titled("Acceptance along the stream (accepted / examined, fraction)", note, tone)
    for place, (column, name) in enumerate(
        (("acceptance", "accepted"), ("expected_acceptance", "expected, sum min(p, q)"))
    ):
        chart.add_scatter(
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
    chart.add_scatter(
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
    chart.update_xaxes(title="query of the stream", rangemode="tozero")
    chart.update_yaxes(title="acceptance (fraction)", rangemode="tozero")
    return chart.update_layout(showlegend=True, uirevision="keep")


def _hovers(frame: pd.DataFrame, column: str, name: str) -> list[str]:
    return [
        f"{name}: {'unknown' if pd.isna(value) else f'{value:.3f}'}<br>up to query {query:,}, "
        f"{judged:,} judged positions<br>draft after {step:,} optimizer steps"
        for value, query, judged, step in zip(
            frame[column], frame["query"], frame.window_examined, frame.step, strict=True
        )
    ]


def alt(frame: pd.DataFrame, label: str) -> str:
    """The chart's description for screen readers."""
    last = frame.iloc[-1]
    rates = [
        f"{'unknown' if pd.isna(value) else f'{value:.3f}'} {word}"
        for value, word in ((last.acceptance, "accepted"), (last.expected_acceptance, "expected"))
    ]
    return f"Acceptance along the stream of {label}: after {last['query']:,} queries {', '.join(rates)}"
