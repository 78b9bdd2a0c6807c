"""The figures of Findings: acceptance by method and domain, against data size, and learning curves. No Streamlit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from engine.measure.compare import SAME_TEMPERATURE
from workbench.shared import chart_parts as parts
from workbench.shared import learning_curve, theme

MOST_CURVES = 12
_HOVER = "%{hovertext}<extra></extra>"


def by_method(frame: pd.DataFrame, temperature: float, tone: str) -> go.Figure:
    """Acceptance of each method (rows) in each domain (panels), a mark per scenario, with intervals.

    `frame`: rows of `acceptance`, one size per domain and scenario. The dashed line is the draft before training.
    """
    rows = frame[(frame.temperature - temperature).abs() < SAME_TEMPERATURE]
    methods = list(rows.groupby("method").value.mean().sort_values(ascending=False).index)
    scenarios, domains = sorted(rows.scenario.unique()), sorted(rows.domain.unique())
    title = f"Exact acceptance (fraction) by method and domain, T = {temperature:g}"
    figure = _panels(rows, domains, title, tone)
    for column, domain in enumerate(domains, start=1):
        for number, scenario in enumerate(scenarios):
            part = rows[(rows.domain == domain) & (rows.scenario == scenario)]
            if part.empty:
                continue
            shift = 0.2 * (number - (len(scenarios) - 1) / 2)
            figure.add_scatter(
                x=part.value,
                y=[methods.index(method) + shift for method in part.method],
                mode="markers",
                name=parts.safe(scenario),
                legendgroup=parts.safe(scenario),
                hovertemplate=_HOVER,
                hovertext=_hovers(part),
                marker={"symbol": parts.symbol_of(number), "size": 9, "color": parts.colour(number)},
                error_x=parts.error_bars(part),
                row=1,
                col=column,
            )
        before = rows[rows.domain == domain].initial.mean()
        if pd.notna(before):
            figure.add_vline(
                x=before, line={"color": theme.TONES[tone].faint, "dash": "dash", "width": 1.2}, row=1, col=column
            )
    names = [parts.safe(method) for method in methods]
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(methods))),
        ticktext=names,
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    figure.update_xaxes(title="acceptance", rangemode="tozero", nticks=5)
    figure.update_layout(height=210 + 34 * len(methods))
    return _one_legend_entry_each(figure)


def by_size(frame: pd.DataFrame, scenario: str, temperature: float, tone: str) -> go.Figure:
    """Acceptance by number of training queries (log axis): a panel per domain, a line per method, with intervals."""
    rows = frame[
        ((frame.temperature - temperature).abs() < SAME_TEMPERATURE)
        & (frame.scenario == scenario)
        & frame.n_train.notna()
    ]
    domains, methods = sorted(rows.domain.unique()), sorted(rows.method.unique())
    title = f"Exact acceptance (fraction) by number of training queries, {parts.safe(scenario)}, T = {temperature:g}"
    figure = _panels(rows, domains, title, tone)
    for column, domain in enumerate(domains, start=1):
        for number, method in enumerate(methods):
            part = rows[(rows.domain == domain) & (rows.method == method)].sort_values("n_train")
            if part.empty:
                continue
            figure.add_scatter(
                x=part.n_train,
                y=part.value,
                mode="lines+markers",
                name=parts.safe(method),
                legendgroup=parts.safe(method),
                hovertemplate=_HOVER,
                hovertext=_hovers(part),
                error_y=parts.error_bars(part),
                row=1,
                col=column,
                **_look(number),
            )
        sizes = apart(rows[rows.domain == domain].n_train)
        figure.update_xaxes(tickvals=sizes, ticktext=[f"{size:,.0f}" for size in sizes], col=column)
    figure.update_xaxes(type="log", title="training queries (log)", tickmode="array", tickangle=0)
    figure.update_yaxes(title="acceptance", col=1)
    figure.update_layout(height=460)
    return _one_legend_entry_each(figure)


def apart(sizes: Iterable[float], factor: float = 1.35) -> list[float]:
    """The sizes to name on a log axis, the largest first considered: between two of them lies at least `factor`."""
    named: list[float] = []
    for size in sorted(set(sizes), reverse=True):
        if not named or named[-1] >= factor * size:
            named.append(float(size))
    return named[::-1]


def curves(
    frame: pd.DataFrame, labels: Mapping[str, str], axis: str, temperature: float, tone: str, of: str = ""
) -> go.Figure:
    """Acceptance on the watched prompts while training, of at most a dozen runs (`labels`: id -> name)."""
    shown = dict(list(labels.items())[:MOST_CURVES])
    rows = frame[(frame.kind == "eval") & ((frame.temperature - temperature).abs() < SAME_TEMPERATURE)]
    note = ", ".join(filter(None, [of, f"T = {temperature:g}", "watched prompts only, no interval"]))
    figure = learning_curve.draw(rows, axis, "eval", shown, tone, parts.safe(note))
    places = {run: number for number, run in enumerate(shown)}
    for trace in figure.data:
        look = _look(places[trace.legendgroup])
        trace.update(line=look["line"], marker=look["marker"])
    figure.update_yaxes(rangemode="normal")
    return figure.update_layout(height=480, margin_b=110)


def curve_labels(frame: pd.DataFrame, domain: str, scenario: str) -> dict[str, str]:
    """Run id -> method, the first seed of each method in one place: rows of `acceptance` at any temperature."""
    part = frame[(frame.domain == domain) & (frame.scenario == scenario)]
    best = part.sort_values("value", ascending=False).drop_duplicates("method")
    firsts = {str(runs[0]): str(method) for runs, method in zip(best.runs, best.method, strict=True)}
    return dict(list(firsts.items())[:MOST_CURVES])


def _look(number: int) -> dict[str, Any]:
    """Colour, dash and symbol of a series; the second seven differ from the first in dash and hollow marks."""
    again = number >= len(theme.PALETTE)
    symbol = parts.symbol_of(number) + ("-open" if again else "")
    line = {"color": parts.colour(number), "dash": parts.dash_of(number + 2 * again), "width": 1.8}
    return {"line": line, "marker": {"symbol": symbol, "size": 8, "color": parts.colour(number)}}


def _panels(rows: pd.DataFrame, domains: Sequence[str], title: str, tone: str) -> go.Figure:
    targets = {} if rows.empty else rows.groupby("domain").target.first().dropna().to_dict()
    titles = ["<br>".join(map(parts.safe, filter(None, [domain, targets.get(domain)]))) for domain in domains]
    figure = make_subplots(
        rows=1, cols=max(1, len(domains)), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03
    )
    parts.dress(figure, title, parts.safe(_counts(rows)), tone)
    # a panel's title has two lines
    return parts.panels(figure).update_layout(showlegend=True, margin={"t": 120, "b": 100})


def _counts(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "no runs"
    prompts, seeds = rows.n_prompts.agg(["min", "max"]), rows.seeds.agg(["min", "max"])
    counts = [_range(prompts, "prompts"), _range(seeds, "seed" if seeds["max"] == 1 else "seeds")]
    return f"{parts.interval_note(rows)}; " + ", ".join(counts)


def _range(ends: Any, unit: str) -> str:
    low, high = int(ends["min"]), int(ends["max"])
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _hovers(part: pd.DataFrame) -> list[str]:
    return [
        parts.hover(
            f"{parts.safe(r.method)}<br>{parts.safe(r.domain)}, {parts.safe(r.scenario)}, {r.n_train:,.0f} queries, "
            f"{r.seeds} seed{'s' if r.seeds != 1 else ''}, before training {r.initial:.3f}",
            r,
        )
        for r in part.itertuples()
    ]


def _one_legend_entry_each(figure: go.Figure) -> go.Figure:
    seen: set[str] = set()
    for trace in figure.data:
        trace.showlegend = trace.legendgroup not in seen
        seen.add(trace.legendgroup)
    return figure
