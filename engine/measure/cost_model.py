"""What speculation should gain: the formulas of Leviathan et al. (arXiv 2211.17192), and with measured times.

alpha is the chance that a drafted token is accepted, taken as independent from token to
token; gamma the number of tokens drafted a round; c the time of one draft forward over the
time of one target forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from engine.records.speed import GammaRow


def expected_tokens(alpha: float, gamma: int) -> float:
    """Tokens a round, (1 - alpha^(gamma+1)) / (1 - alpha): from 1 up to gamma + 1 [2211.17192, eq. 1].

    Computed as the sum of alpha^0 .. alpha^gamma, which the fraction abbreviates: exact at
    alpha = 1 and free of cancellation near it. Raises ValueError unless 0 <= alpha <= 1 and
    gamma >= 0.
    """
    _check(alpha, gamma)
    return math.fsum(alpha**power for power in range(gamma + 1))


def expected_speedup(alpha: float, gamma: int, c: float) -> float:
    """Plain decoding's time over speculative decoding's, if verifying costs as much as one plain step.

    (1 - alpha^(gamma+1)) / ((1 - alpha)(gamma c + 1)) [2211.17192, theorem 3.8].
    """
    _check_cost(c)
    return expected_tokens(alpha, gamma) / (gamma * c + 1)


def best_gamma(alpha: float, c: float, max_gamma: int = 32) -> int:
    """The gamma up to `max_gamma` with the largest expected speed-up; 0 (do not speculate) if none is above 1.

    Of equal ones the smallest, which needs the least memory and waits the least.
    """
    return max(range(max_gamma + 1), key=lambda gamma: expected_speedup(alpha, gamma, c))


def break_even_alpha(c: float, gamma: int | None = None) -> float:
    """The alpha from which speculation does not lose: at this gamma, or at the best one.

    Without `gamma` it is c itself: some gamma pays exactly if alpha > c [2211.17192,
    corollary 3.9]. With it, the smallest alpha whose speed-up is at least 1, by bisection.
    Infinity if c > 1: then no acceptance is enough.
    """
    _check_cost(c)
    if c > 1:
        return math.inf
    if gamma is None:
        return c
    if gamma < 1:
        raise ValueError(f"gamma must be at least 1, got {gamma}")
    return _smallest_alpha(lambda alpha: expected_speedup(alpha, gamma, c) >= 1)


def measured_speedup(
    alpha: float, gamma: int, plain_s: float, draft_s: float, verify_s: float, overhead_s: float = 0.0
) -> float:
    """Speed-up with measured seconds: one plain step, one draft step, one verification, the rest of a round.

    expected_tokens / ((gamma draft_s + verify_s + overhead_s) / plain_s). `verify_s` is of a
    pass over gamma + 1 tokens, which costs more than a plain step: that is what the plain
    formula leaves out.
    """
    if min(plain_s, draft_s, verify_s, overhead_s) < 0 or plain_s == 0:
        raise ValueError("seconds must not be negative, and those of a plain step not zero")
    round_s = gamma * draft_s + verify_s + overhead_s
    if round_s == 0:
        raise ValueError("a round that takes no time was not measured")
    return expected_tokens(alpha, gamma) * plain_s / round_s


def speedup_table(
    alpha: float,
    max_gamma: int,
    *,
    plain_s: float,
    draft_s: float,
    verify_s: Callable[[int], float],
    overhead_s: float = 0.0,
) -> list[GammaRow]:
    """A row for each gamma from 1 to `max_gamma`; `verify_s(gamma)` is of a pass over gamma + 1 tokens.

    The plain formula takes c = draft_s / plain_s. For a dict of measured times pass
    `times.__getitem__`: a gamma that was not measured is then a KeyError, not a guess.
    """
    return [
        GammaRow(
            gamma=gamma,
            expected_tokens=expected_tokens(alpha, gamma),
            formula=expected_speedup(alpha, gamma, draft_s / plain_s),
            measured=measured_speedup(alpha, gamma, plain_s, draft_s, verify_s(gamma), overhead_s),
        )
        for gamma in range(1, max_gamma + 1)
    ]


def _smallest_alpha(pays: Callable[[float], bool]) -> float:
    """Bisection of [0, 1] down to neighbouring floats; `pays` is true at 1 and does not turn back."""
    if pays(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if pays(middle) else (middle, high)
    return high


def _check(alpha: float, gamma: int) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is a probability, got {alpha}")
    if gamma < 0:
        raise ValueError(f"gamma counts tokens, got {gamma}")


def _check_cost(c: float) -> None:
    if not c >= 0:
        raise ValueError(f"c is a ratio of times, got {c}")
