"""The figure of slices: a rate in each part of the text, and what that part holds of the refusals."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from engine.measure.definitions import RATES
from workbench.shared import chart_parts as parts
from workbench.shared import theme

_HOVER = "%{hovertext}<extra></extra>"  # user text is passed as data, never as a template


def lost(metric: str) -> str:
    """What a slice holds a share of: what the rate loses there."""
    return "target forwards" if RATES[metric].per_forward else "refusals"


def slices(frame: pd.DataFrame, metric: str, what: str, tone: str, note: str = "") -> go.Figure:
    """Draw one rate by slice and draft, and beside it the share of the refusals that the slice holds.

    Columns: label, slice, value, low, high, n_prompts, n_tokens, refusal_share, few. The order of the rows is that of
    the bars. `what` says what the slices are; a slice that is too small to conclude from says so at its name.
    """
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        column_widths=[0.6, 0.4],
        subplot_titles=[f"{RATES[metric].title}{parts.unit(metric)}", f"share of all {lost(metric)}"],
    )
    parts.dress(figure, f"{RATES[metric].title} by {what}", note, tone)
    small = frame.groupby("slice", sort=False).few.any()
    names = {name: parts.safe(name) + (" (few)" if few else "") for name, few in small.items()}
    for place, label in enumerate(dict.fromkeys(frame.label)):
        part, name = frame[frame.label == label], parts.safe(label)
        hovers = [parts.hover(f"{name}<br>{names[row.slice]}", row) for row in part.itertuples()]
        shares = [
            f"{name}<br>{names[r.slice]}<br>{r.refusal_share:.0%} of all {lost(metric)}" for r in part.itertuples()
        ]
        for column, values, error, texts in (
            (1, part.value, parts.error_bars(part), hovers),
            (2, part.refusal_share, None, shares),
        ):
            figure.add_bar(
                y=[names[item] for item in part.slice],
                x=values,
                orientation="h",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                error_x=error,
                marker=parts.filled(place, tone),
                hovertemplate=_HOVER,
                hovertext=texts,
                row=1,
                col=column,
            )
    figure.update_traces(error_x_color=theme.TONES[tone].text)
    figure.update_xaxes(rangemode="tozero")
    figure.update_xaxes(tickformat=".0%", col=2)
    order = {"autorange": "reversed", "type": "category", "showgrid": False}
    figure.update_yaxes(categoryorder="array", categoryarray=[names[name] for name in names], **order)
    bars = max(1, len(names) * frame.label.nunique())
    figure.update_layout(barmode="group", showlegend=True, height=200 + 22 * bars + 8 * len(names))
    return parts.panels(figure)
