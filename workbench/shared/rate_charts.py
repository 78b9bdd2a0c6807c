"""Charts of rates: pure functions from data frames to Plotly figures, all in one style.

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
from workbench.shared import chart_parts as parts
from workbench.shared import printing, theme

_LABEL_LETTERS = 60  # a longer name of a draft goes on in the next line, and leaves room for its bar


def heat_map(cells: pd.DataFrame, tone: str, note: str = "") -> go.Figure:
    """Exact acceptance by loss (rows), scenario (columns) and mode (panels): the frame of `compare.every_run.cells`.

    Columns: loss, scenario, mode, value, low, high, n_prompts, runs, seeds, sets, least, most, n_train, run_ids. A
    click on a cell selects a point whose customdata is its runs' ids, with spaces between. A combination without a run
    says so in words; cells of different size say how many queries they trained on.
    """
    losses, scenarios, modes = (sorted(cells[c].unique()) for c in ("loss", "scenario", "mode"))
    sizes = cells.n_train.nunique() > 1
    low, high = float(cells.value.min()), float(cells.value.max())
    if not high > low:  # a scale of colours needs a range
        low, high = low - 0.05, high + 0.05
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
        filled = [cell for line in grid for cell in line if cell is not None]
        letters = {cell.Index: theme.readable_on(theme.shade((cell.value - low) / (high - low))) for cell in filled}
        # Plotly writes grey on grey in the middle of the scale: the cells with white letters are a map of their own
        for colour in sorted(set(letters.values())):
            shown = [[cell if cell and letters[cell.Index] == colour else None for cell in line] for line in grid]
            figure.add_heatmap(
                z=[[math.nan if cell is None else cell.value for cell in line] for line in shown],
                x=[parts.safe(s) for s in scenarios],
                y=[parts.safe(loss) for loss in losses],
                xgap=3,
                ygap=3,
                coloraxis="coloraxis",
                text=[[parts.cell_text(cell, size=sizes) for cell in line] for line in shown],
                texttemplate="%{text}",
                hoverongaps=False,
                textfont={"size": 12, "color": colour},
                hovertext=[[parts.cell_hover(cell) for cell in line] for line in shown],
                hovertemplate=parts.HOVER,
                row=1,
                col=place,
            )
        figure.add_scatter(  # a heat map cannot be clicked: a mark that is not seen lies on each cell
            x=[parts.safe(cell.scenario) for cell in filled],
            y=[parts.safe(cell.loss) for cell in filled],
            mode="markers",
            marker={"symbol": "square", "size": 60, "opacity": 0},
            unselected={"marker": {"opacity": 0}},
            customdata=[" ".join(cell.run_ids) for cell in filled],
            hovertext=[parts.cell_hover(cell) for cell in filled],
            hovertemplate=parts.HOVER,
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
            "cmin": low,
            "cmax": high,
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
    lines = 2  # of the longest label
    for place, row in enumerate(frame.itertuples()):
        name = parts.safe(row.label)
        line = f"{printing.broken(name, _LABEL_LETTERS)}<br>{parts.with_interval(row)}"
        lines = max(lines, 1 + line.count("<br>"))
        figure.add_bar(
            y=[line],
            x=[row.value],
            orientation="h",
            name=name,
            width=0.62,
            hovertemplate=parts.HOVER,
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
                hovertemplate=parts.HOVER,
                cliponaxis=False,
                hovertext=[f"{name}<br>before training: {before:.3f}"],
                legendgroup="before",
                marker={"symbol": "diamond-open", "size": 10, "color": theme.TONES[tone].text, "line": {"width": 2}},
            )
            shown = True
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    figure.update_xaxes(rangemode="tozero")
    figure.update_traces(error_x_color=theme.TONES[tone].text, selector={"type": "bar"})
    figure.update_layout(height=150 + (18 + 18 * lines) * max(1, len(frame)), barmode="overlay")
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
                hovertemplate=parts.HOVER,
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
            hovertemplate=parts.HOVER,
            hovertext=[
                f"{parts.safe(label)}<br>{accepted} accepted: {count:,} of {total:,} rounds"
                for accepted, count in enumerate(rounds)
            ],
        )
    figure.update_xaxes(title="accepted tokens in a round", dtick=1)
    figure.update_yaxes(title="share of rounds", tickformat=".0%")
    figure.update_layout(barmode="group", showlegend=True)
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
            hovertemplate=parts.HOVER,
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
            hovertemplate=parts.HOVER,
            hovertext=[parts.hover(f"{name}<br>{parts.safe(r.group)}", r) for r in part.itertuples()],
        )
    figure.update_xaxes(type="category")
    figure.update_traces(error_y_color=theme.TONES[tone].text)
    figure.update_yaxes(title="tokens" if RATES[metric].per_forward else "acceptance", rangemode="tozero")
    figure.update_layout(barmode="group", showlegend=True)
    return figure
