"""Parallel coordinates: an axis per setting or figure, a line per run."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from engine.explore.figures import Figure
from workbench.explorer.colouring import is_number, scale_on, words
from workbench.shared import chart_parts as parts
from workbench.shared import theme

MOST_LINES = 2_000
_MOST_WORDS = 30  # on an axis


def drawable(table: pd.DataFrame, figures: list[Figure], colour: Figure) -> tuple[pd.DataFrame, list[str]]:
    """The runs that have a number on every axis, and what is left out. A missing word is a value like others."""
    notes = []
    numbers = [f for f in dict.fromkeys((*figures, colour)) if is_number(table[f.name])]
    missing = {figure.title: int(table[figure.name].isna().sum()) for figure in numbers}
    rows = table.dropna(subset=[figure.name for figure in numbers])
    if len(rows) < len(table):
        why = ", ".join(f"{n} without {title}" for title, n in missing.items() if n)
        notes.append(f"{len(table) - len(rows)} of {len(table)} runs are not drawn: {why}.")
    if len(rows) > MOST_LINES:
        notes.append(f"{MOST_LINES:,} of {len(rows):,} runs are drawn, the newest.")
        rows = rows.head(MOST_LINES)
    return rows, notes


def draw(rows: pd.DataFrame, figures: list[Figure], colour: Figure, tone: str) -> go.Figure:
    """Draw the runs over the axes of `figures`, coloured by another figure."""
    colours = theme.TONES[tone]
    numbers = _numbers(rows[colour.name])
    figure = parts.titled(
        "Every run over its settings and figures", f"n = {len(rows):,} runs; colour: {parts.safe(colour.title)}", tone
    )
    bar = {"title": {"text": parts.safe(parts.shortened(colour.title, 30)), "side": "right"}, "thickness": 12}
    figure.add_trace(
        go.Parcoords(
            line={
                "color": numbers,
                "colorscale": scale_on(tone),
                "showscale": is_number(rows[colour.name]),
                "colorbar": bar,
            },
            dimensions=[_dimension(rows[each.name], each) for each in figures],
            labelfont={"color": colours.text, "size": 12},
            tickfont={"color": colours.text, "size": 11},
            rangefont={"color": colours.faint, "size": 10},
            unselected={"line": {"color": colours.grid, "opacity": 0.4}},
            labelangle=-12,
            labelside="top",
        )
    )
    return figure.update_layout(height=480, margin={"l": 90, "r": 60, "t": 150, "b": 30})


def _dimension(column: pd.Series, figure: Figure) -> dict[str, object]:
    label = parts.safe(parts.shortened(figure.title, 34))
    if is_number(column):
        return {"label": label, "values": list(column)}
    named = words(column)
    order = sorted(named.unique())
    shown = order if len(order) <= _MOST_WORDS else []
    places = {word: place for place, word in enumerate(order)}
    return {
        "label": label,
        "values": [places[word] for word in named],
        "tickvals": list(range(len(shown))),
        "ticktext": [parts.safe(parts.shortened(word, 22)) for word in shown],
    }


def _numbers(column: pd.Series) -> list[float]:
    if is_number(column):
        return [float(value) for value in column]
    return [float(code) for code in pd.factorize(words(column), sort=True)[0]]
