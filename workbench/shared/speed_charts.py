"""Charts of speed: the speed-up over plain decoding by gamma, measured and predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from engine.measure.predicted_speed import GammaChoice
from engine.records.interval import Interval
from engine.records.speed import Speed
from workbench.shared import chart_parts as parts
from workbench.shared import theme


def speedup_by_gamma(speeds: Mapping[str, Speed], tone: str, note: str = "") -> go.Figure:
    """Draw the speed-up against gamma; `speeds` is label -> `speed` of a measurement's summary.

    The dotted line is the formula, the solid line the formula with measured times, and the large mark with
    its interval the measured speed-up.
    """
    figure = parts.titled(
        "Speed-up over plain decoding (times) by gamma", note or f"measured point: {clocked_note(speeds)}", tone
    )
    for place, (label, speed) in enumerate(speeds.items()):
        name, rows = parts.safe(label), speed.by_gamma
        for key, words, dash in (
            ("measured", "formula with measured times", "solid"),
            ("formula", "formula", "dot"),
        ):
            figure.add_scatter(
                x=[row.gamma for row in rows],
                y=[getattr(row, key) for row in rows],
                mode="lines+markers",
                name=words,
                legendgroup=key,
                showlegend=place == 0,
                hovertemplate=parts.HOVER,
                line={"color": parts.colour(place), "dash": dash, "width": 1.6},
                marker={"symbol": parts.symbol_of(place) + "-open", "size": 6},
                hovertext=[f"{name}<br>{words}: {getattr(row, key):.2f}x at gamma {row.gamma}" for row in rows],
            )
        _clocked(figure, place, name, speed, tone)
    figure.add_hline(
        y=1, line={"color": theme.TONES[tone].faint, "width": 1, "dash": "dash"}, annotation_text="no gain"
    )
    figure.update_xaxes(title="gamma (tokens proposed per round)", dtick=1)
    figure.update_yaxes(title="speed-up (times)", rangemode="tozero")
    return figure


def clocked_note(speeds: Mapping[str, Speed]) -> str:
    """Whether the measured speed-ups have intervals."""
    return parts.interval_note(pd.DataFrame([(one.speedup or Interval()).as_dict() for one in speeds.values()]))


def predicted(choices: Mapping[str, GammaChoice]) -> pd.DataFrame:
    """A row per predicted speed-up: gamma, value, low, high, n_prompts."""
    rows = [{"gamma": at.gamma, **at.speedup.as_dict()} for choice in choices.values() for at in choice.by_gamma]
    return pd.DataFrame(rows, columns=["gamma", *Interval().as_dict()])


def predicted_speedups(choices: Mapping[str, GammaChoice], tone: str, note: str = "") -> go.Figure:
    """Draw the predicted speed-up against gamma, a line per batch size (label -> what each gamma should give).

    A large mark is the gamma that is chosen; none is marked where plain decoding is.
    """
    title = "Predicted speed-up over plain decoding (times) by gamma"
    figure = parts.titled(title, note or parts.interval_note(predicted(choices)), tone)
    for place, (label, choice) in enumerate(choices.items()):
        name, speeds = parts.safe(label), choice.by_gamma
        rows = predicted({label: choice})
        figure.add_scatter(
            x=rows.gamma,
            y=rows.value,
            mode="lines+markers",
            name=name,
            hovertemplate=parts.HOVER,
            error_y=parts.error_bars(rows),
            line={"color": parts.colour(place), "dash": parts.dash_of(place), "width": 1.6},
            marker={
                "symbol": parts.symbol_of(place),
                "size": [13 if speed.gamma == choice.best else 6 for speed in speeds],
            },
            hovertext=[
                f"{name}<br>gamma {row.gamma}, times plain decoding: {parts.with_interval(row, 2)}"
                for row in rows.itertuples()
            ],
        )
    figure.add_hline(
        y=1, line={"color": theme.TONES[tone].faint, "width": 1, "dash": "dash"}, annotation_text="no gain"
    )
    figure.update_xaxes(title="gamma (tokens proposed per round)", dtick=1)
    figure.update_yaxes(title="speed-up (times)", rangemode="tozero")
    return figure


def _clocked(figure: go.Figure, place: int, name: str, speed: Speed, tone: str) -> None:
    """Add the measured speed-up at its gamma, with its interval."""
    speedup, gamma = speed.speedup, speed.forward_s.num_draft_tokens
    if gamma is None or speedup is None or math.isnan(speedup.value):
        return
    row = pd.Series(speedup.as_dict())
    figure.add_scatter(
        x=[gamma],
        y=[speedup.value],
        mode="markers",
        name=f"{name}, measured",
        error_y=parts.error_bar(row),
        marker={
            "symbol": parts.symbol_of(place),
            "size": 13,
            "color": parts.colour(place),
            "line": {"width": 1.5, "color": theme.TONES[tone].text},
        },
        hovertext=[f"{parts.hover(name, row)}<br>gamma {gamma}, measured"],
        hovertemplate=parts.HOVER,
    )
