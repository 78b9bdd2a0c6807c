"""Intervals and tests for rates that are ratios of sums over prompts.

The tokens of one prompt are not independent, so the prompt is what is resampled: each of
`samples` times as many prompts as there are, drawn with replacement, and the ratio of the
drawn sums taken anew (the percentile bootstrap of a ratio estimator over clusters; Efron and
Tibshirani, An Introduction to the Bootstrap, 1993). Two drafts are compared on the same
draws, which leaves out what their prompts have in common. A plain percentile interval of few
prompts is too narrow; the levels are widened as Student's t is wider than the normal
(`expanded_level`), for every interval of the project.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # scipy.stats takes half a second longer to import

from engine.records.interval import Calibration, Interval

SAMPLES = 2000  # resamples of the prompts for an interval
LEVEL = 0.95
ALARM_Z = 4.0  # of `calibration_z`: an engine without fault exceeds it once in 16,000 traces

_Floats = NDArray[np.float64]


class Resampling(TypedDict):
    """How the prompts are resampled for an interval: keywords of `bootstrap_ratio` and its like."""

    samples: int
    seed: int


@dataclass(frozen=True)
class McNemar:
    """Counts of paired yes/no outcomes of a and b, and the exact two-sided p-value."""

    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float

    def as_dict(self) -> dict[str, float | int]:
        """The fields by name."""
        return asdict(self)


def bootstrap_ratio(
    numerators: ArrayLike, denominators: ArrayLike, *, samples: int = SAMPLES, seed: int = 0, level: float = LEVEL
) -> Interval:
    """sum(numerators) / sum(denominators) with its interval, prompts resampled as clusters.

    `numerators`, `denominators`: [prompt], e.g. accepted and proposed tokens of each prompt.
    With fewer than two prompts nothing can be said about other prompts: `low` and `high` are
    NaN. A draw whose denominators sum to zero is left out; the value is NaN if all do.
    Raises ValueError for arrays that do not match or are not finite.
    """
    num, den = _prompt_arrays(numerators, denominators)
    return _bootstrap(lambda weights: _ratio(weights @ num, weights @ den), len(num), samples, seed, level)


def paired_difference(
    num_a: ArrayLike,
    den_a: ArrayLike,
    num_b: ArrayLike,
    den_b: ArrayLike,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Rate of b minus rate of a, both on the same resampled prompts.

    All arrays: [prompt], in the same order of prompts. Otherwise as `bootstrap_ratio`.
    """
    arrays = _prompt_arrays(num_a, den_a, num_b, den_b)

    def difference(weights: _Floats) -> _Floats:
        rate_a, rate_b = _two_rates(weights, arrays)
        return rate_b - rate_a

    return _bootstrap(difference, len(arrays[0]), samples, seed, level)


def paired_ratio(
    num_a: ArrayLike,
    den_a: ArrayLike,
    num_b: ArrayLike,
    den_b: ArrayLike,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Rate of b over rate of a, both on the same resampled prompts.

    A speed-up is this with a = speculative and b = plain, seconds over emitted tokens. All
    arrays: [prompt], in the same order of prompts. Otherwise as `bootstrap_ratio`.
    """
    arrays = _prompt_arrays(num_a, den_a, num_b, den_b)

    def quotient(weights: _Floats) -> _Floats:
        rate_a, rate_b = _two_rates(weights, arrays)
        return _ratio(rate_b, rate_a)

    return _bootstrap(quotient, len(arrays[0]), samples, seed, level)


def mcnemar(both: int, only_a: int, only_b: int, neither: int) -> McNemar:
    """Exact McNemar test of paired outcomes: a fair coin decides each case that only one side won.

    Counts are positions that both drafts, only a, only b or neither agreed on. Tokens of one
    prompt are correlated and the test takes them for independent, so its p-value is
    descriptive and too small; the clustered interval of `paired_difference` is the one to
    trust. Without a discordant case the p-value is 1. Raises ValueError for a negative count.
    """
    if min(both, only_a, only_b, neither) < 0:
        raise ValueError(f"counts must not be negative: {both}, {only_a}, {only_b}, {neither}")
    discordant = only_a + only_b
    fewer = min(only_a, only_b)
    # Both tails of the binomial distribution, which are equal; where both won as often, they share the middle.
    p_value = min(1.0, 2 * float(special.bdtr(fewer, discordant, 0.5))) if discordant else 1.0
    return McNemar(both, only_a, only_b, neither, p_value)


def calibration_z(accepted: ArrayLike, expected: ArrayLike) -> Calibration:
    """Does the acceptance that was sampled agree with the one expected, on the same trace?

    `accepted`: [token], whether each examined token was accepted; `expected`: [token],
    sum_v min(p, q) at its position. z = sum(accepted - expected) / sqrt(sum expected (1 -
    expected)) is standard normal for long traces of a correct engine: given what came before,
    each token is a coin of that probability, so the sum is a martingale and correlation within
    a prompt does no harm. A large |z| means a defect. Where all is certain (variance 0), z is 0
    if the counts agree and an infinity of the difference's sign if they do not.
    Raises ValueError if the arrays do not match or an expectation is no probability.
    """
    hits = np.asarray(accepted, dtype=np.float64)
    chances = np.asarray(expected, dtype=np.float64)
    if hits.ndim != 1 or hits.shape != chances.shape:
        raise ValueError(f"accepted and expected must be [token], got {hits.shape} and {chances.shape}")
    # A sum over a vocabulary in float32 may pass 1 by rounding, not by more.
    if not np.all((chances >= 0) & (chances <= 1 + 1e-3)):
        raise ValueError("expected must hold probabilities")
    chances = np.minimum(chances, 1.0)
    difference = float(np.sum(hits - chances))
    z = _standardised(difference, float(np.sum(chances * (1 - chances))))
    p_value = float(2 * special.ndtr(-abs(z)))
    return Calibration(z, p_value, len(hits), float(hits.sum()), float(chances.sum()))


def _standardised(difference: float, variance: float) -> float:
    if variance > 0:
        return difference / math.sqrt(variance)
    return 0.0 if difference == 0 else math.copysign(math.inf, difference)


def _prompt_arrays(*arrays: ArrayLike) -> list[_Floats]:
    """The arrays as float64 [prompt]; ValueError unless all are finite and of one length."""
    result = [np.asarray(array, dtype=np.float64) for array in arrays]
    if any(array.ndim != 1 or array.shape != result[0].shape for array in result):
        raise ValueError(f"each array must be [prompt] and alike, got shapes {[array.shape for array in result]}")
    if not all(np.isfinite(array).all() for array in result):
        raise ValueError("numerators and denominators must be finite: leave out what was not measured")
    return result


def _ratio(numerator: _Floats, denominator: _Floats) -> _Floats:
    """Elementwise quotient, NaN where the denominator is zero."""
    undefined = np.full_like(numerator, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator != 0)


def _two_rates(weights: _Floats, arrays: list[_Floats]) -> tuple[_Floats, _Floats]:
    num_a, den_a, num_b, den_b = (weights @ array for array in arrays)
    return _ratio(num_a, den_a), _ratio(num_b, den_b)


def _bootstrap(
    statistic: Callable[[_Floats], _Floats], n_prompts: int, samples: int, seed: int, level: float
) -> Interval:
    """`statistic` maps weights [draw, prompt] to values [draw]; all-one weights give the estimate."""
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"samples must be at least 1 and level between 0 and 1, got {samples} and {level}")
    value = float(statistic(np.ones((1, n_prompts)))[0])
    if n_prompts < 2:
        return Interval(value, math.nan, math.nan, n_prompts)
    # How often each prompt is drawn, for all draws at once.
    counts = np.random.default_rng(seed).multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=samples)
    return percentile_interval(value, statistic(counts.astype(np.float64)), n_prompts, level=level)


def percentile_interval(
    value: float, draws: _Floats, n_prompts: int, *, strata: int = 1, level: float = LEVEL
) -> Interval:
    """The interval between two percentiles of bootstrap draws [draw] of a value.

    Draws that are no number are left out; without any, or with too few prompts, `low` and `high` are NaN.
    """
    usable = draws[np.isfinite(draws)]
    if n_prompts <= strata or not len(usable):
        return Interval(value, math.nan, math.nan, n_prompts)
    wide = expanded_level(level, n_prompts, strata)
    low, high = np.quantile(usable, [(1 - wide) / 2, (1 + wide) / 2])
    return Interval(value, float(low), float(high), n_prompts)


def expanded_level(level: float, n: int, strata: int = 1) -> float:
    """The level at which percentiles of a bootstrap over `n` clusters are read to cover with probability `level`.

    Resampling n clusters misses a factor sqrt((n - 1) / n) of their spread and takes a spread that was estimated for
    one that is known. Both are made good by reading the percentiles of Phi(-sqrt(n / (n - 1)) t), t being the
    quantile of Student's t with n - 1 degrees of freedom (the expanded percentile interval: Hesterberg, What
    Teachers Should Know About the Bootstrap, The American Statistician 69, 2015). With `strata` that are
    resampled on their own, as many degrees of freedom are lost. Never wider than the draws, so a rate stays a rate.
    """
    quantile = math.sqrt(n / (n - strata)) * float(special.stdtrit(n - strata, (1 + level) / 2))
    return 1 - 2 * float(special.ndtr(-quantile))
