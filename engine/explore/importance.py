"""How much of the differences between runs each setting explains, and where the runs cannot decide it.

The share of a setting alone is the first-order effect of a functional analysis of variance: how far the means of its
values lie apart, over how far the runs do, as epsilon squared, which is corrected for chance [Kelley 1935; for
hyperparameters Hutter et al., "An Efficient Approach for Assessing Hyperparameter Importance", 2014]. Its interval is
that of the noncentral F distribution [Steiger, "Beyond the F test", 2004], which holds its 95% better than a bootstrap
over so few runs (tests/unit/explore/test_importance.py). A setting that never changes by itself cannot be told apart:
its effect is that of the settings it changes with. An effect that is no chance is large or small by its share alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from engine.records.interval import Interval

MOST_LEVELS = 6  # of numbers with more different values, as many equally full ranges are the values
_RANGES = 4
LARGE = 0.1  # share of the variance between the runs from which an effect is called large
SURE = 0.025  # chance of a setting without effect to count as one that has one
Verdict = Literal["large effect", "small effect", "no effect seen", "cannot be told apart"]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """One setting, or several that only ever change together.

    `alone`: share of the variance between the runs that it explains, with its interval (`n_prompts` counts runs).
    `difference`: the largest difference between the means of two of its values, in the figure's own unit.
    `beyond`: the share that it adds to what all other settings explain together; NaN where that is not known.
    """

    names: tuple[str, ...]
    levels: int
    alone: Interval
    difference: float
    beyond: float
    verdict: Verdict
    why: str = ""
    ranges: bool = False
    """Whether ranges of its numbers stand for them."""


@dataclass(frozen=True)
class _Factor:
    names: list[str]
    codes: NDArray[np.intp]  # [run]
    ranges: bool
    dummies: _Floats = field(init=False)  # [run, level - 1], centred

    def __post_init__(self) -> None:
        one_hot = np.eye(self.levels)[self.codes][:, 1:]
        object.__setattr__(self, "dummies", one_hot - one_hot.mean(axis=0))

    @property
    def levels(self) -> int:
        return int(self.codes.max()) + 1


def importance(table: pd.DataFrame, outcome: str, settings: Sequence[str]) -> list[Importance]:
    """The importance of each setting for a figure, the largest first; settings that do not vary are left out.

    `table`: a row per run. Runs without the figure are left out. Empty with fewer than three runs or equal figures.
    """
    rows = table[table[outcome].notna()]
    values = rows[outcome].to_numpy(np.float64)
    centred = values - values.mean() if len(values) else values
    total = float(centred @ centred)
    if len(rows) < 3 or total <= 0:
        return []
    factors = _factors(rows, settings)
    whole = np.column_stack([f.dummies for f in factors]) if factors else np.empty((len(rows), 0))
    rank, residual = _fit(whole, centred)
    results = []
    for place, factor in enumerate(factors):
        rest = [f.dummies for number, f in enumerate(factors) if number != place]
        others = np.column_stack(rest) if rest else np.empty((len(rows), 0))
        results.append(_one(factor, factors, centred, total, (rank, residual), _fit(others, centred)))
    return sorted(results, key=lambda result: (math.isnan(result.alone.value), -result.alone.value))


def _one(
    factor: _Factor,
    factors: Sequence[_Factor],
    centred: _Floats,
    total: float,
    whole: tuple[int, float],
    without: tuple[int, float],
) -> Importance:
    n, k = len(centred), factor.levels
    _, own_residual = _fit(factor.dummies, centred)
    alone = explained(1 - own_residual / total, n, k)
    added, free = whole[0] - without[0], n - 1 - whole[0]
    verdict, why, beyond = _verdict(factor, factors, alone, added, free, without[1] - whole[1], whole[1])
    if not math.isnan(beyond):
        beyond = max(0.0, beyond / total)
    means = np.bincount(factor.codes, centred) / np.bincount(factor.codes)
    return Importance(tuple(factor.names), k, alone, float(np.ptp(means)), beyond, verdict, why, factor.ranges)


def _verdict(
    factor: _Factor,
    factors: Sequence[_Factor],
    alone: Interval,
    added: int,
    free: int,
    gained: float,
    residual: float,
) -> tuple[Verdict, str, float]:
    """The verdict, why, and the squares that the setting adds to the others', corrected for chance."""
    if added < factor.levels - 1:
        return "cannot be told apart", f"it changes only together with {_companions(factor, factors)}", math.nan
    if free < 1:
        return "cannot be told apart", "too few runs for this many settings", math.nan
    error = residual / free
    beyond = gained - added * error
    chance = float(special.fdtrc(added, free, gained / added / error)) if error > 0 else 0.0 if gained > 0 else 1.0
    if chance < SURE:
        return "large effect" if alone.value >= LARGE else "small effect", "", beyond
    if alone.low > 0:
        words = f"the runs do not tell its effect from that of {_companions(factor, factors)}"
        return "cannot be told apart", words if len(factors) > 1 else "", beyond
    return "no effect seen", "", beyond


def _companions(factor: _Factor, factors: Sequence[_Factor]) -> str:
    """The setting that goes together with it most, or all others where none does much."""
    shared = {other.names[0]: _association(factor, other) for other in factors if other is not factor}
    closest = max(shared, key=lambda name: shared[name], default="")
    return closest if closest and shared[closest] > 0.25 else "the others"


def _association(one: _Factor, other: _Factor) -> float:
    """How much of one setting's values another tells, or is told by: 0 to 1, the larger of the two."""

    def told(a: _Factor, b: _Factor) -> float:
        left = sum(_fit(b.dummies, column)[1] for column in a.dummies.T)
        return 1 - left / float((a.dummies**2).sum())

    return max(told(one, other), told(other, one))


def explained(eta_squared: float, n: int, levels: int) -> Interval:
    """The share of variance that a setting of `levels` values explains, corrected for chance, with its 95% interval.

    `eta_squared`: the share that its values' means explain of `n` runs. NaN where every run has a value of its own.
    """
    between, within = levels - 1, n - levels
    if within < 1:
        return Interval(math.nan, math.nan, math.nan, n)
    value = max(0.0, 1 - (1 - eta_squared) * (n - 1) / within)
    if eta_squared >= 1:
        return Interval(1.0, 1.0, 1.0, n)
    ratio = eta_squared / between / ((1 - eta_squared) / within)
    low, high = (_noncentrality(ratio, between, within, chance) for chance in (0.975, 0.025))
    return Interval(value, low / (low + n), high / (high + n), n)


def _noncentrality(ratio: float, between: int, within: int, chance: float) -> float:
    """The noncentrality at which an F ratio as small as this one has that chance; 0 if none makes it so likely."""

    def above(noncentrality: float) -> bool:
        smaller = float(special.ncfdtr(between, within, noncentrality, ratio))
        return smaller > chance  # False for nan, which a chance near 0 may come as

    if not above(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while above(high) and high < 1e9:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) else (low, middle)
    return high


def _factors(rows: pd.DataFrame, settings: Sequence[str]) -> list[_Factor]:
    """The settings that vary; those that divide the runs alike are one."""
    by_division: dict[bytes, _Factor] = {}
    for name in settings:
        codes, ranges = _codes(rows[name])
        if codes.max(initial=0) < 1:
            continue
        division = codes.tobytes()
        if division in by_division:
            by_division[division].names.append(name)
        else:
            by_division[division] = _Factor([name], codes, ranges)
    return list(by_division.values())


def _codes(column: pd.Series) -> tuple[NDArray[np.intp], bool]:
    """A number per value, in the order in which the values come; and whether ranges stand for numbers."""
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    ranges = bool(numeric and column.nunique() > MOST_LEVELS)
    kept = pd.qcut(column, _RANGES, duplicates="drop") if ranges else column
    if ranges and kept.nunique() < 2:  # nearly all have one value
        kept = column.gt(column.median())
    words = kept.astype(object).where(kept.notna(), None).map(str)
    return pd.factorize(words)[0].astype(np.intp), ranges


def _fit(columns: _Floats, centred: _Floats) -> tuple[int, float]:
    """The rank of centred columns, and the sum of squares that a least-squares fit by them leaves."""
    if not columns.shape[1]:
        return 0, float(centred @ centred)
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    rank = int((sizes > 1e-9 * max(1.0, sizes.max(initial=0.0))).sum())
    inside = left[:, :rank].T @ centred
    return rank, max(0.0, float(centred @ centred - inside @ inside))
