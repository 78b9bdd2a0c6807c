"""What the Learn page computes: a worked round, what other systems report, the expected speed-up. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from engine.decode.counts import Counts
from engine.decode.events import Fate
from engine.measure.cost_model import best_gamma, expected_speedup
from engine.measure.definitions import OTHERS
from workbench.replay.judgement import residual, short
from workbench.shared import theme

TOPICS = {
    "words": "Words",
    "round": "How a round works",
    "rates": "Six acceptance rates",
    "losses": "Losses",
    "modes": "How a draft learns",
    "speed": "Is it faster?",
    "traps": "Traps",
    "statistics": "Statistics",
}


@dataclass(frozen=True)
class Step:
    """One token of the worked round."""

    word: str
    fate: Fate
    explanation: str


EXAMPLE_WORDS = ("cell", "gene", "leaf", "root")
EXAMPLE_P = ((0.50, 0.30, 0.15, 0.05), (0.10, 0.60, 0.20, 0.10), (0.25, 0.25, 0.25, 0.25), (0.40, 0.40, 0.10, 0.10))
EXAMPLE_Q = ((0.40, 0.40, 0.10, 0.10), (0.50, 0.30, 0.10, 0.10), (0.30, 0.30, 0.20, 0.20))
EXAMPLE_PROPOSED = (0, 0, 2)
EXAMPLE_DRAWS = (0.83, 0.41, 0.22, 0.55)


def worked_round(
    p: Sequence[Sequence[float]] = EXAMPLE_P,
    q: Sequence[Sequence[float]] = EXAMPLE_Q,
    proposed: Sequence[int] = EXAMPLE_PROPOSED,
    draws: Sequence[float] = EXAMPLE_DRAWS,
) -> list[Step]:
    """A round over four words, worked out by the rule that `engine.decode.speculative.judge` follows.

    `p`: gamma + 1 rows, `q`: gamma rows, `draws`: gamma + 1 numbers, the last for the target's own token.
    """
    steps: list[Step] = []
    for place, word in enumerate(proposed):
        chance = min(1.0, p[place][word] / q[place][word])
        ratio = f"p = {short(p[place][word])}, q = {short(q[place][word])}, min(1, p/q) = {short(chance)}"
        if draws[place] < chance:
            steps.append(
                Step(EXAMPLE_WORDS[word], Fate.ACCEPTED, f"{ratio}; u = {short(draws[place])} is below it: kept.")
            )
            continue
        steps.append(
            Step(EXAMPLE_WORDS[word], Fate.REJECTED, f"{ratio}; u = {short(draws[place])} is not below it: refused.")
        )
        after = [
            Step(EXAMPLE_WORDS[w], Fate.DISCARDED, "It followed the refused token, so nobody judges it.")
            for w in proposed[place + 1 :]
        ]
        return [*steps, *after, _correction(p[place], q[place], draws[-1])]
    drawn = _inverse(p[len(proposed)], draws[-1])
    return [
        *steps,
        Step(EXAMPLE_WORDS[drawn], Fate.BONUS, "Everything was kept: the target adds a token drawn from its own p."),
    ]


def _correction(p: Sequence[float], q: Sequence[float], draw: float) -> Step:
    pairs = list(zip(p, q, strict=True))
    left = residual(pairs, sum(min(pair) for pair in pairs))
    drawn = _inverse(left, draw)
    listed = ", ".join(f"{word} {short(share)}" for word, share in zip(EXAMPLE_WORDS, left, strict=True))
    return Step(
        EXAMPLE_WORDS[drawn],
        Fate.CORRECTED,
        f"Drawn from what p has more of than q, max(0, p - q) scaled to sum to 1: {listed}. "
        f"With u = {short(draw)} that gives this word.",
    )


def _inverse(weights: Sequence[float], draw: float) -> int:
    """The index whose share of the cumulative sum holds the draw."""
    threshold, reached = draw * sum(weights), 0.0
    for index, weight in enumerate(weights):
        reached += weight
        if threshold < reached:
            return index
    return len(weights) - 1


# The example trace: of 100 rounds of gamma 4, how many kept 0, 1, 2, 3 and all 4 proposed tokens.
EXAMPLE_LENGTHS = (30, 20, 15, 15, 20)


def counts_of(lengths: Sequence[int]) -> Counts:
    """A trace added up from its histogram of accepted lengths; the last entry counts rounds without refusal."""
    gamma, rounds = len(lengths) - 1, sum(lengths)
    accepted = sum(kept * many for kept, many in enumerate(lengths))
    refused = rounds - lengths[-1]
    return Counts(rounds, gamma * rounds, accepted, refused, gamma * rounds - accepted - refused, accepted + rounds)


def as_others_report(counts: Counts) -> pd.DataFrame:
    """What other systems would print for one and the same trace."""
    values = counts.as_others_report()
    rows = [
        {"system": other.system, "prints": f"{other.name}: {other.formula}", "value": values[key]}
        for key, other in OTHERS.items()
    ]
    return pd.DataFrame(rows)


def speedup_chart(alpha: float, gamma: int, c: float, tone: str, most: int = 16) -> go.Figure:
    """The expected speed-up at each gamma, the current and the best one marked, and the line of plain decoding."""
    places = list(range(1, most + 1))
    values = [expected_speedup(alpha, place, c) for place in places]
    figure = go.Figure(layout={"template": theme.template(tone)})
    figure.update_layout(
        title=f"Expected speed-up (times) at alpha = {alpha:g}, c = {c:g}", height=360, showlegend=True
    )
    figure.add_hline(y=1, line={"color": theme.TONES[tone].faint, "dash": "dash"}, annotation_text="plain decoding")
    figure.add_scatter(x=places, y=values, mode="lines+markers", name="speed-up", line={"color": theme.PALETTE[0]})
    best = best_gamma(alpha, c, most)
    for place, name, symbol, colour in ((gamma, "your gamma", "square", 1), (best, "best gamma", "star", 2)):
        if place:
            figure.add_scatter(
                x=[place],
                y=[expected_speedup(alpha, place, c)],
                mode="markers",
                name=name,
                marker={"symbol": symbol, "size": 15, "color": theme.PALETTE[colour]},
            )
    figure.update_xaxes(title="gamma (tokens proposed per round)", dtick=1)
    figure.update_yaxes(title="speed-up (times)", rangemode="tozero")
    return figure


@dataclass(frozen=True)
class Passage:
    """A titled piece of prose; `answer` is what Draftbench does about a trap."""

    title: str
    text: str
    answer: str = ""


def passages(prose: str) -> list[Passage]:
    """The blocks of a text of `workbench.learn.prose`, their lines joined."""
    blocks = []
    for block in prose.strip().split("\n\n"):
        title, _, rest = block.partition("\n")
        text, _, answer = rest.partition("\n-> ")
        blocks.append(Passage(title, " ".join(text.split()), " ".join(answer.split())))
    return blocks
