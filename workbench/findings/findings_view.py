"""Findings as tables, sentences and figures. No Streamlit."""

from __future__ import annotations

import html
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from engine.measure.findings import Cell, Finding
from engine.measure.statistics import Interval
from engine.measure.verdicts import FEW, NOT, REPRODUCED, SAME
from engine.measure.wanted import Wanted
from workbench import theme
from workbench.view_state import link

# A verdict is told by word and icon; colour only helps.
VERDICTS: dict[str, tuple[str, str]] = {
    REPRODUCED: (":material/check_circle:", "green"),
    SAME: (":material/trending_flat:", "blue"),
    NOT: (":material/cancel:", "orange"),
    FEW: (":material/hourglass_empty:", "gray"),
}
_MARKS = {REPRODUCED: "circle", SAME: "triangle-up", NOT: "x", FEW: "circle-open"}


def badge(verdict: str) -> str:
    """A verdict as Markdown: icon, word and colour."""
    icon, colour = VERDICTS[verdict]
    return f":{colour}-badge[{icon} {verdict}]"


def place(where: Mapping[str, Any]) -> str:
    """'biology, curated, offline, forward_kl': where a comparison was made."""
    words = [f"against {value}" if key == "against" else str(value) for key, value in where.items() if value]
    return ", ".join(words)


def percent(interval: Interval) -> str:
    """'+4.1% [+2.0%, +6.3%]', or a dash where there is no value."""
    return _ranged(interval, lambda value: f"{value:+.1%}")


def points(interval: Interval) -> str:
    """'+0.012 [+0.006, +0.019]': a difference of acceptances."""
    return _ranged(interval, lambda value: f"{value:+.3f}")


def _ranged(interval: Interval, told: Any) -> str:
    if math.isnan(interval.value):
        return "–"
    if math.isnan(interval.low):
        return str(told(interval.value))
    return f"{told(interval.value)} [{told(interval.low)}, {told(interval.high)}]"


def table(finding: Finding) -> pd.DataFrame:
    """A row a comparison, with a link to its runs side by side."""
    return pd.DataFrame(
        {
            "where": place(cell.where),
            "runs": link("compare", runs=cell.runs[:6]),
            "T": f"{cell.temperature:g}",
            finding.claim.base: cell.base_rate,
            finding.claim.other: cell.other_rate,
            "relative": percent(cell.relative),
            "absolute": points(cell.absolute),
            "seeds": len(cell.by_seed),
            "prompts": cell.absolute.n_prompts,
            "verdict": cell.verdict,
            "why": cell.reason,
            "each seed": ", ".join(f"{value:+.3f}" for value in cell.by_seed),
        }
        for cell in finding.cells
    )


def remarks(cells: Sequence[Cell]) -> list[str]:
    """What a reader should know of the comparisons, each once."""
    return list(dict.fromkeys(cell.remark for cell in cells if cell.remark))


def command(missing: Wanted, runs_folder: Path) -> str:
    """The line that makes the missing run."""
    recipe = runs_folder / missing.run / "config.yaml"
    changes = " ".join(f"--set {shlex.quote(change)}" for change in missing.changes)
    return f"draftbench run {shlex.quote(str(recipe))} {changes}"


def differences(odd: Mapping[str, tuple[Any, Any]]) -> str:
    """'train.epochs (5 and 1)': what keeps two runs from being compared."""
    return ", ".join(f"{key} ({_brief(a)} and {_brief(b)})" for key, (a, b) in odd.items())


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 28 else text[:27] + "…"


def effects(finding: Finding, tone: str) -> go.Figure:
    """The measured effect of each comparison with its interval, and the band that the paper states."""
    absolute = all(math.isnan(cell.relative.value) for cell in finding.cells)
    shown = [cell for cell in finding.cells if absolute or not math.isnan(cell.relative.value)]
    colours, unit = theme.TONES[tone], "acceptance" if absolute else "relative"
    figure = go.Figure(layout={"template": theme.template(tone)})
    _dress(figure, f"Effect, {unit}", len(shown))
    if finding.claim.band and not absolute:
        low, high = finding.claim.band
        figure.add_vrect(x0=low, x1=high, fillcolor=theme.PALETTE[4], opacity=0.22, line_width=0, layer="below")
        figure.add_annotation(
            x=(low + high) / 2, y=1, yref="paper", yanchor="bottom", text="the paper", showarrow=False
        )
    figure.add_vline(x=0, line={"color": colours.faint, "dash": "dash"})
    for verdict, symbol in _MARKS.items():
        _add_points(figure, [(i, c, c.absolute if absolute else c.relative) for i, c in enumerate(shown) if c.verdict == verdict],
                    verdict, symbol)  # fmt: skip
    names = [html.escape(f"{place(cell.where)}, T={cell.temperature:g}") for cell in shown]
    figure.update_yaxes(
        tickmode="array", tickvals=list(range(len(shown))), ticktext=names, autorange="reversed", showgrid=False
    )
    figure.update_xaxes(title=f"{html.escape(finding.claim.other)} against {html.escape(finding.claim.base)}")
    if not absolute:
        figure.update_xaxes(tickformat="+.0%")
    return figure


def _dress(figure: go.Figure, title: str, rows: int) -> None:
    """Title with the interval on its second line, a height for the rows, and the legend under the plot."""
    second = {"text": "95% interval over prompts", "font": {"size": 12}}
    figure.update_layout(
        title={"text": title, "subtitle": second, "y": 0.97, "yanchor": "top", "yref": "container"}, showlegend=True,
        height=190 + 40 * rows, margin={"t": 78, "b": 90},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
    )  # fmt: skip


def _add_points(figure: go.Figure, rows: list[tuple[int, Cell, Interval]], verdict: str, symbol: str) -> None:
    if not rows:
        return
    figure.add_scatter(
        x=[i.value for _, _, i in rows], y=[place_ for place_, _, _ in rows], mode="markers", name=verdict,
        marker={"symbol": symbol, "size": 11, "color": theme.PALETTE[list(_MARKS).index(verdict) * 2 % 7]},
        error_x={"type": "data", "symmetric": False, "array": [_gap(i.high - i.value) for _, _, i in rows],
                 "arrayminus": [_gap(i.value - i.low) for _, _, i in rows]},
        customdata=[f"{len(c.by_seed)} seed(s), {i.n_prompts} prompts" for _, c, i in rows],
        hovertemplate="%{x:+.3f}<br>%{customdata}<extra></extra>",
    )  # fmt: skip


def _gap(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def by_loss(runs: pd.DataFrame, tone: str) -> go.Figure:
    """Exact acceptance of each run by loss, a symbol a domain. `runs` has the columns of `queries.runs`."""
    losses = list(runs.groupby("loss").exact.max().sort_values(ascending=False).index)
    domains = sorted(runs.domain.dropna().unique())
    figure = go.Figure(layout={"template": theme.template(tone)})
    _dress(figure, "Exact acceptance (fraction) by loss and domain", len(losses))
    for number, domain in enumerate(domains):
        part = runs[runs.domain == domain]
        look = number % len(theme.SYMBOLS)
        figure.add_scatter(
            x=part.exact, y=[losses.index(loss) + 0.16 * (number - (len(domains) - 1) / 2) for loss in part.loss],
            mode="markers", name=html.escape(str(domain)),
            marker={"symbol": theme.SYMBOLS[look], "size": 10, "color": theme.PALETTE[number % len(theme.PALETTE)]},
            error_x={"type": "data", "symmetric": False, "array": (part.exact_high - part.exact).fillna(0),
                     "arrayminus": (part.exact - part.exact_low).fillna(0)},
            customdata=[html.escape(f"{r.label}: seed {r.seed}, T={r.temperature:g}, {r.n_prompts:g} prompts") for r in part.itertuples()],
            hovertemplate="%{customdata}<br>%{x:.3f}<extra></extra>",
        )  # fmt: skip
    names = [html.escape(str(loss)) for loss in losses]
    figure.update_yaxes(
        tickmode="array", tickvals=list(range(len(losses))), ticktext=names, autorange="reversed", showgrid=False
    )
    figure.update_xaxes(title="exact acceptance (fraction)", rangemode="tozero")
    return figure
