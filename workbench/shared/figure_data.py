"""The numbers of a figure as a table: what is drawn, read from the figure itself, so that none goes without."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

_TAG = re.compile(r"<[^>]*>")


def figure_data(figure: go.Figure) -> pd.DataFrame:
    """A row for every point, bar or cell. Columns: panel, series, x, y, value (of a cell), low and high, text.

    Empty columns are left out. `low` and `high` are the ends of the interval that is drawn.
    """
    titles = [one.text for one in figure.layout.annotations if one.xref == one.yref == "paper"]
    rows = [row for trace in figure.data for row in _rows(trace, _panel(trace, titles))]
    frame = pd.DataFrame(rows, columns=["panel", "series", "x", "y", "value", "low", "high", "text"])
    return frame.dropna(axis="columns", how="all")


def _panel(trace: Any, titles: Sequence[str]) -> str | None:
    place = int(str(getattr(trace, "xaxis", None) or "x").removeprefix("x") or 1) - 1
    return plain(titles[place]) if len(titles) > 1 and place < len(titles) else None


def _rows(trace: Any, panel: str | None) -> list[dict[str, Any]]:
    start = {"panel": panel, "series": plain(trace.name) if trace.name else None}
    if trace.type in ("heatmap", "surface"):
        return [
            start | {"x": _cell(_at(trace.x, column)), "y": _cell(_at(trace.y, row)), "value": _cell(value)}
            for row, line in enumerate(trace.z if trace.z is not None else [])
            for column, value in enumerate(line)
            if value is not None and not math.isnan(value)
        ]
    if trace.type == "parcoords":
        return _dimensions(trace, start)
    moved = trace.meta if isinstance(trace.meta, dict) else {}  # the values of points that are drawn side by side
    x, y = (moved.get(axis, getattr(trace, axis, None)) for axis in ("x", "y"))
    count = max(len(values) if values is not None else 0 for values in (x, y))
    texts = _listed(getattr(trace, "hovertext", None)) or _listed(getattr(trace, "text", None))
    lows, highs = _interval(trace, count)
    return [
        start
        | {
            "x": _cell(_at(x, place)),
            "y": _cell(_at(y, place)),
            "low": _at(lows, place),
            "high": _at(highs, place),
            "text": plain(_at(texts, place)) if _at(texts, place) is not None else None,
        }
        for place in range(count)
    ]


def _dimensions(trace: Any, start: dict[str, Any]) -> list[dict[str, Any]]:
    """Of parallel coordinates: a row for each line and axis."""
    return [
        start | {"x": plain(dimension.label), "y": place, "value": _cell(value)}
        for dimension in trace.dimensions
        for place, value in enumerate(dimension.values if dimension.values is not None else [])
    ]


def _interval(trace: Any, count: int) -> tuple[list[float | None], list[float | None]]:
    """The ends of the error bars of each point, along the axis that has them."""
    for axis in ("y", "x"):
        bars, values = getattr(trace, f"error_{axis}", None), getattr(trace, axis, None)
        if bars is None or bars.array is None or values is None:
            continue
        below = bars.arrayminus if bars.arrayminus is not None else bars.array
        return (
            [values[place] - below[place] for place in range(count)],
            [values[place] + bars.array[place] for place in range(count)],
        )
    return [None] * count, [None] * count


def _listed(values: Any) -> list[Any] | None:
    return None if values is None or isinstance(values, str) else list(values)


def _at(values: Any, place: int) -> Any:
    return values[place] if values is not None and place < len(values) else None


def _cell(value: Any) -> Any:
    return plain(value) if isinstance(value, str) else value


def plain(text: object) -> str:
    """A figure's text without its tags and entities."""
    return html.unescape(_TAG.sub(" ", re.sub(r"<br\s*/?>", "; ", str(text)))).strip()
