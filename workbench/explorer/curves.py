"""Learning curves of many runs in two panels that zoom together: the loss, smoothed, and watched acceptance."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from engine.explore.figures import Figure
from workbench.explorer.colouring import Colouring, Group, colouring, scale_on
from workbench.shared import chart_parts as parts
from workbench.shared import learning_curve
from workbench.shared.series_names import fitting

MOST_RUNS = 50
MOST_POINTS = 400  # of a line
_COLUMNS = {"steps": "step", "tokens": "tokens_seen", "seconds": "seconds"}
_HOVER = "%{hovertext}<extra></extra>"


def smoothed(values: pd.Series, weight: float) -> pd.Series:
    """The exponential moving average that gives the past `weight` of each value, without a bias to the first ones."""
    return values if weight <= 0 else values.ewm(alpha=1 - weight, adjust=True).mean()


def thinned(rows: pd.DataFrame, most: int = MOST_POINTS) -> pd.DataFrame:
    """Every k-th row and the last, at most `most` and one."""
    if len(rows) <= most:
        return rows
    every = -(-len(rows) // most)
    return rows.iloc[[*range(0, len(rows) - 1, every), len(rows) - 1]]


def temperature_of(points: pd.DataFrame) -> str:
    """', T = 0' if the watched acceptance is of one temperature."""
    known = points[points.kind == "eval"].temperature.dropna().unique()
    return f", T = {known[0]:g}" if len(known) == 1 else ""


def once_per_seed(runs: pd.DataFrame, recipes: pd.Series[str]) -> pd.DataFrame:
    """The rows of the newest run of each recipe and seed: a repetition is no further seed."""
    named = runs.assign(_recipe=runs.run_id.map(recipes).fillna(runs.run_id))
    newest = named.sort_values("created_at", kind="stable").drop_duplicates(["_recipe", "seed"], keep="last")
    return runs[runs.run_id.isin(newest.run_id)]


def over_seeds(points: pd.DataFrame, recipes: pd.Series[str]) -> pd.DataFrame:
    """The mean over the seeds of each recipe, with the least and the most, at the steps that all its seeds have.

    `points`: as `queries.curve`; `recipes`: run id -> a name that seeds share. `run_id` of a row is a recipe's first
    run; `seeds` says how many it is of. A recipe of one seed stays as it is, with `low` and `high` equal to its value.
    """
    named = points.assign(recipe=points.run_id.map(recipes).fillna(points.run_id))
    every = named.groupby("recipe").run_id
    named = named.assign(seeds=every.transform("nunique"), first=every.transform("first"))
    groups = named.groupby(["first", "kind", "temperature", "step"], dropna=False)
    mean = groups.agg(
        value=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        tokens_seen=("tokens_seen", "mean"),
        seconds=("seconds", "mean"),
        seeds=("seeds", "first"),
        here=("run_id", "nunique"),
    )
    mean = mean.reset_index().rename(columns={"first": "run_id"})
    return mean[mean.here == mean.seeds].drop(columns="here")


def watched_words(runs: pd.DataFrame) -> str:
    """'10 watched prompts', '10 to 30 watched prompts', 'the watched prompts' where their number is not known."""
    known = runs.watched.dropna() if "watched" in runs else pd.Series(dtype=float)
    if known.empty:
        return "the watched prompts"
    low, high = int(known.min()), int(known.max())
    return (f"{low} watched prompts" if low == high else f"{low} to {high} watched prompts") + ", no interval"


def draw(
    points: pd.DataFrame,
    runs: pd.DataFrame,
    labels: Mapping[str, str],
    colour: Figure | None,
    *,
    axis: str,
    weight: float,
    log: tuple[bool, bool],
    tone: str,
) -> go.Figure:
    """Draw the curves of `runs` (rows of the wide table) from `points` (as `queries.curve`).

    `weight`: of the smoothing of the loss; the raw line stays, faint. `log`: the horizontal axis, and the loss's.
    """
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.08,
        subplot_titles=[
            "training loss" + (f", smoothed ({weight:g})" if weight else ""),
            f"exact acceptance of {watched_words(runs)}{temperature_of(points)}",
        ],
    )
    title = f"Learning curves by {learning_curve.AXES[axis]}"
    parts.dress(figure, title, f"{counted(points, runs)}; both panels zoom together", tone)
    colours = colouring(runs, colour.name if colour else "", colour.title if colour else "")
    by_run = dict(iter(points.groupby(["run_id", "kind"])))
    names = fitting([group.name for group in colours.groups], 40)
    for group, name in zip(colours.groups, names, strict=True):
        for number, (_, run) in enumerate(group.rows.iterrows()):
            style = _Style(colours, group, name, run, labels[run.run_id], tone, first=number == 0)
            _loss(figure, by_run.get((run.run_id, "train")), _COLUMNS[axis], weight, style)
            _acceptance(figure, by_run.get((run.run_id, "eval")), _COLUMNS[axis], style)
    if colours.scale:
        _colour_bar(figure, colours, tone)
    figure.update_xaxes(type="log" if log[0] else "linear")
    figure.update_xaxes(title=learning_curve.AXES[axis], row=2, col=1)
    figure.update_yaxes(title="loss", type="log" if log[1] else "linear", row=1, col=1)
    figure.update_yaxes(title="acceptance (fraction)", row=2, col=1)
    uirevision = f"{axis} {log}"
    return parts.panels(figure).update_layout(height=680, uirevision=uirevision, showlegend=len(colours.groups) > 1)


def _colour_bar(figure: go.Figure, colours: Colouring, tone: str) -> None:
    """The scale of the lines' colours, which lines do not bring along."""
    low, high = colours.range
    bar = {"title": {"text": parts.safe(parts.shortened(colours.title, 30)), "side": "right"}, "thickness": 12}
    scale = {"colorscale": scale_on(tone), "cmin": low, "cmax": high, "showscale": True, "colorbar": bar}
    figure.add_scatter(
        x=[None], y=[None], mode="markers", showlegend=False, marker={"color": [low], **scale}, row=1, col=1
    )


class _Style:
    """How the lines of one run are drawn."""

    def __init__(
        self, colours: Colouring, group: Group, name: str, run: pd.Series, label: str, tone: str, *, first: bool
    ) -> None:
        self.label = parts.safe(label)
        self.line = {"color": colours.colour_of(group, run, tone), "width": 1.7, "dash": group.dash}
        self.common = {
            "legendgroup": group.name,
            "name": parts.safe(name),
            "hovertemplate": _HOVER,
        }
        self.first = first

    def hovers(self, values: pd.Series, places: pd.Series) -> list[str]:
        return [f"{self.label}<br>{v:.4g} at {x:,.0f}" for v, x in zip(values, places, strict=True)]


def _loss(figure: go.Figure, rows: pd.DataFrame | None, column: str, weight: float, style: _Style) -> None:
    rows = _known(rows, column)
    rows = thinned(rows.assign(smooth=smoothed(rows.value, weight)))
    if _has_band(rows):
        _band(figure, rows[column], smoothed(rows.low, weight), smoothed(rows.high, weight), style, 1)
    elif weight > 0:
        figure.add_scatter(
            x=rows[column],
            y=rows.value,
            mode="lines",
            showlegend=False,
            hoverinfo="skip",
            legendgroup=style.common["legendgroup"],
            line={**style.line, "width": 0.8, "dash": "solid"},
            opacity=0.25,
            row=1,
            col=1,
        )
    figure.add_scatter(
        x=rows[column],
        y=rows.smooth,
        mode="lines",
        showlegend=style.first,
        hovertext=style.hovers(rows.smooth, rows[column]),
        line=style.line,
        row=1,
        col=1,
        **style.common,
    )


def _acceptance(figure: go.Figure, rows: pd.DataFrame | None, column: str, style: _Style) -> None:
    rows = _known(rows, column)
    for _, part in rows.groupby("temperature"):
        if _has_band(part):
            _band(figure, part[column], part.low, part.high, style, 2)
        figure.add_scatter(
            x=part[column],
            y=part.value,
            mode="lines+markers",
            marker={"size": 4},
            showlegend=False,
            hovertext=style.hovers(part.value, part[column]),
            line=style.line,
            row=2,
            col=1,
            **style.common,
        )


def counted(points: pd.DataFrame, runs: pd.DataFrame) -> str:
    """'12 runs', or '4 recipes: mean over 3 seeds, band from the least to the most' after `over_seeds`."""
    if "seeds" not in points:
        return f"{len(runs)} runs"
    low, high = int(points.seeds.min()), int(points.seeds.max())
    if high == 1:
        return f"{len(runs)} recipes of one seed each"
    seeds = f"{low}" if low == high else f"{low} to {high}"
    return f"{len(runs)} recipe{'s' * (len(runs) != 1)}: mean over {seeds} seeds, band from the least to the most"


def _has_band(rows: pd.DataFrame) -> bool:
    return "seeds" in rows and bool((rows.seeds > 1).any())


def _band(figure: go.Figure, x: pd.Series, low: pd.Series, high: pd.Series, style: _Style, panel: int) -> None:
    """The range over the seeds, behind their mean."""
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        mode="lines",
        fill="toself",
        fillcolor=style.line["color"],
        opacity=0.2,
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=style.common["legendgroup"],
        row=panel,
        col=1,
    )


def _known(rows: pd.DataFrame | None, column: str) -> pd.DataFrame:
    if rows is None:
        return pd.DataFrame(columns=[column, "value", "temperature"], dtype=float)
    return rows[rows[column].notna() & rows.value.notna()].sort_values(column, kind="stable")
