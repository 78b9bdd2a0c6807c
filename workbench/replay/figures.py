"""Figures of one step of a trace: the candidates' probabilities, the residual, and the draw."""

from __future__ import annotations

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from engine.decode.events import MARKS, Fate
from workbench.replay.judgement import Candidate, Judgement, judged_digits, short, visible
from workbench.shared import theme


def probability_bars(shown: Sequence[Candidate], tone: str, *, draft: bool = True) -> go.Figure:
    """Draw p and q of each candidate as paired bars, without q where nothing was proposed."""
    figure = _figure(
        "p and q of the most likely tokens" if draft else "p of the most likely tokens",
        len(shown),
        tone,
        2 if draft else 1,
    )
    places, names = list(range(len(shown))), [_label(c) for c in shown]
    sides = [("target, p", [c.p for c in shown], 0, "")] + (
        [("draft, q", [c.q for c in shown], 1, "/")] if draft else []
    )
    for name, values, colour, pattern in sides:
        figure.add_bar(
            y=places,
            x=values,
            orientation="h",
            name=name,
            customdata=names,
            hovertemplate="%{customdata}<br>%{x:.4f}<extra>" + name + "</extra>",
            text=[short(v) for v in values],
            textposition="outside",
            cliponaxis=False,
            marker={"color": theme.PALETTE[colour], "pattern": {"shape": pattern, "solidity": 0.25}},
        )
    return _named(figure, places, names, "probability")


def residual_bars(shown: Sequence[Candidate], tone: str) -> go.Figure:
    """Draw the residual distribution, from which a rejected token is replaced; the drawn token is marked."""
    some = [c for c in shown if c.residual > 0 or c.drawn]
    figure = _figure("Residual: max(0, p - q), normalized", len(some), tone, 1)
    places, names = list(range(len(some))), [_label(c) for c in some]
    figure.add_bar(
        y=places,
        x=[c.residual for c in some],
        orientation="h",
        name="residual",
        customdata=names,
        showlegend=False,
        width=0.6,
        hovertemplate="%{customdata}<br>%{x:.4f}<extra>residual</extra>",
        text=[short(c.residual) + (" ◀ drawn" if c.drawn else "") for c in some],
        textposition="outside",
        cliponaxis=False,
        marker={"color": [theme.PALETTE[4] if c.drawn else theme.PALETTE[6] for c in some]},
    )
    return _named(figure, places, names, "probability of replacing the rejected token")


def marks(shown: Sequence[Candidate]) -> str:
    """The meaning of the signs beside the bars, for those that occur."""
    signs = ["? proposed by the draft"] if any(c.proposed for c in shown) else []
    signs += ["◀ drawn by the target"] if any(c.drawn for c in shown) else []
    return f"{', '.join(signs)}." if signs else ""


def unlisted(shown: Sequence[Candidate]) -> str:
    """A sentence on the residual's mass outside the listed tokens; empty below half a percent."""
    rest = 1 - sum(c.residual for c in shown)
    return f"{rest:.0%} of the residual is on tokens that this trace does not list." if rest > 0.005 else ""


def alternatives_missing(again: str) -> str:
    """Why there are no other bars; `again`: how to record them."""
    return f"This trace records p and q for this token only. {again}".rstrip()


def draw_line(judged: Judgement, tone: str) -> go.Figure:
    """Draw u on the line from 0 to 1, where [0, min(1, p/q)) accepts."""
    chance, colours = judged.chance or 0.0, theme.TONES[tone]
    digits = judged_digits(judged.draw, judged.chance)
    title = f"Draw against min(1, p/q) = {short(chance, digits)}"
    figure = go.Figure(layout={"template": theme.template(tone), "title": title})
    for start, end, name, fate in ((0.0, chance, "accepts", Fate.ACCEPTED), (chance, 1.0, "rejects", Fate.REJECTED)):
        if end > start:
            figure.add_shape(
                type="rect", x0=start, x1=end, y0=0, y1=1, fillcolor=MARKS[fate].tint, opacity=0.45, line_width=0
            )
            figure.add_annotation(x=(start + end) / 2, y=0.5, text=name if end - start > 0.12 else "", showarrow=False)
    if judged.draw is not None:
        figure.add_scatter(
            x=[judged.draw, judged.draw],
            y=[-0.25, 1.25],
            mode="lines",
            name="u",
            line={"color": colours.text, "width": 3},
            hovertemplate="u = %{x:.4f}<extra></extra>",
            showlegend=False,
        )
        drawn = f"u = {short(judged.draw, digits)}"
        figure.add_annotation(x=judged.draw, y=1.3, yanchor="bottom", text=drawn, showarrow=False)
    figure.update_xaxes(range=[-0.01, 1.01], title="draw, uniform in [0, 1)", showgrid=False)
    figure.update_yaxes(visible=False, range=[-0.3, 1.9], fixedrange=True)
    figure.update_layout(height=190, margin={"t": 46, "b": 44, "l": 16, "r": 16})
    return figure


def _label(candidate: Candidate) -> str:
    """A tick label: the token in visible form, safe in Plotly, with a sign if it was proposed or drawn."""
    text = visible(candidate.text)
    text = html.escape(text if len(text) <= 24 else text[:23] + "…", quote=False)  # Plotly shows &quot; as it is
    if candidate.drawn:
        return f"<b>{text}</b> ◀"
    return f"<b>{text}</b> ?" if candidate.proposed else text


def _figure(title: str, bars: int, tone: str, sides: int) -> go.Figure:
    figure = go.Figure(layout={"template": theme.template(tone), "title": title, "barmode": "group"})
    top = 76 if sides > 1 else 46
    figure.update_layout(height=top + 64 + max(1, bars) * (12 + 13 * sides), margin={"t": top, "r": 70}, bargap=0.3)
    return figure


def _named(figure: go.Figure, places: list[int], names: list[str], title: str) -> go.Figure:
    """Bars at numbered places with names beside them: two tokens may read the same."""
    figure.update_yaxes(tickmode="array", tickvals=places, ticktext=names, autorange="reversed", showgrid=False)
    figure.update_xaxes(range=[0, 1.12], title=title, tickvals=[0, 0.25, 0.5, 0.75, 1])
    return figure
