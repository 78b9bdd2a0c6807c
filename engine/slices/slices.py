"""Slices of a rate: how good the draft is in each part of the text, and what of its refusals that part holds.

A slice's rate is a ratio of sums over prompts, as the whole is, with an interval over the prompts that have tokens in
it. Slices are listed by the refusals they hold, since that is what could be gained there: a rare kind of token may be
refused always and cost nothing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from engine.errors import DraftbenchError
from engine.measure.compare import Sums
from engine.measure.definitions import RATES
from engine.measure.statistics import SAMPLES, bootstrap_ratio, paired_difference
from engine.records.interval import Interval
from engine.slices.tokens import order_of

FEW_PROMPTS = 8  # with fewer, the interval over prompts rests on too little
FEW_TOKENS = 100
_MANY_SLICES = 40  # of more, the interval of the gain is left out: each is a bootstrap over all prompts


@dataclass(frozen=True)
class Slice:
    """One slice. `n_tokens`: what its rate is a share of (positions, proposed tokens, rounds), `n_prompts` where."""

    name: str
    rate: Interval
    n_tokens: int
    n_prompts: int
    token_share: float
    refusals: float
    """Sum of 1 - sum min(p, q) or, by the rate, of tokens not accepted. Of tau: target forwards."""
    refusal_share: float
    gain: Interval
    """The rate of the whole if this slice were as good as the rest, less what it is; undefined if there is no rest."""
    few: bool
    """Too few prompts or tokens to conclude anything."""

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Sliced:
    """A rate by slice: slices that hold most refusals first."""

    by: str
    metric: str
    temperature: float
    overall: Interval
    n_tokens: int
    slices: tuple[Slice, ...]

    def as_dict(self) -> dict[str, Any]:
        """A JSON object of it."""
        return asdict(self)

    def in_order(self) -> list[Slice]:
        """The slices as a chart shows them: buckets ascending, others by the refusals they hold."""
        by_name = {item.name: item for item in self.slices}
        return [by_name[name] for name in order_of(self.by, list(by_name))]


@dataclass(frozen=True)
class SliceDifference:
    """One slice of two drafts on the same prompts: b less a."""

    name: str
    a: float
    b: float
    difference: Interval
    n_tokens: int
    n_prompts: int
    share_of_change: float
    """What of the change of the whole rate comes from this slice; NaN unless both rates have the same denominators."""
    few: bool

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def sliced(tokens: pd.DataFrame, by: str, rate: str, temperature: float, *, samples: int = SAMPLES) -> Sliced:
    """The rate by slice. `tokens`: as `engine.slices.tokens.measured_tokens` returns them."""
    definition = RATES[rate]
    columns = list(dict.fromkeys((definition.numerator, *definition.denominator)))
    whole = _known(Sums.of(tokens.groupby("prompt_id", sort=False)[columns].sum(), definition))
    if not whole.denominators.sum():
        raise nothing_measured(rate)
    per_slice = {
        str(name): _known(Sums.of(part.groupby("prompt_id", sort=False)[columns].sum(), definition))
        for name, part in tokens.groupby("slice", sort=False)
    }
    counted = {name: sums for name, sums in per_slice.items() if len(sums)}
    gains = len(counted) <= _MANY_SLICES
    missing = {name: refusals(sums, rate) for name, sums in counted.items()}
    total = sum(missing.values())
    slices = [
        Slice(
            name,
            bootstrap_ratio(sums.numerators, sums.denominators, samples=samples),
            round(sums.denominators.sum()),
            len(sums),
            _share(float(sums.denominators.sum()), float(whole.denominators.sum())),
            missing[name],
            _share(missing[name], total),
            _gain(whole, sums, samples if gains else 0),
            is_few(len(sums), float(sums.denominators.sum())),
        )
        for name, sums in counted.items()
    ]
    overall = bootstrap_ratio(whole.numerators, whole.denominators, samples=samples)
    ranked = sorted(slices, key=lambda item: (-item.refusals, item.name))
    return Sliced(by, rate, temperature, overall, round(whole.denominators.sum()), tuple(ranked))


def differences(
    a: pd.DataFrame, b: pd.DataFrame, rate: str, prompts: pd.Index, *, samples: int = SAMPLES
) -> list[SliceDifference]:
    """The rate of b less that of a in each slice that both have, on some prompts; the largest changes come first.

    `a`, `b`: tokens of each as for `sliced`; `prompts`: those whose answers are the same in both.
    """
    definition = RATES[rate]
    columns = list(dict.fromkeys((definition.numerator, *definition.denominator)))
    tables = [side[side.prompt_id.isin(prompts)].groupby(["slice", "prompt_id"])[columns].sum() for side in (a, b)]
    sides = [{str(name): part.droplevel(0) for name, part in table.groupby(level=0)} for table in tables]
    change = _change_of_whole(tables, rate)
    rows = []
    for name in sides[0].keys() & sides[1].keys():
        parts = [side[name] for side in sides]
        common = parts[0].index.union(parts[1].index)  # a prompt may have the slice under one draft alone
        sums_a, sums_b = (Sums.of(part.reindex(common, fill_value=0.0), definition) for part in parts)
        if not (sums_a.denominators.sum() and sums_b.denominators.sum()):
            continue
        arrays = (sums_a.numerators, sums_a.denominators, sums_b.numerators, sums_b.denominators)
        same = np.array_equal(sums_a.denominators, sums_b.denominators)
        gained = float(sums_b.numerators.sum() - sums_a.numerators.sum())
        n_tokens = float(min(sums_a.denominators.sum(), sums_b.denominators.sum()))
        rows.append(
            SliceDifference(
                name,
                sums_a.rate,
                sums_b.rate,
                paired_difference(*arrays, samples=samples),
                round(n_tokens),
                len(common),
                _share(gained, change) if same else math.nan,
                is_few(len(common), n_tokens),
            )
        )
    return sorted(rows, key=lambda row: (-abs(row.difference.value * row.n_tokens), row.name))


def is_few(prompts: int, tokens: float) -> bool:
    """Whether a slice of so many prompts and tokens is too small to conclude anything from."""
    return prompts < FEW_PROMPTS or tokens < FEW_TOKENS


def refusals(sums: Sums, rate: str) -> float:
    """What a rate falls short of 1 by, added up; of one per target forward, such as tau, the forwards."""
    if RATES[rate].per_forward:
        return float(sums.denominators.sum())
    return max(0.0, float(sums.denominators.sum() - sums.numerators.sum()))


def nothing_measured(rate: str) -> DraftbenchError:
    """The error for a measurement without a single token of that rate."""
    return DraftbenchError(f"no token was measured for {rate}", "", "slice another --rate")


def _known(sums: Sums) -> Sums:
    """The prompts that were measured and have tokens here; of tau, perhaps without a round that ends here."""
    return sums[sums.measured & ((sums.denominators > 0) | (sums.numerators > 0))]


def _gain(whole: Sums, part: Sums, samples: int) -> Interval:
    """The rate of the rest less that of the whole: with this part as good as the rest, the whole would be the rest."""
    places = whole.prompts.get_indexer(part.prompts)
    inside = places >= 0
    numerators, denominators = whole.numerators.copy(), whole.denominators.copy()
    numerators[places[inside]] -= part.numerators[inside]
    denominators[places[inside]] -= part.denominators[inside]
    denominators[np.abs(denominators) < 1e-9] = 0.0
    if not denominators.sum():
        return Interval(n_prompts=len(whole))
    if not samples:
        rest = float(numerators.sum() / denominators.sum())
        return Interval(rest - whole.rate, math.nan, math.nan, len(whole))
    return paired_difference(whole.numerators, whole.denominators, numerators, denominators, samples=samples)


def _change_of_whole(tables: list[pd.DataFrame], rate: str) -> float:
    sums = [Sums.of(table, RATES[rate]) for table in tables]
    return float(sums[1].numerators.sum() - sums[0].numerators.sum())


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
