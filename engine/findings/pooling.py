"""Effects with their intervals, in one place or over several, prompts resampled as clusters.

How cells are pooled, and why so. A cell is one loss, scenario, size and temperature; its seeds are
averaged within each prompt, so a cell with more seeds does not weigh more. Within a domain the
cells' sums are added up prompt by prompt: the cells stand on the same held-out prompts, so a prompt
that is drawn is drawn for all cells and both sides at once, which keeps what they have in common out of
the interval. The pooled rate is that of a token drawn from all the cells' texts: a ratio of sums, which a
cell of tiny acceptance cannot blow up as it would a mean of ratios. Over domains the rates are averaged with
equal weight (a domain whose answers are long would decide otherwise, and which domains there are is
our choice, not a sample), each domain's prompts drawn on their own. The interval therefore speaks of other
prompts of these domains, not of other domains, losses or seeds; seeds are told apart beside it.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from engine.measure.statistics import Interval, percentile_interval

SAMPLES = 2000
LEVEL = 0.95
NO_VALUE = Interval(math.nan, math.nan, math.nan, 0)
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Acceptance of one side: index prompt id, columns exact_sum and n_positions; `heldout` names the set of prompts."""

    heldout: str
    table: pd.DataFrame

    @property
    def rate(self) -> float:
        return float(self.table.exact_sum.sum() / self.table.n_positions.sum())


Part = tuple[Sums, Sums]  # base and other of one cell


@dataclass(frozen=True)
class Effect:
    """other / base - 1 and other - base, with what they are made of. `relative` is NaN where a ratio makes no sense."""

    relative: Interval
    absolute: Interval
    base_rate: float
    other_rate: float


def effect(domains: Sequence[Sequence[Part]], *, ratio: bool = True, samples: int = SAMPLES) -> Effect:
    """The effect over the cells of each domain, domains weighed equally (see above); one cell is `[[part]]`.

    Sides on the same held-out prompts are drawn together, sides on different ones (a generic draft on
    its own target and on another) independently. With fewer than two prompts on a side there is no
    interval. `ratio=False` for sides whose rate may be zero or below, such as leads.
    """
    strata = _strata(domains)
    sides = [[_side([part[place] for part in parts], strata) for parts in domains] for place in (0, 1)]
    ones = {name: np.ones((1, len(prompts))) for name, prompts in strata.items()}
    draws = {name: _draws(name, len(prompts), samples) for name, prompts in strata.items()}
    base, other = (_rates(side, ones) for side in sides)
    base_drawn, other_drawn = (_rates(side, draws) for side in sides)
    n_prompts = min(_count(side, strata) for side in sides)
    absolute = _interval(other - base, other_drawn - base_drawn, n_prompts, strata)
    relative = NO_VALUE
    if ratio and base[0] > 0:
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = _interval(other / base - 1, other_drawn / base_drawn - 1, n_prompts, strata)
    return Effect(relative, absolute, float(base[0]), float(other[0]))


def rate(sums: Sequence[Sums]) -> Interval:
    """One acceptance with its interval, over several runs on the same prompts (seeds)."""
    strata = _strata([[(one, one) for one in sums]])
    side = [_side(sums, strata)]
    ones = {name: np.ones((1, len(prompts))) for name, prompts in strata.items()}
    draws = {name: _draws(name, len(prompts), SAMPLES) for name, prompts in strata.items()}
    return _interval(_rates(side, ones), _rates(side, draws), _count(side, strata), strata)


_Side = dict[str, tuple[_Floats, _Floats]]  # held-out set -> sums and positions [prompt]


def _strata(domains: Sequence[Sequence[Part]]) -> dict[str, pd.Index]:
    """Held-out set -> its prompts, those of all cells that stand on it."""
    found: dict[str, pd.Index] = {}
    for sums in (side for parts in domains for part in parts for side in part):
        known = found.get(sums.heldout)
        found[sums.heldout] = sums.table.index if known is None else known.union(sums.table.index)
    return {name: found[name].sort_values() for name in sorted(found)}


def _side(parts: Sequence[Sums], strata: dict[str, pd.Index]) -> _Side:
    """Sums of one side of a domain, added up over its cells. A prompt that a cell lacks adds nothing to it."""
    side: _Side = {}
    for sums in parts:
        prompts = strata[sums.heldout]
        num, den = side.setdefault(sums.heldout, (np.zeros(len(prompts)), np.zeros(len(prompts))))
        places = prompts.get_indexer(sums.table.index)
        num[places] += sums.table.exact_sum.to_numpy(dtype=np.float64)
        den[places] += sums.table.n_positions.to_numpy(dtype=np.float64)
    return side


@functools.lru_cache(maxsize=64)
def _draws(heldout: str, n_prompts: int, samples: int) -> _Floats:
    """How often each prompt is drawn [draw, prompt]: the same for every cell on these prompts."""
    rng = np.random.default_rng([0, zlib.crc32(heldout.encode())])
    drawn = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=samples).astype(np.float64)
    drawn.setflags(write=False)
    return drawn


def _rates(sides: Sequence[_Side], weights: dict[str, _Floats]) -> _Floats:
    """Mean over domains of each domain's ratio of sums [draw]; NaN for a draw without a position."""
    rates = []
    for side in sides:
        num = sum((weights[name] @ pair[0] for name, pair in side.items()), start=np.zeros(1))
        den = sum((weights[name] @ pair[1] for name, pair in side.items()), start=np.zeros(1))
        rates.append(np.divide(num, den, out=np.full_like(num, np.nan), where=den != 0))
    mean: _Floats = np.mean(rates, axis=0)
    return mean


def _count(sides: Sequence[_Side], strata: dict[str, pd.Index]) -> int:
    return sum(len(strata[name]) for name in {name for side in sides for name in side})


def _interval(value: _Floats, drawn: _Floats, n_prompts: int, strata: dict[str, pd.Index]) -> Interval:
    """With `n_prompts` as what is said of it; as wide as all that were drawn, set by set, make it."""
    sizes = [len(prompts) for prompts in strata.values()]
    if min(sizes) < 2:
        return Interval(float(value[0]), math.nan, math.nan, n_prompts)
    found = percentile_interval(float(value[0]), drawn, sum(sizes), strata=len(sizes), level=LEVEL)
    return replace(found, n_prompts=n_prompts)
