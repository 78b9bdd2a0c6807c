"""How often our intervals cover the truth, on simulated prompts that are as uneven as measured ones.

    python benchmarks/coverage.py                     # 4,000 trials per case: two minutes on one core
    python benchmarks/coverage.py --trials 1000

Cases: a speed-up over 2 to 12 timed prompts (the speed-up differs between prompts with a log spread of 5 or 10%, and
the clock adds skewed noise), a rate over 6 to 60 prompts (the prompts' rates follow a beta distribution, their lengths
a skewed one), a paired difference, and an effect pooled over three domains. Methods: `plain` is the percentile
bootstrap; `expanded` widens its levels by Student's t, as `engine.measure.statistics` does; `stretched` multiplies the
distances from the estimate by the same factor, on the log scale for ratios.

Exits with status 1 if the method in use covers less than 93% or more than 97%, beyond the simulation's own error, of a
speed-up at six or more prompts or of a rate at sixteen or more. With fewer prompts it covers less; the table shows how
much, and `engine.measure.speed_words` calls nothing faster on fewer than six.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from engine.measure.statistics import expanded_level

Floats = NDArray[np.float64]
Sides = tuple[list[Floats], float]  # numerators and denominators [prompt], and the true value
WAYS = ("plain", "expanded", "stretched")
_DRAWS = 2000


def speedup(rng: np.random.Generator, n: int, spread: float) -> Sides:
    """Seconds of plain and speculative decoding of 48 tokens a prompt, with noise that only ever slows down."""
    plain = 2.0 * np.exp(rng.normal(0, 0.02, n)) + rng.gamma(1.0, 0.03, n)
    gain = 1.15 * np.exp(rng.normal(0, spread, n))
    fast = 2.0 / gain + rng.gamma(1.0, 0.03, n)
    return [plain, np.ones(n), fast, np.ones(n)], 2.0 * math.exp(0.02**2 / 2) + 0.03


def speedup_truth(spread: float) -> float:
    """The ratio of expected seconds."""
    plain = 2.0 * math.exp(0.02**2 / 2) + 0.03
    return plain / (2.0 / 1.15 * math.exp(spread**2 / 2) + 0.03)


def rate(rng: np.random.Generator, n: int, mean: float) -> Sides:
    """Accepted and judged tokens: lengths of 8 to 96, most of them cut at 96; rates spread by 0.15 or so."""
    lengths = np.minimum(96, np.round(8 + rng.gamma(1.5, 40, n)))
    own = rng.beta(mean * 8, (1 - mean) * 8, n)
    return [rng.binomial(lengths.astype(int), own).astype(float), lengths], mean


def drawn(values: Callable[[Floats], Floats], n: int, seed: int) -> Floats:
    """`values` of the weights of `_DRAWS` bootstrap samples."""
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_DRAWS).astype(float)
    return values(weights)


def intervals(
    value: float, draws: Floats, n: int, *, strata: int = 1, log: bool = False
) -> dict[str, tuple[float, float]]:
    """The interval of each way."""
    intervals = {}
    for way, level in (("plain", 0.95), ("expanded", expanded_level(0.95, n, strata))):
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        intervals[way] = (float(low), float(high))
    factor = math.sqrt(n / (n - strata)) * scipy.stats.t.ppf(0.975, n - strata) / scipy.stats.norm.ppf(0.975)
    low, high = intervals["plain"]
    if log:
        intervals["stretched"] = (value * (low / value) ** factor, value * (high / value) ** factor)
    else:
        intervals["stretched"] = (value - factor * (value - low), value + factor * (high - value))
    return intervals


def case_speedup(n: int, spread: float) -> Callable[[int], Any]:
    def trial(seed: int) -> tuple[float, dict[str, tuple[float, float]]]:
        (a, _, b, _), _ = speedup(np.random.default_rng([1, seed]), n, spread)
        return speedup_truth(spread), intervals(
            a.sum() / b.sum(), drawn(lambda w: (w @ a) / (w @ b), n, seed), n, log=True
        )

    return trial


def case_rate(n: int, mean: float) -> Callable[[int], Any]:
    def trial(seed: int) -> tuple[float, dict[str, tuple[float, float]]]:
        (top, bottom), truth = rate(np.random.default_rng([2, seed]), n, mean)
        return truth, intervals(top.sum() / bottom.sum(), drawn(lambda w: (w @ top) / (w @ bottom), n, seed), n)

    return trial


def case_difference(n: int) -> Callable[[int], Any]:
    """Two drafts on the same prompts, whose acceptance has the prompts in common."""

    def trial(seed: int) -> tuple[float, dict[str, tuple[float, float]]]:
        rng = np.random.default_rng([3, seed])
        lengths = np.minimum(96, np.round(8 + rng.gamma(1.5, 40, n)))
        a = rng.beta(2.4, 5.6, n)
        b = a + (1 - a) * rng.beta(2, 8, n)  # the mean of b - a is 0.7 * 0.2
        tops = [rng.binomial(lengths.astype(int), own).astype(float) for own in (a, b)]
        value = (tops[1].sum() - tops[0].sum()) / lengths.sum()
        return 0.14, intervals(value, drawn(lambda w: (w @ (tops[1] - tops[0])) / (w @ lengths), n, seed), n)

    return trial


def case_pooled(n: int) -> Callable[[int], Any]:
    """The mean rate of three domains, each domain's prompts drawn on their own."""

    def trial(seed: int) -> tuple[float, dict[str, tuple[float, float]]]:
        rng = np.random.default_rng([4, seed])
        sides = [rate(rng, n, mean)[0] for mean in (0.2, 0.4, 0.6)]
        value = float(np.mean([top.sum() / bottom.sum() for top, bottom in sides]))
        draws = np.mean(
            [drawn(lambda w, t=t, b=b: (w @ t) / (w @ b), n, 10 * seed + i) for i, (t, b) in enumerate(sides)], axis=0
        )
        return 0.4, intervals(value, draws, 3 * n, strata=3)

    return trial


def cases() -> dict[str, tuple[int, Callable[[int], Any]]]:
    """Name -> prompts and one trial."""
    cases: dict[str, tuple[int, Callable[[int], Any]]] = {}
    for n in (2, 3, 4, 6, 8, 12):
        for spread in (0.05, 0.10):
            cases[f"speed-up, spread {spread:.0%}, n = {n}"] = n, case_speedup(n, spread)
    for n in (6, 16, 30, 60):
        for mean in (0.2, 0.5, 0.8):
            cases[f"rate {mean:g}, n = {n}"] = n, case_rate(n, mean)
    for n in (16, 30, 60):
        cases[f"paired difference, n = {n}"] = n, case_difference(n)
    for n in (12, 40):
        cases[f"rate pooled over three domains, n = {n} each"] = n, case_pooled(n)
    return cases


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4000)
    trials = parser.parse_args().trials
    bad = 0
    error = 1.96 * math.sqrt(0.95 * 0.05 / trials)
    print(f"share of {trials:,} intervals of 95% that hold the truth (+- {error:.1%})")
    print(f"{'case':<48}" + "".join(f"{way:>11}" for way in WAYS))
    for name, (n, trial) in cases().items():
        hits = dict.fromkeys(WAYS, 0)
        for seed in range(trials):
            truth, intervals = trial(seed)
            for way, (low, high) in intervals.items():
                hits[way] += low <= truth <= high
        shares = {way: hits[way] / trials for way in WAYS}
        off = n >= (6 if name.startswith("speed") else 16) and not 0.93 - error <= shares["expanded"] <= 0.97 + error
        bad += off
        print(
            f"{name:<48}" + "".join(f"{shares[way]:>10.1%} " for way in WAYS) + (" outside 93 to 97%" if off else ""),
            flush=True,
        )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
