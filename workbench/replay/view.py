"""One step of a stored trace: the mathematics behind its verdict, the verdict in words, and its figures. No Streamlit.

Stored traces hold the likeliest tokens of a position, not the whole vocabulary: what can be said
of the rest is its mass.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from engine.decode.events import MARKS, Fate
from engine.traces.answer import TraceAlternative, TraceRound, TraceToken, count_rounds
from workbench.shared import theme, tokens

MOST_BARS = 10


@dataclass(frozen=True)
class Candidate:
    """A token that could have stood at a position. `residual` is its chance of replacing a refused one."""

    text: str
    p: float
    q: float
    residual: float
    proposed: bool = False
    drawn: bool = False


@dataclass(frozen=True)
class Judgement:
    """How a position was decided: the words, and the numbers for the line from 0 to 1."""

    headline: str
    detail: str
    chance: float | None = None  # min(1, p/q)
    draw: float | None = None


def acceptance(p: float, q: float) -> float:
    """min(1, p/q): the chance that a proposed token is kept. 0 where the draft could not have proposed it."""
    return min(1.0, p / q) if q > 0 else 0.0


def residual(pairs: Sequence[tuple[float, float]], overlap: float) -> list[float]:
    """max(0, p - q) / (1 - sum min(p, q)) of some tokens, given as (p, q), and the overlap of the whole vocabulary.

    1 - overlap equals the sum of max(0, p - q) over all tokens, so that of some cannot be more; where
    rounding says otherwise the larger of the two divides. What the result lacks to 1 lies on tokens that
    are not listed. Nothing is left over (all zero) where p and q agree.
    """
    left = [max(0.0, p - q) for p, q in pairs]
    total = max(1.0 - overlap, sum(left))
    return [value / total if total > 1e-9 else 0.0 for value in left]


def candidates(
    token: TraceToken, drawn: TraceToken | None, overlap: float | None, most: int = MOST_BARS
) -> list[Candidate]:
    """The likeliest tokens of the position, the one that was proposed and the one that was drawn instead among them.

    `token` is the proposed one (or the drawn one itself, for a bonus), `drawn` the target's correction.
    """
    listed = {other.token_id: other for other in token.alternatives or (drawn.alternatives if drawn else ())}
    for known in (token, drawn):
        if known is not None and known.p is not None:
            q = known.q if known.q is not None else 0.0
            listed.setdefault(known.token_id, TraceAlternative(known.token_id, known.text, known.p, q))
    named = {token.token_id} | ({drawn.token_id} if drawn else set())
    ranked = sorted(listed.values(), key=lambda other: -max(other.p, other.q))
    kept = [other for place, other in enumerate(ranked) if place < most or other.token_id in named]
    left = residual([(other.p, other.q) for other in kept], overlap) if overlap is not None else [0.0] * len(kept)
    return [
        Candidate(
            other.text,
            other.p,
            other.q,
            share,
            proposed=other.token_id == token.token_id and token.fate is not Fate.BONUS,
            drawn=other.token_id == (drawn.token_id if drawn else token.token_id if token.fate is Fate.BONUS else None),
        )
        for other, share in zip(kept, left, strict=True)
    ]


def refused(told: TraceRound) -> TraceToken | None:
    """The token that was refused in the round, if one was."""
    return next((token for token in told.tokens if token.fate is Fate.REJECTED), None)


def corrected(told: TraceRound) -> TraceToken | None:
    """The token that the target drew instead of a refused one."""
    return next((token for token in told.tokens if token.fate is Fate.CORRECTED), None)


def telling_slot(told: TraceRound) -> int:
    """The place in the round that is most worth looking at: where it was refused, else the last one."""
    return next((i for i, token in enumerate(told.tokens) if token.fate is Fate.REJECTED), max(0, len(told.tokens) - 1))


def judgement(token: TraceToken, told: TraceRound, *, greedy: bool) -> Judgement:
    """What happened to the token and why, in words with its numbers."""
    if token.fate is Fate.DISCARDED:
        stopped = refused(told) is None
        why = "the answer had ended before it" if stopped else "a token before it was refused"
        return Judgement(
            "never judged", f"It was proposed, but {why}, so nobody looked at it: there is no p and no draw."
        )
    if token.fate is Fate.BONUS:
        first = (
            "There was nothing to judge in this round" if not told.num_draft_tokens else "Every proposed token was kept"
        )
        return Judgement(
            "drawn by the target",
            f"{first}, so the target adds one token of its own, for which its forward pass was already paid. "
            "The draft proposed nothing here: there is no q.",
        )
    if token.fate is Fate.CORRECTED:
        source = "the target's best token" if greedy else "what p has more of than q (the residual)"
        return Judgement(
            "drawn instead of the refused token", f"It comes from {source}, which keeps the output the target's."
        )
    return _proposed(token, greedy)


def _proposed(token: TraceToken, greedy: bool) -> Judgement:
    if token.p is None or token.q is None:
        return Judgement(str(token.fate), "This trace holds no probabilities for it.")
    chance = acceptance(token.p, token.q)
    kept = token.fate is Fate.ACCEPTED
    if greedy:
        agreed = "chose the same token" if kept else "chose another token"
        detail = f"At temperature 0 p and q are one-hot: 1 for the best token, 0 for all others. The target {agreed}."
        return Judgement(str(token.fate), detail, chance, token.u)
    if token.u is None:
        return Judgement(str(token.fate), f"min(1, p/q) = {short(chance)}", chance)
    sign = "<" if token.u < chance else "≥"
    words = f"u = {short(token.u)} {sign} {short(chance)}: {token.fate}"
    if token.p >= token.q:
        detail = "The target thinks at least as much of it as the draft does (p ≥ q), so it is always kept."
    else:
        detail = (
            f"The draft overrates it: kept with a chance of p/q = {short(token.p)}/{short(token.q)} = {short(chance)}."
        )
    return Judgement(words, detail, chance, token.u)


def short(value: float) -> str:
    """'.31', '1', '.0004': two telling digits of a probability."""
    if value >= 0.9995:
        return "1"
    if value <= 0:
        return "0"
    digits = 2 if value >= 0.1 else 3 if value >= 0.01 else 4
    text = f"{value:.{digits}f}"
    return text.removeprefix("0") if float(text) else f"{value:.0e}"


def visible(text: str) -> str:
    """The text of a token with its white space made visible, in quotation marks; not escaped."""
    return tokens.plainly(text).replace(" ", "␣") if text else tokens.plainly(text)


def counters(rounds: Iterable[TraceRound]) -> dict[str, str]:
    """What has come to pass so far: counts and rates as shown to people."""
    counts = count_rounds(rounds)
    examined = counts.accepted + counts.rejected
    rates = counts.rates()
    return {
        "accepted / examined": f"{counts.accepted} / {examined}"
        + (f" = {short(rates['per_examined'])}" if examined else ""),
        "accepted / proposed": f"{counts.accepted} / {counts.drafted}"
        + (f" = {short(rates['per_proposed'])}" if counts.drafted else ""),
        "tokens": f"{counts.emitted}",
        "target forwards": f"{counts.rounds}",
        "tau": f"{rates['tau']:.2f}" if counts.rounds else "–",
    }


def probability_bars(shown: Sequence[Candidate], tone: str, *, draft: bool = True) -> go.Figure:
    """p and q of each candidate as paired bars; q is left out where nothing was proposed."""
    figure = _figure(
        "p and q of the likeliest tokens" if draft else "p of the likeliest tokens", len(shown), tone, 2 if draft else 1
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
    """The residual distribution, from which a refused token is replaced; the drawn one is marked."""
    some = [c for c in shown if c.residual > 0 or c.drawn]
    figure = _figure("Residual, max(0, p - q) made to sum to 1", len(some), tone, 1)
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
    return _named(figure, places, names, "probability of replacing the refused token")


def marks(shown: Sequence[Candidate]) -> str:
    """What the signs beside the bars mean, those that are there."""
    told = [
        ("?", "proposed by the draft", any(c.proposed for c in shown)),
        ("◀", "drawn by the target", any(c.drawn for c in shown)),
    ]
    return ", ".join(f"{sign} {words}" for sign, words, there in told if there) + "."


def unlisted(shown: Sequence[Candidate]) -> str:
    """How much of the residual lies on tokens that the trace does not hold; nothing if it is next to none."""
    rest = 1 - sum(c.residual for c in shown)
    return f"{rest:.0%} of the residual lies on tokens that this trace does not list." if rest > 0.005 else ""


def alternatives_missing(again: str) -> str:
    """Why there are no other bars, and `again`, what makes them."""
    return f"This trace holds the token's own p and q only, no other tokens. {again}".rstrip()


def plain_number(text: str) -> str:
    """'0' for '0.0': one temperature, one spelling. What is no number stays."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def draw_line(told: Judgement, tone: str) -> go.Figure:
    """The draw u on the line from 0 to 1, of which [0, min(1, p/q)) accepts."""
    chance, colours = told.chance or 0.0, theme.TONES[tone]
    figure = go.Figure(layout={"template": theme.template(tone), "title": told_title(told)})
    for start, end, name, fate in ((0.0, chance, "accepts", Fate.ACCEPTED), (chance, 1.0, "refuses", Fate.REJECTED)):
        if end > start:
            figure.add_shape(
                type="rect", x0=start, x1=end, y0=0, y1=1, fillcolor=MARKS[fate].tint, opacity=0.45, line_width=0
            )
            figure.add_annotation(x=(start + end) / 2, y=0.5, text=name if end - start > 0.12 else "", showarrow=False)
    if told.draw is not None:
        figure.add_scatter(
            x=[told.draw, told.draw],
            y=[-0.25, 1.25],
            mode="lines",
            name="u",
            line={"color": colours.text, "width": 3},
            hovertemplate="u = %{x:.4f}<extra></extra>",
            showlegend=False,
        )
        figure.add_annotation(x=told.draw, y=1.3, yanchor="bottom", text=f"u = {short(told.draw)}", showarrow=False)
    figure.update_xaxes(range=[-0.01, 1.01], title="draw, uniform in [0, 1)", showgrid=False)
    figure.update_yaxes(visible=False, range=[-0.3, 1.9], fixedrange=True)
    figure.update_layout(height=190, margin={"t": 46, "b": 44, "l": 16, "r": 16})
    return figure


def told_title(told: Judgement) -> str:
    """The title of the line: what the draw is compared with."""
    return f"Draw against min(1, p/q) = {short(told.chance or 0.0)}"


def _label(candidate: Candidate) -> str:
    """A tick: the token in visible form, safe in Plotly, with a mark if it was proposed or drawn."""
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
