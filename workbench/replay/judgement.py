"""One step of a trace: how a token was judged, in words and numbers, and the candidates at its position.

A trace holds the most likely tokens of a position, not the whole vocabulary; of the rest only the total
probability is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.decode.counts import count
from engine.decode.events import Alternative, Fate, Round, Token
from workbench.shared import tokens

MOST_BARS = 10


@dataclass(frozen=True)
class Candidate:
    """A token that could have stood at a position. `residual`: its probability of replacing a rejected token."""

    text: str
    p: float
    q: float
    residual: float
    proposed: bool = False
    drawn: bool = False


@dataclass(frozen=True)
class Judgement:
    """How a position was decided, in words, and the numbers behind it."""

    headline: str
    detail: str
    chance: float | None = None  # min(1, p/q)
    draw: float | None = None  # u, uniform in [0, 1)


def residual(pairs: Sequence[tuple[float, float]], overlap: float) -> list[float]:
    """Return max(0, p - q) / (1 - sum min(p, q)) for some tokens, given as (p, q).

    `overlap` is sum min(p, q) over the whole vocabulary, so 1 - overlap is the residual's total mass. Rounding
    can make the listed tokens exceed it: then their own sum is the divisor. The result sums to less than 1 by
    the mass on unlisted tokens, and is all zero where p and q agree.
    """
    excess = [max(0.0, p - q) for p, q in pairs]
    total = max(1.0 - overlap, sum(excess))
    return [value / total if total > 1e-9 else 0.0 for value in excess]


def candidates(token: Token, drawn: Token | None, overlap: float | None, most: int = MOST_BARS) -> list[Candidate]:
    """The most likely tokens at the position, including the proposed one and the one drawn in its place.

    `token` is the proposed token (or, for a bonus, the drawn one); `drawn` is the target's correction.
    """
    others = {other.token_id: other for other in token.alternatives or (drawn.alternatives if drawn else ())}
    for known in (token, drawn):
        if known is not None and known.target_prob is not None:
            alternative = Alternative(known.token_id, known.target_prob, known.draft_prob or 0.0, known.text)
            others.setdefault(known.token_id, alternative)
    bonus = token.fate is Fate.BONUS
    proposed_id = None if bonus else token.token_id
    drawn_id = drawn.token_id if drawn else token.token_id if bonus else None
    ranked = sorted(others.values(), key=lambda other: -max(other.target_prob, other.draft_prob))
    kept = [o for place, o in enumerate(ranked) if place < most or o.token_id in (proposed_id, drawn_id)]
    pairs = [(other.target_prob, other.draft_prob) for other in kept]
    shares = residual(pairs, overlap) if overlap is not None else [0.0] * len(kept)
    return [
        Candidate(o.text, o.target_prob, o.draft_prob, share, o.token_id == proposed_id, o.token_id == drawn_id)
        for o, share in zip(kept, shares, strict=True)
    ]


def rejected(current: Round) -> Token | None:
    """The token that was rejected in the round, if any."""
    return next((token for token in current.tokens if token.fate is Fate.REJECTED), None)


def corrected(current: Round) -> Token | None:
    """The token that the target drew in place of a rejected one, if any."""
    return next((token for token in current.tokens if token.fate is Fate.CORRECTED), None)


def default_slot(current: Round) -> int:
    """The place in the round to show first: the rejected token, or the last one."""
    fates = [token.fate for token in current.tokens]
    return fates.index(Fate.REJECTED) if Fate.REJECTED in fates else max(0, len(fates) - 1)


def judgement(token: Token, current: Round, *, greedy: bool) -> Judgement:
    """What happened to the token and why, in words with its numbers."""
    if token.fate is Fate.DISCARDED:
        why = "a token before it was rejected" if current.rejected else "the answer had already ended"
        return Judgement("never judged", f"It was proposed, but {why}, so there is no p and no draw.")
    if token.fate is Fate.BONUS:
        why = (
            "Every proposed token was accepted, so the target adds one token of its own at no extra cost: its forward "
            "pass already gave the distribution."
            if current.num_draft_tokens
            else "This round had nothing to judge: its forward pass was made for this token alone, as without a draft."
        )
        return Judgement("drawn by the target", f"{why} The draft proposed nothing here, so there is no q.")
    if token.fate is Fate.CORRECTED:
        source = "It is the target's most likely token" if greedy else "It is drawn from the residual, max(0, p - q)"
        return Judgement(
            "drawn in place of the rejected token", f"{source}, which keeps the output distribution the target's."
        )
    return _proposed(token, greedy)


def _proposed(token: Token, greedy: bool) -> Judgement:
    p, q, chance = token.target_prob, token.draft_prob, token.acceptance_prob
    fate = str(token.fate)
    if p is None or q is None or chance is None:
        return Judgement(fate, "This trace holds no probabilities for it.")
    if greedy:
        choice = "the same token" if token.fate is Fate.ACCEPTED else "another token"
        detail = f"At temperature 0, p and q are 1 for the best token and 0 for all others. The target chose {choice}."
        return Judgement(fate, detail, chance, token.uniform)
    if token.uniform is None:
        return Judgement(fate, f"min(1, p/q) = {short(chance)}", chance)
    digits = judged_digits(token.uniform, chance)
    if p >= q:
        detail = "The target finds it at least as likely as the draft does (p ≥ q), so it is always accepted."
    else:
        odds = f"{short(p, digits)}/{short(q, digits)} = {short(chance, digits)}"
        detail = f"The draft overestimates it, so it is accepted with probability p/q = {odds}."
    sign = "<" if token.uniform < chance else "≥"
    compared = f"u = {short(token.uniform, digits)} {sign} {short(chance, digits)}"
    return Judgement(f"{compared}: {fate}", detail, chance, token.uniform)


def judged_digits(draw: float | None, chance: float | None) -> int:
    """Significant digits that show whether a draw lies below its chance: two, or more where both would read alike."""
    return tokens.digits_apart(draw, chance, short, 2)


def short(value: float, digits: int = 2) -> str:
    """'.31', '.031', '1', '4.0e-04': a probability with that many significant digits; one below 1 never reads as 1."""
    if value <= 0:
        return "0"
    if value < 0.001:
        return f"{value:.{digits - 1}e}"
    places = digits + (value < 0.1) + (value < 0.01)
    text = next(
        (text for more in range(places, places + 9) if float(text := f"{value:.{more}f}") < 1), "1"
    )  # what rounding in float32 leaves of 1 is 1
    return text.removeprefix("0")


def visible(text: str) -> str:
    """The text of a token with its white space made visible, in quotation marks; not escaped."""
    return tokens.plainly(text).replace(" ", "␣") if text else tokens.plainly(text)


def counters(rounds: Sequence[Round]) -> dict[str, str]:
    """Counts and rates of these rounds, by label."""
    counts = count(rounds)
    examined = counts.accepted + counts.rejected
    rates = counts.rates()

    def share(total: int, rate: str) -> str:
        return f"{counts.accepted} / {total}" + (f" = {short(rates[rate])}" if total else "")

    return {
        "accepted / examined": share(examined, "per_examined"),
        "accepted / proposed": share(counts.drafted, "per_proposed"),
        "tokens": f"{counts.emitted}",
        "target forwards": f"{counts.rounds}",
        "tau": f"{rates['tau']:.2f}" if counts.rounds else "–",
    }
