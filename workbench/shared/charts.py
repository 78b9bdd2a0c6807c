"""Figures: pure functions from data frames to Plotly figures, all in one style.

Each takes `tone` ('light' or 'dark', see `theme.mode`). The title has the unit, and its second line n
and the kind of interval. Series differ in dash, symbol or pattern as well as in colour, and the order of
`labels` decides the style, so a draft looks the same in every figure. Text of users and models is
escaped, because Plotly renders some HTML in names, ticks and hovers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from engine.measure.definitions import RATES
from engine.measure.predicted_speed import GammaChoice
from engine.records.interval import Interval
from engine.records.speed import Speed
from workbench.shared import chart_parts as parts
from workbench.shared import theme

# Horizontal axes of learning curves, by their names in the URL.
AXES = {"steps": "optimiser steps", "tokens": "target tokens seen", "seconds": "seconds of training"}
_COLUMNS = {"steps": "step", "tokens": "tokens_seen", "seconds": "seconds"}
INTERVAL = parts.INTERVAL
_HOVER = "%{hovertext}<extra></extra>"  # user text is passed as data, never as a template
_OPEN = {0: "", 1: "-open", 2: "-open-dot"}  # hollow marks for a draft's second temperature


def learning_curve(
    frame: pd.DataFrame, axis: str, kind: str, labels: Mapping[str, str], tone: str, note: str = ""
) -> go.Figure:
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
                hovertemplate=_HOVER,
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


def heat_map(cells: pd.DataFrame, tone: str, note: str = "") -> go.Figure:
    """Exact acceptance by loss (rows), scenario (columns) and mode (panels): the frame of `compare.every_run.cells`.

    Columns: loss, scenario, mode, value, low, high, n_prompts, runs, seeds, sets, least, most, n_train, run_ids. A
    click on a cell selects a point whose customdata is its runs' ids, with spaces between. A combination without a run
    says so in words; cells of different size say how many queries they trained on.
    """
    losses, scenarios, modes = (sorted(cells[c].unique()) for c in ("loss", "scenario", "mode"))
    sizes = cells.n_train.nunique() > 1
    titles = [f"{parts.safe(mode)}" for mode in modes]
    figure = make_subplots(
        rows=1, cols=max(1, len(modes)), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03
    )
    parts.dress(
        figure,
        "Exact acceptance (fraction) by loss, scenario and mode",
        note or f"[{parts.interval_note(cells)}]",
        tone,
    )
    for place, mode in enumerate(modes, start=1):
        by_place = {(row.loss, row.scenario): row for row in cells[cells["mode"] == mode].itertuples()}
        grid = [[by_place.get((loss, scenario)) for scenario in scenarios] for loss in losses]
        figure.add_heatmap(
            z=[[math.nan if cell is None else cell.value for cell in line] for line in grid],
            x=[parts.safe(s) for s in scenarios],
            y=[parts.safe(loss) for loss in losses],
            xgap=3,
            ygap=3,
            coloraxis="coloraxis",
            text=[[parts.cell_text(cell, size=sizes) for cell in line] for line in grid],
            texttemplate="%{text}",
            hoverongaps=False,
            textfont={"size": 12},
            hovertext=[[parts.cell_hover(cell) for cell in line] for line in grid],
            hovertemplate=_HOVER,
            row=1,
            col=place,
        )
        filled = [cell for line in grid for cell in line if cell is not None]
        figure.add_scatter(  # a heat map cannot be clicked: a mark that is not seen lies on each cell
            x=[parts.safe(cell.scenario) for cell in filled],
            y=[parts.safe(cell.loss) for cell in filled],
            mode="markers",
            marker={"symbol": "square", "size": 60, "opacity": 0},
            unselected={"marker": {"opacity": 0}},
            customdata=[" ".join(cell.run_ids) for cell in filled],
            hovertext=[parts.cell_hover(cell) for cell in filled],
            hovertemplate=_HOVER,
            showlegend=False,
            row=1,
            col=place,
        )
        for i, line in enumerate(grid):
            for j, cell in enumerate(line):
                if cell is None:  # Plotly draws no text in a gap
                    figure.add_annotation(x=j, y=i, text="no run", showarrow=False, opacity=0.6, row=1, col=place)
    figure.update_layout(
        coloraxis={
            "colorscale": theme.SEQUENTIAL,
            "colorbar": {"title": {"text": "acceptance", "side": "right"}, "thickness": 12},
        },
        height=176 + 88 * max(1, len(losses)),
        showlegend=False,
    )
    figure.update_xaxes(showgrid=False, type="category")
    figure.update_yaxes(showgrid=False, type="category", autorange="reversed")
    return parts.panels(figure).update_layout(margin_b=32)


def rate_bars(frame: pd.DataFrame, metric: str, tone: str, note: str = "") -> go.Figure:
    """Draw one rate per draft with its interval. Columns: label, value, low, high, n_prompts, n_tokens.

    An optional column `before` has the rate of the untrained draft, drawn as a hollow diamond.
    """
    note = note or parts.interval_note(frame)
    figure, shown = parts.titled(f"{RATES[metric].title}{parts.unit(metric)}", note, tone), False
    for place, row in enumerate(frame.itertuples()):
        name = parts.safe(row.label)
        line = f"{name}<br>{parts.with_interval(row)}"
        figure.add_bar(
            y=[line],
            x=[row.value],
            orientation="h",
            name=name,
            width=0.62,
            hovertemplate=_HOVER,
            showlegend=False,
            hovertext=[parts.hover(name, row)],
            error_x=parts.error_bar(row),
            marker=parts.filled(place, tone),
        )
        before = getattr(row, "before", None)
        if before is not None and not pd.isna(before):
            figure.add_scatter(
                x=[before],
                y=[line],
                mode="markers",
                name="before training",
                showlegend=not shown,
                hovertemplate=_HOVER,
                cliponaxis=False,
                hovertext=[f"{name}<br>before training: {before:.3f}"],
                legendgroup="before",
                marker={"symbol": "diamond-open", "size": 10, "color": theme.TONES[tone].text, "line": {"width": 2}},
            )
            shown = True
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    figure.update_xaxes(rangemode="tozero")
    figure.update_traces(error_x_color=theme.TONES[tone].text, selector={"type": "bar"})
    figure.update_layout(height=150 + 54 * max(1, len(frame)), barmode="overlay")
    return figure


def by_slot(frame: pd.DataFrame, tone: str, note: str = "") -> go.Figure:
    """Draw acceptance by position in the proposal.

    Columns: label, slot, kind ('joint' or 'conditional'), value, low, high, n.
    """
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        subplot_titles=["joint: accepted with all before it", "conditional: accepted when judged"],
    )
    parts.dress(figure, "Acceptance (fraction) by position in the proposal", note or parts.interval_note(frame), tone)
    for place, label in enumerate(dict.fromkeys(frame.label)):
        for column, kind in enumerate(("joint", "conditional"), start=1):
            part = frame[(frame.label == label) & (frame.kind == kind)].sort_values("slot")
            name = parts.safe(label)
            figure.add_scatter(
                x=part.slot,
                y=part.value,
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                line={"color": parts.colour(place), "dash": parts.dash_of(place)},
                marker={"symbol": parts.symbol_of(place), "size": 9},
                error_y=parts.error_bars(part),
                hovertemplate=_HOVER,
                row=1,
                col=column,
                hovertext=[
                    f"{name}<br>position {r.slot}, {kind}: {parts.with_interval(r)}<br>n = {r.n:,} proposals"
                    for r in part.itertuples()
                ],
            )
    figure.update_xaxes(title="position in the proposal", dtick=1)
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title="acceptance", col=1)
    return parts.panels(figure)


def accepted_lengths(counts: Mapping[str, Sequence[int]], tone: str, note: str = "") -> go.Figure:
    """Draw the share of rounds with 0, 1, ..., gamma accepted tokens; `counts` is label -> rounds by that number."""
    figure = parts.titled("Rounds by number of accepted tokens (share of rounds)", note or "no interval: counts", tone)
    for place, (label, rounds) in enumerate(counts.items()):
        total = sum(rounds)
        name = f"{parts.safe(label)}, n = {total:,} rounds"
        figure.add_bar(
            x=list(range(len(rounds))),
            y=[count / total if total else math.nan for count in rounds],
            name=name,
            marker=parts.filled(place, tone),
            hovertemplate=_HOVER,
            hovertext=[
                f"{parts.safe(label)}<br>{accepted} accepted: {count:,} of {total:,} rounds"
                for accepted, count in enumerate(rounds)
            ],
        )
    figure.update_xaxes(title="accepted tokens in a round", dtick=1)
    figure.update_yaxes(title="share of rounds", tickformat=".0%")
    figure.update_layout(barmode="group", showlegend=True)
    return figure


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
                hovertemplate=_HOVER,
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
            hovertemplate=_HOVER,
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


def prompt_scatter(
    frame: pd.DataFrame, metric: str, names: tuple[str, str], tone: str, selected: str | None = None, note: str = ""
) -> go.Figure:
    """Draw one point per prompt: its rate with the first draft against its rate with the second.

    Columns: prompt_id, group, text, a, b, n_a, n_b. A point's customdata is its prompt id; the prompt
    `selected` is ringed.
    """
    first, second = (parts.safe(name) for name in names)
    edge = theme.TONES[tone].background
    figure = parts.titled(
        f"{RATES[metric].title} per prompt", note or f"n = {len(frame)} prompts, no interval for single prompts", tone
    )
    top = 1.06 * max(float(frame[["a", "b"]].max().max()) if len(frame) else 1.0, 0.05)
    figure.add_scatter(
        x=[0, top],
        y=[0, top],
        mode="lines",
        name="equal",
        hoverinfo="skip",
        line={"color": theme.TONES[tone].faint, "dash": "dash", "width": 1},
    )
    for place, (group, part) in enumerate(frame.groupby("group", dropna=False)):
        name, hollow = parts.safe(group), place >= len(theme.SYMBOLS)
        symbol, rim = parts.symbol_of(place) + ("-open" if hollow else ""), parts.colour(place) if hollow else edge
        figure.add_scatter(
            x=part.a,
            y=part.b,
            mode="markers",
            name=name,
            customdata=[str(p) for p in part.prompt_id],
            hovertemplate=_HOVER,
            marker={
                "color": parts.colour(place),
                "symbol": symbol,
                "size": 10,
                "line": {"width": 1.4 if hollow else 1, "color": rim},
            },
            hovertext=[
                f"{parts.safe(r.prompt_id)} ({name})<br>{parts.safe(parts.shortened(r.text))}<br>"
                f"{first}: {r.a:.3f} (n = {r.n_a:.0f})<br>{second}: {r.b:.3f} (n = {r.n_b:.0f})"
                for r in part.itertuples()
            ],
        )
    for row in frame[frame.prompt_id == selected].itertuples():
        figure.add_scatter(
            x=[row.a],
            y=[row.b],
            mode="markers",
            name="shown below",
            hoverinfo="skip",
            marker={"symbol": "circle-open", "size": 20, "color": theme.TONES[tone].text, "line": {"width": 2}},
        )
    figure.update_xaxes(title=parts.safe(names[0]), range=[-0.02 * top, top])
    figure.update_yaxes(title=parts.safe(names[1]), range=[-0.02 * top, top])
    figure.update_layout(height=480, clickmode="event+select", dragmode="pan")
    return figure


def group_bars(frame: pd.DataFrame, metric: str, tone: str, note: str = "") -> go.Figure:
    """Draw one rate by prompt group and draft. Columns: label, group, value, low, high, n_prompts."""
    figure = parts.titled(
        f"{RATES[metric].title}{parts.unit(metric)} by prompt group", note or parts.interval_note(frame), tone
    )
    for place, label in enumerate(dict.fromkeys(frame.label)):
        part, name = frame[frame.label == label], parts.safe(label)
        figure.add_bar(
            x=[parts.safe(group) for group in part.group],
            y=part.value,
            name=name,
            error_y=parts.error_bars(part),
            marker=parts.filled(place, tone),
            hovertemplate=_HOVER,
            hovertext=[parts.hover(f"{name}<br>{parts.safe(r.group)}", r) for r in part.itertuples()],
        )
    figure.update_xaxes(type="category")
    figure.update_traces(error_y_color=theme.TONES[tone].text)
    figure.update_yaxes(title="tokens" if metric == "tau" else "acceptance", rangemode="tozero")
    figure.update_layout(barmode="group", showlegend=True)
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
        hovertemplate=_HOVER,
    )
