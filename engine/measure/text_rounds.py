"""The rounds that a server makes over a text of the target's: what it will count, before it is started.

A server that proposes the draft's likeliest token keeps it exactly where it is the token that the target drew. So on a
text of the target's, at any temperature, every fate follows from the text: nothing is decoded and nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TextRounds:
    """The rounds over one text. `accepted_at[i]`: rounds in which the proposed token i was accepted."""

    rounds: int
    proposed: int
    accepted: int
    accepted_at: tuple[int, ...]
    emitted: int


def rounds_over(hits: Sequence[bool], gamma: int) -> TextRounds:
    """Walk over a text of which `hits[t]` says whether token t is the draft's likeliest one there.

    A round proposes `gamma` tokens, fewer where less of the text is left: a text of n tokens is asked for as n, and the
    last of a round is the target's own. Its tokens count up to the first that is no hit. Raises ValueError if gamma is
    not positive.
    """
    if gamma < 1:
        raise ValueError(f"gamma must be at least 1, got {gamma}")
    rounds = proposed = accepted = start = 0
    accepted_at = [0] * gamma
    while start < len(hits):
        width = min(gamma, len(hits) - start - 1)
        kept = 0
        while kept < width and hits[start + kept]:
            accepted_at[kept] += 1
            kept += 1
        rounds, proposed, accepted, start = rounds + 1, proposed + width, accepted + kept, start + kept + 1
    return TextRounds(rounds, proposed, accepted, tuple(accepted_at), len(hits))
