"""The Explorer's scatter: a point per run, two figures, a third as colour, and the Pareto line."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go

from engine.explore.figures import Figure
from engine.explore.pareto import front
from workbench.explorer.colouring import Colouring, Group, colouring, is_number, scale_on, words
from workbench.explorer.runs import runs_in_words
from workbench.shared import chart_parts as parts
from workbench.shared import theme
from workbench.shared.series_names import fitting

MOST_POINTS = 5_000
_SVG_POINTS = 800  # beyond, points are drawn by WebGL
_MOST_LINES = 6
_MOST_COLUMNS = 8  # values of X whose runs stand side by side
_OVERLAP = 3  # runs a value of X, from which on they would hide each other
_COLUMN = 0.8  # width of a column; the distance between two is 1
_HOVER = "%{hovertext}<extra></extra>"

Bounds = Mapping[str, pd.DataFrame]  # figure -> low and high by run id; NaN without an interval


@dataclass(frozen=True)
class Scatter:
    """What is drawn and what is not. `rows`: the runs with both figures, newest first; `fronts`: each line's runs."""

    x: Figure
    y: Figure
    colour: Figure | None
    log_x: bool
    log_y: bool
    rows: pd.DataFrame
    fronts: list[pd.DataFrame]
    on_front: pd.Series
    notes: list[str]
    bounds: Bounds = field(default_factory=dict)
    colours: Colouring = field(default_factory=lambda: Colouring("", []))
    columns: list[str] = field(default_factory=list)
    """The values of X if runs of one value stand side by side, in the order of their colours; else empty."""

    @property
    def figures(self) -> list[Figure]:
        return [self.x, self.y, *([self.colour] if self.colour else [])]


def prepared(
    table: pd.DataFrame,
    x: Figure,
    y: Figure,
    colour: Figure | None,
    log: tuple[bool, bool],
    apart: Sequence[str],
    bounds: Bounds | None = None,
) -> Scatter:
    """Choose the points and the front. `apart`: columns in which runs that cannot be compared differ."""
    notes = []
    has = table[x.name].notna() & table[y.name].notna()
    for figure in dict.fromkeys((x, y)):
        missing = int(table[figure.name].isna().sum())
        notes += [f"{runs_in_words(missing)} without {figure.title}: not drawn."] if missing else []
    rows = table[has]
    logs = [wanted and is_number(rows[figure.name]) for wanted, figure in zip(log, (x, y), strict=True)]
    for wanted, figure in zip(logs, (x, y), strict=True):
        below = rows[figure.name] <= 0 if wanted else pd.Series(False, rows.index)
        if below.any():
            notes.append(f"{runs_in_words(int(below.sum()))} with {figure.title} of 0 or less: no place on a log axis.")
        rows = rows[~below]
    fronts, on_front, said = _fronts(rows, x, y, colour, apart)
    if len(rows) > MOST_POINTS:
        notes.append(f"{MOST_POINTS:,} of {len(rows):,} runs are drawn, the newest; the Pareto line is of all.")
        rows = rows.head(MOST_POINTS)
    colours = colouring(rows, colour.name if colour else "", colour.title if colour else "")
    columns = _columns(rows[x.name], colours) if not logs[0] and x.kind in ("setting", "cost") else []
    if columns and colour:
        side = f"Runs with the same {x.title} stand side by side, in the order of {colour.title}"
        scale = "; the distances between the values are not to scale" if is_number(rows[x.name]) else ""
        notes.append(f"{side}{scale}.")
    return Scatter(
        x, y, colour, logs[0], logs[1], rows, fronts, on_front, [*notes, *said], bounds or {}, colours, columns
    )


def _columns(values: pd.Series, colours: Colouring) -> list[str]:
    """The values in order if they are few, shared by many runs, and coloured by words; else none."""
    few = 0 < values.nunique(dropna=False) <= min(_MOST_COLUMNS, len(values) / _OVERLAP)
    if not few or len(colours.groups) < 2 or colours.scale is not None:
        return []
    return list(dict.fromkeys(words(values.sort_values())))


def _drawn_at(scatter: Scatter) -> pd.Series:
    """Where on the X axis each run is drawn: at its value, or in its colour's part of the value's column."""
    if not scatter.columns:
        return pd.Series(_values(scatter.rows[scatter.x.name]), scatter.rows.index, dtype=object)
    groups = scatter.colours.groups
    part = {index: place for place, group in enumerate(groups) for index in group.rows.index}
    column = {value: place for place, value in enumerate(scatter.columns)}
    named = words(scatter.rows[scatter.x.name])
    return pd.Series(
        [column[value] + _COLUMN * ((part[index] + 0.5) / len(groups) - 0.5) for index, value in named.items()],
        scatter.rows.index,
    )


def _fronts(
    rows: pd.DataFrame, x: Figure, y: Figure, colour: Figure | None, apart: Sequence[str]
) -> tuple[list[pd.DataFrame], pd.Series, list[str]]:
    """A line for each set of runs that were measured alike; which runs no other beats in all directed figures."""
    none = pd.Series(False, rows.index)
    without = [figure.title for figure in (x, y) if figure.better is None or not is_number(rows[figure.name])]
    if without or x.name == y.name:
        why = f"no direction of {' and '.join(without)} is better" if without else "both axes show the same figure"
        return [], none, [f"No Pareto line: {why}."]
    better = {figure.name: figure.better for figure in (x, y) if figure.better}
    third = {}
    if colour and colour.better and colour.name not in better and is_number(rows[colour.name]):
        third = {colour.name: colour.better}
    if apart:
        grouped = rows.groupby([words(rows[column]) for column in apart])
        sets = sorted((part for _, part in grouped), key=len, reverse=True)
    else:
        sets = [rows]
    on_front = none.copy()
    for part in sets:
        on_front.loc[part.index] = front(part, {**better, **third})
    lines = [part[front(part, better)].sort_values([x.name, y.name]) for part in sets[:_MOST_LINES]]
    notes = []
    if len(sets) > 1:
        drawn = f"the {_MOST_LINES} largest of {len(sets)}" if len(sets) > _MOST_LINES else f"{len(sets)}"
        notes.append(f"A Pareto line for each set of runs that were measured alike: {drawn}.")
    ways = "; ".join(f"{f.title}: {f.better} is better" for f in (x, y, colour) if f and f.name in {**better, **third})
    return (
        lines,
        on_front,
        [
            *notes,
            f"Ringed runs are on the Pareto line: no run measured alike is better ({ways}).",
        ],
    )


def draw(scatter: Scatter, labels: Mapping[str, str], picked: Collection[str], tone: str) -> go.Figure:
    """Draw the scatter; a point's customdata is its run's id, and the runs `picked` are highlighted."""
    x, y, rows = scatter.x, scatter.y, scatter.rows
    title = f"{y.title} against {x.title}"
    figure = parts.titled(parts.safe(title), f"n = {len(rows):,} runs; {interval_words(scatter)}", tone)
    colours, at = scatter.colours, _drawn_at(scatter)
    kind = go.Scattergl if len(rows) > _SVG_POINTS else go.Scatter
    for line in scatter.fronts:
        if len(line) > 1:
            _add_line(figure, line, scatter, at, tone)
    for group, name in zip(colours.groups, fitting([group.name for group in colours.groups], 40), strict=True):
        figure.add_trace(
            kind(
                x=list(at[group.rows.index]),
                meta={"x": _values(group.rows[x.name])} if scatter.columns else None,
                y=_values(group.rows[y.name]),
                mode="markers",
                name=parts.safe(name),
                customdata=list(group.rows.run_id),
                hovertemplate=_HOVER,
                hovertext=_hovers(group.rows, scatter, labels),
                selectedpoints=_places(group.rows, picked),
                error_x=_bars(group, x, scatter),
                error_y=_bars(group, y, scatter),
                marker=_marker(colours, group, scatter, tone),
                selected={"marker": {"opacity": 1, "size": 14}},
                unselected={"marker": {"opacity": 0.25}},
                showlegend=colours.scale is None or group is not colours.groups[0],
            )
        )
    if scatter.columns:
        names = [parts.safe(name) for name in fitting(scatter.columns, 20)]
        ticks = {"tickvals": list(range(len(names))), "ticktext": names, "range": [-0.6, len(names) - 0.4]}
        figure.update_xaxes(title=parts.safe(x.title), showgrid=False, zeroline=False, **ticks)
        for border in range(1, len(names)):
            figure.add_vline(border - 0.5, line={"color": theme.TONES[tone].grid, "width": 1})
    else:
        figure.update_xaxes(title=parts.safe(x.title), type=_axis_type(rows[x.name], scatter.log_x))
    figure.update_yaxes(title=parts.safe(y.title), type=_axis_type(rows[y.name], scatter.log_y))
    return figure.update_layout(
        height=560,
        dragmode="lasso",
        clickmode="event+select",
        showlegend=len(colours.groups) > 1 or bool(scatter.fronts),
        uirevision=f"{x.name} {y.name} {scatter.log_x} {scatter.log_y}",
    )


def interval_words(scatter: Scatter) -> str:
    """Which of the two figures are drawn with intervals."""
    if len(scatter.rows) > _SVG_POINTS:
        return f"no intervals are drawn of more than {_SVG_POINTS} runs"
    drawn = [
        figure.title
        for figure in (scatter.x, scatter.y)
        if parts.has_interval(_bounded(scatter.rows, figure, scatter)).any()
    ]
    return f"{parts.INTERVAL} of {' and '.join(map(parts.safe, drawn))}" if drawn else "no intervals"


def _bounded(rows: pd.DataFrame, figure: Figure, scatter: Scatter) -> pd.DataFrame:
    """The values of a figure with low and high, NaN where it has none."""
    frame = pd.DataFrame({"value": rows[figure.name], "low": float("nan"), "high": float("nan")})
    if figure.name in scatter.bounds:
        known = scatter.bounds[figure.name].reindex(rows.run_id)
        frame = frame.assign(low=known.low.to_numpy(), high=known.high.to_numpy())
    return frame


def _bars(group: Group, figure: Figure, scatter: Scatter) -> dict[str, object] | None:
    bars = None if len(scatter.rows) > _SVG_POINTS else parts.error_bars(_bounded(group.rows, figure, scatter))
    return bars and {**bars, "thickness": 0.8, "width": 0}


def _add_line(figure: go.Figure, line: pd.DataFrame, scatter: Scatter, at: pd.Series, tone: str) -> None:
    if scatter.columns:
        line = line[line.index.isin(at.index)]  # a run that is not drawn has no place in a column
    first = not any(trace.name == "Pareto line" for trace in figure.data)
    figure.add_scatter(
        x=list(at[line.index]) if scatter.columns else line[scatter.x.name],
        meta={"x": _values(line[scatter.x.name])} if scatter.columns else None,
        y=line[scatter.y.name],
        mode="lines",
        name="Pareto line",
        legendgroup="front",
        showlegend=first,
        hoverinfo="skip",
        line={
            "color": theme.TONES[tone].faint,
            "width": 1.4,
            "dash": "dot",
            "shape": "hv" if scatter.x.better == "lower" else "vh",
        },
    )


def _marker(colours: Colouring, group: Group, scatter: Scatter, tone: str) -> dict[str, object]:
    ringed = scatter.on_front.reindex(group.rows.index).fillna(False)
    tones = theme.TONES[tone]
    marker: dict[str, object] = {
        "symbol": group.symbol,
        "size": [12 if ring else 9 for ring in ringed],
        "opacity": 0.9,
        "line": {
            "width": [2.0 if ring else 0.6 for ring in ringed],
            "color": [tones.text if ring else tones.background for ring in ringed],
        },
        "color": group.colour,
    }
    if colours.scale and group is colours.groups[0]:
        low, high = colours.range
        bar = {"title": {"text": parts.safe(parts.shortened(colours.title, 30)), "side": "right"}, "thickness": 12}
        scale = {"colorscale": scale_on(tone), "cmin": low, "cmax": high, "showscale": True, "colorbar": bar}
        marker |= {"color": list(group.rows[colours.scale]), **scale}
    return marker


def _values(column: pd.Series) -> list[object]:
    if is_number(column) or pd.api.types.is_datetime64_any_dtype(column):
        return list(column)
    different = list(dict.fromkeys(words(column)))
    short = dict(zip(different, fitting(different, 40), strict=True))
    return [parts.safe(short[word]) for word in words(column)]


def _axis_type(column: pd.Series, log: bool) -> str:
    if pd.api.types.is_datetime64_any_dtype(column):
        return "date"
    return "log" if log else "linear" if is_number(column) else "category"


def _hovers(rows: pd.DataFrame, scatter: Scatter, labels: Mapping[str, str]) -> list[str]:
    shown = {figure.name: figure.title for figure in scatter.figures}
    columns = [[f"<br>{parts.safe(title)}: {value}" for value in shortly(rows[name])] for name, title in shown.items()]
    names = [parts.safe(parts.shortened(labels[run_id])) for run_id in rows.run_id]
    return ["".join(line) for line in zip(names, *columns, strict=True)]


def shortly(column: pd.Series) -> list[str]:
    """Values to four digits, words escaped."""
    if is_number(column):
        return [f"{value:,.4g}" if pd.notna(value) else "–" for value in column]
    return [parts.safe(parts.shortened(word, 60)) for word in words(column)]


def _places(rows: pd.DataFrame, picked: Collection[str]) -> list[int] | None:
    """The places of the picked runs; None, all as usual, if nothing is picked."""
    if not picked:
        return None
    return [place for place, run_id in enumerate(rows.run_id) if run_id in picked]
