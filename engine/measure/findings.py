"""The paper's claims tested on whatever runs there are.

Two runs are compared only if they differ in nothing but what the claim is about, on the same
held-out prompts, and paired by prompt. Repetitions with other seeds are added up within each
prompt; the prompt is what the bootstrap resamples, and no claim is called reproduced before
three seeds point the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from engine.measure.claims import CLAIMS, GENERIC, LEAD, SIZE, Claim
from engine.measure.pairing import Pair, Run, Side, pairs_of
from engine.measure.statistics import Interval, bootstrap_ratio, paired_difference, paired_ratio
from engine.measure.verdicts import FEW, judge_cell, overall

_ANY_EFFORT = (SIZE, LEAD, GENERIC)  # more queries are more training, and the generic draft is compared with itself
_NO_VALUE = Interval(math.nan, math.nan, math.nan, 0)

Sums = pd.DataFrame  # run_id, draft, temperature, prompt_id, exact_sum, n_positions
LoadSums = Callable[[list[str]], Sums]


@dataclass(frozen=True)
class Cell:
    """A claim in one place (domain, scenario, mode, loss) at one temperature, its seeds together."""

    where: Mapping[str, Any]
    temperature: float
    pairs: tuple[Pair, ...]
    relative: Interval  # other / base - 1; NaN where a ratio makes no sense
    absolute: Interval  # other - base, in acceptance
    base_rate: float
    other_rate: float
    by_seed: tuple[float, ...]  # the absolute difference of each seed
    verdict: str
    reason: str
    remark: str = ""  # what a reader should know of the comparison's fairness

    @property
    def runs(self) -> list[str]:
        return list(dict.fromkeys(run for pair in self.pairs for run in pair.runs))


@dataclass(frozen=True)
class Finding:
    """A claim with all that is known about it."""

    claim: Claim
    verdict: str
    reason: str
    cells: tuple[Cell, ...]


def evaluate(runs: Sequence[Run], load_sums: LoadSums) -> list[Finding]:
    """Every claim's verdict. `load_sums` gives the per-prompt sums of the runs it is asked for."""
    grouped = {key: pairs_of(claim, runs) for key, claim in CLAIMS.items()}
    needed = sorted({run for cells in grouped.values() for _, pairs in cells for pair in pairs for run in pair.runs})
    sums = load_sums(needed) if needed else pd.DataFrame()
    tables = {str(run): table for run, table in sums.groupby("run_id")} if needed else {}
    known = {run.id: run for run in runs}
    return [_finding(claim, grouped[key], tables, known) for key, claim in CLAIMS.items()]


def _finding(
    claim: Claim,
    grouped: Sequence[tuple[dict[str, Any], list[Pair]]],
    tables: Mapping[str, Sums],
    known: Mapping[str, Run],
) -> Finding:
    cells = [cell for where, pairs in grouped for cell in _cells(claim, where, pairs, tables, known)]
    seen_in = {cell.where.get(claim.breadth[0]) for cell in cells if cell.verdict != FEW}
    verdict, reason = overall(claim, [(cell.verdict, cell.reason) for cell in cells], len(seen_in))
    return Finding(claim, verdict, reason, tuple(cells))


def _cells(
    claim: Claim, where: Mapping[str, Any], pairs: Sequence[Pair], tables: Mapping[str, Sums], known: Mapping[str, Run]
) -> list[Cell]:
    """One cell a temperature at which both sides were measured."""
    found = []
    for temperature in _temperatures(pairs, tables):
        sides = [
            (_side(pair.base, pair.base_draft, temperature, tables), _side(pair.other, pair.other_draft, temperature, tables))
            for pair in pairs
        ]  # fmt: skip
        measured = [(pair, *side) for pair, side in zip(pairs, sides, strict=True) if len(side[0]) and len(side[1])]
        cell = _measure(claim, where, temperature, measured)
        if cell is not None:
            found.append(_judged(claim, cell, "" if claim in _ANY_EFFORT else _unequal_effort(cell.pairs, known)))
    return found


def _temperatures(pairs: Sequence[Pair], tables: Mapping[str, Sums]) -> list[float]:
    every = [set(tables[run].temperature) for pair in pairs for run in pair.runs if run in tables]
    return sorted(set.union(*every)) if every else []


def _side(side: Side, draft: str, temperature: float, tables: Mapping[str, Sums]) -> pd.DataFrame:
    """[prompt]: the side's sum of acceptances and its number of positions, for prompts that all its runs have."""
    merged: pd.DataFrame | None = None
    for run, sign in side:
        table = tables.get(run)
        if table is None:
            return pd.DataFrame()
        rows = table[(table.draft == draft) & ((table.temperature - temperature).abs() < 1e-6)]
        rows = rows.set_index("prompt_id")[["exact_sum", "n_positions"]].dropna()
        rows = rows[rows.n_positions > 0]
        rows = rows.assign(exact_sum=rows.exact_sum * sign)
        merged = rows if merged is None else _add(*_same_text(merged, rows))
    return pd.DataFrame() if merged is None else merged


def _same_text(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the prompts that both have; an answer of another length is another text and is left out."""
    common = a.index.intersection(b.index)
    a, b = a.loc[common], b.loc[common]
    same = a.n_positions == b.n_positions
    return a[same], b[same]


def _add(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    return a.assign(exact_sum=a.exact_sum + b.exact_sum)


def _measure(
    claim: Claim,
    where: Mapping[str, Any],
    temperature: float,
    measured: Sequence[tuple[Pair, pd.DataFrame, pd.DataFrame]],
) -> Cell | None:
    """The pooled effect with its intervals; None if no prompt is common."""
    used = [(pair, *_common(claim, a, b)) for pair, a, b in measured]
    used = [(pair, a, b) for pair, a, b in used if len(a) and len(b)]
    if not used:
        return None
    base, other = _pooled([a for _, a, _ in used]), _pooled([b for _, _, b in used])
    by_seed = tuple(_rate(b) - _rate(a) for _, a, b in used)
    relative, absolute = _effect(claim, base, other)
    pairs = tuple(pair for pair, _, _ in used)
    return Cell(where, temperature, pairs, relative, absolute, _rate(base), _rate(other), by_seed, FEW, "")


def _common(claim: Claim, a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return _same_text(a, b) if claim.paired else (a, b)


def _pooled(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The seeds' sums added up within each prompt."""
    return pd.concat(tables).groupby(level=0).sum()


def _effect(claim: Claim, base: pd.DataFrame, other: pd.DataFrame) -> tuple[Interval, Interval]:
    """other / base - 1 and other - base."""
    if not claim.paired:
        return _unpaired(base, other)
    arrays = (base.exact_sum, base.n_positions, other.exact_sum, other.n_positions)
    absolute = paired_difference(*(array.astype(float) for array in arrays))
    if claim is LEAD or base.exact_sum.sum() <= 0:  # a ratio of leads may change its sign on the way
        return _NO_VALUE, absolute
    ratio = paired_ratio(*(array.astype(float) for array in arrays))
    return Interval(ratio.value - 1, ratio.low - 1, ratio.high - 1, ratio.n_prompts), absolute


def _unpaired(base: pd.DataFrame, other: pd.DataFrame) -> tuple[Interval, Interval]:
    """Two rates on different prompts: the extremes of both intervals, wider than 95% but never too narrow."""
    a, b = (bootstrap_ratio(side.exact_sum, side.n_positions) for side in (base, other))
    n = min(a.n_prompts, b.n_prompts)
    absolute = Interval(b.value - a.value, b.low - a.high, b.high - a.low, n)
    if not a.low > 0:
        return _NO_VALUE, absolute
    return Interval(b.value / a.value - 1, b.low / a.high - 1, b.high / a.low - 1, n), absolute


def _rate(side: pd.DataFrame) -> float:
    return float(side.exact_sum.sum() / side.n_positions.sum())


def _judged(claim: Claim, cell: Cell, remark: str) -> Cell:
    verdict, reason = judge_cell(claim, cell.relative, cell.absolute, cell.by_seed)
    return replace(cell, verdict=verdict, reason=reason, remark=remark)


def _unequal_effort(pairs: Sequence[Pair], known: Mapping[str, Run]) -> str:
    """Says so if the two sides saw different amounts: then part of the effect may be that."""
    told = []
    for key, unit in (("n_train", "queries"), ("steps_done", "optimiser steps"), ("tokens_seen", "target tokens")):
        sides = [[known[run].effort.get(key) for pair in pairs for run, _ in side(pair)] for side in _SIDES]
        if any(not value for side in sides for value in side):
            continue
        base, other = (float(sum(side)) / len(side) for side in sides)  # type: ignore[arg-type]
        if base and abs(other / base - 1) > 0.02:
            told.append(f"{base:,.0f} against {other:,.0f} {unit}")
    return f"The sides were not trained on equally much: {', '.join(told)}." if told else ""


_SIDES: tuple[Callable[[Pair], Side], ...] = (lambda pair: pair.base, lambda pair: pair.other)
