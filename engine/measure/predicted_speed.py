"""The speed-up that each gamma should give, from tokens per round and timed rounds, and the best gamma by it.

speed-up(gamma) = tokens per round(gamma) / cost(gamma), cost = seconds of a round / seconds of a plain step

The cost is the median over the turns of a timing, in each of which the two were timed one after the other: what slows
a machine down for a while slows both.
Tokens per round come from the prompts, costs from the turns; both are resampled, the prompts alike for
all gammas and the turns too, so that what gammas share does not blur which is better. A batch of rows that are all
still going is meant: at batch size b a plain step writes b tokens and a round b times the tokens per round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.measure.cost_model import expected_tokens
from engine.measure.statistics import SAMPLES, percentile_interval
from engine.records.interval import Interval

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RoundCosts:
    """Seconds of a plain step and of a round at each gamma: [turn] each, turns of one number being neighbours in time.

    A single turn stands for a time that is known without its spread.
    """

    plain_s: ArrayLike
    round_s: Mapping[int, ArrayLike]


@dataclass(frozen=True)
class TokensPerRound:
    """Tokens that each prompt's answer has, and its rounds at each gamma: [prompt] each."""

    emitted: ArrayLike
    rounds: Mapping[int, ArrayLike]


@dataclass(frozen=True)
class GammaSpeed:
    """What one gamma should give."""

    gamma: int
    tokens: Interval
    """Tokens per round, the target's own included."""
    cost: Interval
    """A round over a plain step: the tokens per round from which it pays."""
    speedup: Interval
    """Over plain decoding."""


@dataclass(frozen=True)
class GammaChoice:
    """The best gamma, 0 for plain decoding, and what each gamma should give."""

    best: int
    by_gamma: tuple[GammaSpeed, ...]

    def at(self, gamma: int) -> GammaSpeed:
        """Raises KeyError for a gamma that was not timed."""
        return {speed.gamma: speed for speed in self.by_gamma}[gamma]


def predict_speed(tokens: TokensPerRound, costs: RoundCosts, *, samples: int = SAMPLES, seed: int = 0) -> GammaChoice:
    """The speed-up at each gamma that both have, with intervals, and the best gamma.

    Of gammas that cannot be told from the best one the smallest is taken, 0 among them: it needs the least memory and
    wastes the least. Raises ValueError if there is no common gamma, no prompt or no turn.
    """
    gammas = sorted(set(tokens.rounds) & set(costs.round_s))
    emitted, plain = _array(tokens.emitted), _array(costs.plain_s)
    if not gammas or not len(emitted) or not len(plain):
        raise ValueError("a speed-up needs a gamma with rounds and times, a prompt and a turn")
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(emitted), np.full(len(emitted), 1 / len(emitted)), size=samples).astype(np.float64)
    turns = rng.integers(0, len(plain), (samples, len(plain)))
    clusters = len(emitted) if len(plain) == 1 else min(len(emitted), len(plain))
    speeds, draws = [], {0: np.ones(samples)}
    for gamma in gammas:
        rounds, over_plain = _array(tokens.rounds[gamma]), _array(costs.round_s[gamma]) / plain
        token_draws = (weights @ emitted) / (weights @ rounds)
        cost_draws = np.median(over_plain[turns], axis=1)
        per_round, cost = emitted.sum() / rounds.sum(), np.median(over_plain)
        draws[gamma] = token_draws / cost_draws
        speeds.append(
            GammaSpeed(
                gamma,
                percentile_interval(float(per_round), token_draws, len(emitted)),
                percentile_interval(float(cost), cost_draws, len(plain)),
                percentile_interval(float(per_round / cost), draws[gamma], clusters),
            )
        )
    values = {0: 1.0, **{speed.gamma: speed.speedup.value for speed in speeds}}
    return GammaChoice(smallest_of_the_best(values, draws, clusters), tuple(speeds))


def smallest_of_the_best(values: Mapping[int, float], draws: Mapping[int, _Floats], clusters: int) -> int:
    """The smallest gamma whose speed-up is not clearly below the largest: the interval of their ratio holds 1.

    `draws`: [draw] for each gamma of `values`, over the same resamples; `clusters`: what was resampled.
    """
    best = max(sorted(values), key=lambda gamma: values[gamma])
    for gamma in sorted(values):
        ratio = percentile_interval(values[best] / values[gamma], draws[best] / draws[gamma], clusters)
        if gamma == best or not ratio.low > 1:
            return gamma
    return best


def _array(values: ArrayLike) -> _Floats:
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def acceptance_for(tokens: float, gamma: int) -> float:
    """The acceptance at which gamma proposals give that many tokens per round, if it were the same at every place.

    The inverse of `cost_model.expected_tokens` in alpha. Infinity where even full acceptance gives fewer.
    """
    if tokens <= 1:
        return 0.0
    if tokens > gamma + 1:
        return math.inf
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if expected_tokens(middle, gamma) >= tokens else (middle, high)
    return high


def draft_seconds_for(tokens: float, gamma: int, plain_s: float, verify_s: float, overhead_s: float) -> float:
    """The longest that one draft forward may take for a round to pay; negative where none would be short enough."""
    return (tokens * plain_s - verify_s - overhead_s) / gamma


def ranges(gammas: Mapping[int, int]) -> list[tuple[int, int, int]]:
    """(first batch size, last batch size, gamma) from the best gamma at each measured batch size.

    A size between two measured ones gets the gamma of the larger one, which as a rule is the smaller gamma; sizes with
    the same gamma are put together. The last range ends with the largest measured size.
    """
    spans: list[tuple[int, int, int]] = []
    first = 1
    for size in sorted(gammas):
        if spans and spans[-1][2] == gammas[size]:
            spans[-1] = (spans[-1][0], size, gammas[size])
        else:
            spans.append((first, size, gammas[size]))
        first = size + 1
    return spans


def rounds_table(by_gamma: Mapping[int, Sequence[tuple[float, float]]]) -> TokensPerRound:
    """From (emitted, rounds) of each prompt at each gamma, the prompts in one order."""
    first = next(iter(by_gamma.values()))
    return TokensPerRound(
        [emitted for emitted, _ in first], {gamma: [rounds for _, rounds in rows] for gamma, rows in by_gamma.items()}
    )
