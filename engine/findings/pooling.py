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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from engine.findings.pairs import SignedRuns
from engine.measure.compare import Sums, same_answers
from engine.measure.statistics import LEVEL, SAMPLES, percentile_interval
from engine.numbers import LEAST_PROMPTS
from engine.records.interval import Interval

NO_VALUE = Interval(math.nan, math.nan, math.nan, 0)
_ROUNDED = 1 + 1e-5  # a sum of float32 may be a little too large
_DIGITS = 6  # 0.7 may have been stored as float32
_SUMS = ["exact_sum", "argmax_sum"]  # numerators of the rates that claims compare
_Floats = NDArray[np.float64]

# (run, draft, temperature) -> [prompt] exact_sum, argmax_sum (NaN of an earlier version's), n_positions, answer
Tables = Mapping[tuple[str, str, float], pd.DataFrame]


# ---- sums of acceptance per prompt ----------------------------------------------------------


def tables_of(sums: pd.DataFrame) -> dict[tuple[str, str, float], pd.DataFrame]:
    """A table per run, draft and temperature. `sums`: as `engine.index.queries.prompt_sums` returns them."""
    rows = sums.dropna(subset=["exact_sum", "n_positions"])
    rows = rows[rows.n_positions > 0]
    # plain objects: an index of Arrow strings is many times slower to align
    columns = {"temperature": rows.temperature.round(_DIGITS), "prompt_id": rows.prompt_id.astype(object)}
    rows = rows.assign(**columns, answer=rows.answer.astype(object)).set_index("prompt_id")
    tables = {}
    for key, table in rows.groupby(["run_id", "draft", "temperature"]):
        run, draft, temperature = cast("tuple[str, str, float]", key)
        tables[str(run), str(draft), float(temperature)] = table[[*_SUMS, "n_positions", "answer"]]
    return tables


def impossible(sums: pd.DataFrame) -> set[str]:
    """Ids of runs with sums that no measurement has: more accepted than there were positions, or a prompt twice."""
    known = sums.dropna(subset=["exact_sum", "n_positions"])
    beyond = known.temperature.isna()
    for name in _SUMS:
        beyond |= (known[name] < 0) | (known[name] > known.n_positions * _ROUNDED)
    twice = known.duplicated(["run_id", "draft", "temperature", "prompt_id"])
    return {str(run_id) for run_id in known.run_id[beyond | twice].unique()}


def temperatures_of(runs: Iterable[str], tables: Tables) -> list[float]:
    """Temperatures at which any of the runs was measured."""
    ids = set(runs)
    return sorted({temperature for run, _, temperature in tables if run in ids})


def table_of(runs: SignedRuns, draft: str, temperature: float, tables: Tables) -> pd.DataFrame | None:
    """The sums of one side, [prompt]: of its run, or of its runs added up on the prompts with the same answer in all.

    None if a run of it was not measured at this temperature.
    """
    added: pd.DataFrame | None = None
    for run, sign in runs:
        table = tables.get((run, draft, temperature))
        if table is None:
            return None
        table = table if sign == 1 else table.assign(**{name: table[name] * sign for name in _SUMS})
        if added is not None:
            added, table = same_answers(added, table)
            table = table.assign(**{name: added[name] + table[name] for name in _SUMS})
        added = table
    return added


@dataclass(frozen=True)
class Side:
    """Acceptance of one side of a cell per prompt; `heldout` names the set of prompts."""

    heldout: str
    sums: Sums


Part = tuple[Side, Side]  # base and other of one cell


def seed_mean(sides: Sequence[Side]) -> Side:
    """Seeds averaged within each prompt: the sums of all over the number of seeds."""
    if len(sides) == 1:  # the usual case, and grouping is slow
        sums = sides[0].sums
        order = sums.prompts.argsort()
        return Side(sides[0].heldout, Sums(sums.prompts[order], sums.numerators[order], sums.denominators[order]))
    columns = [{"num": side.sums.numerators, "den": side.sums.denominators} for side in sides]
    tables = [pd.DataFrame(part, index=side.sums.prompts) for part, side in zip(columns, sides, strict=True)]
    mean = pd.concat(tables).groupby(level=0).sum() / len(sides)
    return Side(sides[0].heldout, Sums(mean.index, mean.num.to_numpy(), mean.den.to_numpy()))


# ---- effects --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """other / base - 1 and other - base, with what they are made of. `relative` is NaN where a ratio makes no sense."""

    relative: Interval
    absolute: Interval
    base_rate: float
    other_rate: float


def effect(domains: Sequence[Sequence[Part]], *, ratio: bool = True, samples: int = SAMPLES) -> Effect:
    """The effect over the cells of each domain, domains weighed equally (see above); one cell is `[[part]]`.

    Sides on the same held-out prompts are drawn together, sides on different ones (a generic draft on its own target
    and on another) independently. Of fewer than `LEAST_PROMPTS` prompts in a set there is no interval. `ratio=False`
    for sides whose rate may be zero or below, such as leads.
    """
    strata = _strata(domains)
    sides = [[_added([part[place] for part in parts], strata) for parts in domains] for place in (0, 1)]
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


def rate(sides: Sequence[Side]) -> Interval:
    """One acceptance with its interval, over several runs on the same prompts (seeds)."""
    strata = _strata([[(side, side) for side in sides]])
    added = [_added(sides, strata)]
    ones = {name: np.ones((1, len(prompts))) for name, prompts in strata.items()}
    draws = {name: _draws(name, len(prompts), SAMPLES) for name, prompts in strata.items()}
    return _interval(_rates(added, ones), _rates(added, draws), _count(added, strata), strata)


_Added = dict[str, tuple[_Floats, _Floats]]  # held-out set -> sums and positions [prompt]


def _strata(domains: Sequence[Sequence[Part]]) -> dict[str, pd.Index]:
    """Held-out set -> its prompts, those of all cells that stand on it."""
    strata: dict[str, pd.Index] = {}
    for side in (side for parts in domains for part in parts for side in part):
        known = strata.get(side.heldout)
        strata[side.heldout] = side.sums.prompts if known is None else known.union(side.sums.prompts)
    return {name: strata[name].sort_values() for name in sorted(strata)}


def _added(sides: Sequence[Side], strata: dict[str, pd.Index]) -> _Added:
    """Sums of one side of a domain, added up over its cells. A prompt that a cell lacks adds nothing to it."""
    added: _Added = {}
    for side in sides:
        prompts = strata[side.heldout]
        num, den = added.setdefault(side.heldout, (np.zeros(len(prompts)), np.zeros(len(prompts))))
        rows = prompts.get_indexer(side.sums.prompts)
        num[rows] += side.sums.numerators
        den[rows] += side.sums.denominators
    return added


@functools.lru_cache(maxsize=64)
def _draws(heldout: str, n_prompts: int, samples: int) -> _Floats:
    """How often each prompt is drawn [draw, prompt]: the same for every cell on these prompts."""
    rng = np.random.default_rng([0, zlib.crc32(heldout.encode())])
    drawn = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=samples).astype(np.float64)
    drawn.setflags(write=False)
    return drawn


def _rates(sides: Sequence[_Added], weights: dict[str, _Floats]) -> _Floats:
    """Mean over domains of each domain's ratio of sums [draw]; NaN for a draw without a position."""
    rates = []
    for side in sides:
        num = sum((weights[name] @ pair[0] for name, pair in side.items()), start=np.zeros(1))
        den = sum((weights[name] @ pair[1] for name, pair in side.items()), start=np.zeros(1))
        rates.append(np.divide(num, den, out=np.full_like(num, np.nan), where=den != 0))
    mean: _Floats = np.mean(rates, axis=0)
    return mean


def _count(sides: Sequence[_Added], strata: dict[str, pd.Index]) -> int:
    return sum(len(strata[name]) for name in {name for side in sides for name in side})


def _interval(value: _Floats, drawn: _Floats, n_prompts: int, strata: dict[str, pd.Index]) -> Interval:
    """An interval of `n_prompts`, as wide as all prompts that were drawn, set by set, make it."""
    sizes = [len(prompts) for prompts in strata.values()]
    if min(sizes) < LEAST_PROMPTS:
        return Interval(float(value[0]), math.nan, math.nan, n_prompts)
    interval = percentile_interval(float(value[0]), drawn, sum(sizes), strata=len(sizes), level=LEVEL)
    return replace(interval, n_prompts=n_prompts)
