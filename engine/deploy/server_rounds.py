"""The rounds that a server makes over a text of the target's, by the rule of that server.

Given a text that the target wrote, the fate of a proposal there is a coin of known chance: 1 or 0 for a server that
proposes the draft's likeliest token, which it keeps exactly where it is the token written, and min(1, q(x) / p(x)) at
the token x for one that draws from q. So the counts of a whole text are expected values of a walk over it, and nothing
is decoded. With chances of 0 and 1 they are the very counts that the server will report for that text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerRule:
    """How a server counts: what no rate says, and shifts every one of them by a little.

    Both servers take the first token of an answer from the pass over the prompt, without a round.
    `stops_at_limit`: proposals never reach beyond the tokens that were asked for, less the target's own one. Else every
    round proposes gamma tokens, and those past the limit are counted like others.
    """

    stops_at_limit: bool


@dataclass(frozen=True)
class ExpectedRounds:
    """Counts over one text, whole numbers where every chance is 0 or 1.

    `rounds` are those that proposed something. `open`: proposals behind the end of the text, of which it does not tell
    the fate; they are counted as proposed, and as refused.
    """

    rounds: float
    proposed: float
    accepted: float
    accepted_at: tuple[float, ...]
    open: float


def expected_rounds(chances: Sequence[float], gamma: int, *, limit: int, rule: ServerRule) -> ExpectedRounds:
    """Walk over a text of which `chances[t]` is the chance that its token t, if proposed, is kept.

    `limit`: tokens that the server is asked for. The text may be longer: what lies behind decides the fates of
    proposals that reach there. It may be shorter, if a token ended it. Raises ValueError for a gamma or limit below 1.
    """
    if gamma < 1 or limit < 1:
        raise ValueError(f"gamma and limit must be at least 1, got {gamma} and {limit}")
    length = len(chances)
    rounds = proposed = accepted = unknown = 0.0
    accepted_at = [0.0] * gamma
    begins = [0.0] * (min(length, limit) + 1)  # by place in the text: the chance that a round begins there
    if len(begins) > 1:
        begins[1] = 1.0
    for start in range(1, min(length, limit)):
        reached = begins[start]
        width = min(gamma, limit - start - 1) if rule.stops_at_limit else gamma
        rounds += reached if width else 0.0
        proposed += reached * width
        for place in range(width + 1):
            token = start + place
            if place == width or token >= length:  # all were kept, or the text has ended
                unknown += reached * (width - place)
                kept = 0.0
            else:
                kept = reached * chances[token]
                accepted_at[place] += kept
                accepted += kept
            if token + 1 < len(begins):
                begins[token + 1] += reached - kept
            if place == width or token >= length or not kept:
                break
            reached = kept
    return ExpectedRounds(rounds, proposed, accepted, tuple(accepted_at), unknown)


def explains(recount: ExpectedRounds, rounds: int | None, proposed: int, accepted: int) -> bool:
    """Whether a server's counts are those of its own text: `recount` is of that text, with chances of 0 and 1.

    Proposals behind the end of the text may have been kept or not.
    """
    same = proposed == recount.proposed and recount.accepted <= accepted <= recount.accepted + recount.open
    return same and (rounds is None or rounds == recount.rounds)
