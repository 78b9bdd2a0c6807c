"""The learning curve: loss or acceptance while training, against steps, tokens or seconds."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from workbench.shared import chart_parts as parts

# Horizontal axes of learning curves, by their names in the URL.
AXES = {"steps": "optimiser steps", "tokens": "target tokens seen", "seconds": "seconds of training"}
_COLUMNS = {"steps": "step", "tokens": "tokens_seen", "seconds": "seconds"}
_OPEN = {0: "", 1: "-open", 2: "-open-dot"}  # hollow marks for a draft's second temperature


def draw(frame: pd.DataFrame, axis: str, kind: str, labels: Mapping[str, str], tone: str, note: str = "") -> go.Figure:
    """Draw the curves of the runs in `labels` (run id -> name) against steps, tokens or seconds.

    `frame` has the columns of `queries.curve`; `kind` is 'train' (loss) or 'eval' (exact acceptance, one line
    per temperature). `note` is the second line of the title.
    """
    column = _COLUMNS[axis]
    rows = frame[(frame.kind == kind) & frame.run_id.isin(list(labels)) & frame[column].notna() & frame.value.notna()]
    title = f"{'Training loss' if kind == 'train' else 'Exact acceptance while training'} by {AXES[axis]}"
    default = "watched prompts only, no interval" if kind == "eval" else "one point per step, no interval"
    figure = parts.titled(title, note or default, tone)
    temperatures = sorted(rows.temperature.dropna().unique())
    for place, (run_id, label) in enumerate(labels.items()):
        for temperature, part in rows[rows.run_id == run_id].groupby("temperature", dropna=False):
            known = kind == "eval" and not pd.isna(temperature)
            number = temperatures.index(temperature) if known else 0
            name = parts.safe(label) + (f", T = {temperature:g}" if known and len(temperatures) > 1 else "")
            ordered = part.sort_values(column)
            figure.add_scatter(
                x=ordered[column],
                y=ordered.value,
                name=name,
                legendgroup=run_id,
                hovertemplate=parts.HOVER,
                mode="lines+markers" if kind == "eval" or len(ordered) < 3 else "lines",
                hovertext=[
                    f"{name}<br>{v:.4f} at {x:,.0f} {AXES[axis]}"
                    for v, x in zip(ordered.value, ordered[column], strict=True)
                ],
                line={"color": parts.colour(place), "dash": parts.dash_of(place), "width": 1.8},
                marker={"symbol": parts.symbol_of(place) + _OPEN[number % 3], "size": 7},
            )
    figure.update_xaxes(title=AXES[axis], rangemode="tozero")
    figure.update_yaxes(title="loss" if kind == "train" else "acceptance (fraction)")
    if kind == "eval":
        figure.update_yaxes(rangemode="tozero")
    figure.update_layout(showlegend=True, uirevision="keep")
    return figure
