"""From a measured effect to one of five verdicts, in words that say why."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.findings.claim import Claim
from engine.numbers import LEAST_PROMPTS
from engine.records.interval import Interval

BETTER, REPRODUCED, SAME = "better than the paper says", "reproduced", "same direction"
NOT, FEW = "not reproduced", "not enough runs"
ENOUGH_SEEDS = 3
_ONE_SIDE, _UNLIKELY = 0.025, 0.05


def judge_cell(claim: Claim, relative: Interval, absolute: Interval, by_seed: Sequence[float]) -> tuple[str, str]:
    """One of the five verdicts and why, in words."""
    low, high = sorted((claim.sign * absolute.low, claim.sign * absolute.high))
    seeds = f"{len(by_seed)} seed{'s' if len(by_seed) > 1 else ''}"
    if not by_seed:
        return FEW, "no seed is common to all comparisons"
    if math.isnan(low):
        return FEW, f"too few prompts: fewer than {LEAST_PROMPTS} in common give no interval"
    clear = low > 0 and all(claim.sign * value > 0 for value in by_seed)
    better = is_better(claim, relative, absolute)
    if len(by_seed) < ENOUGH_SEEDS:
        if better:
            return SAME, f"{seeds}; better than {_band(claim)} so far, {ENOUGH_SEEDS} are needed to say so"
        if clear:
            return SAME, f"{seeds}; {ENOUGH_SEEDS} are needed before it can be called reproduced"
        if high < 0:  # evidence against a claim is never hidden behind a want of runs
            return NOT, f"{seeds}: the effect points the other way"
        return FEW, f"{seeds}: no clear difference; {ENOUGH_SEEDS} are needed before anything is concluded"
    if better:
        return BETTER, f"{seeds}; the whole interval lies above {_band(claim)}, {' and '.join(claim.band_of)}"
    if not clear:
        return NOT, f"{seeds}: " + ("the effect points the other way" if high < 0 else "no clear difference")
    return _against_band(claim, relative, absolute, seeds)


def _against_band(claim: Claim, relative: Interval, absolute: Interval, seeds: str) -> tuple[str, str]:
    if claim.band is None:
        return REPRODUCED, f"{seeds}, all in the direction of the {'paper' if claim.of_paper else 'claim'}"
    least, most = claim.band
    band = _band(claim)
    known = {"relative": relative, "absolute": absolute}
    inside = [name for name in claim.band_of if least <= known[name].value <= most]
    if inside:
        return REPRODUCED, f"{seeds}; the {' and the '.join(inside)} difference lies in {band}"
    sides = [f"{name} {'below' if known[name].value < least else 'above'} it" for name in claim.band_of]
    return SAME, f"{seeds}; the size lies outside {band}, {' and '.join(sides)}"


def _band(claim: Claim) -> str:
    least, most = claim.band or (math.nan, math.nan)
    return f"{least:+.0%} to {most:+.0%}"


def is_better(claim: Claim, relative: Interval, absolute: Interval) -> bool:
    """Whether more is accepted than the paper says, whatever it means by percent: the whole interval lies above."""
    if claim.band is None or not claim.more_is_better:
        return False
    known = {"relative": relative, "absolute": absolute}
    return all(known[name].low > claim.band[1] for name in claim.band_of)


def contrary_by_chance(few_seeds: Sequence[str]) -> tuple[int, bool]:
    """How many of the verdicts on cells of too few seeds are against the claim, and whether chance explains them.

    Without any effect one interval of 95% in forty lies wholly on that side. Chance explains them if so many
    or more of that many cells do so in at least one case of twenty; cells are taken as independent.
    """
    cells, contrary = len(few_seeds), few_seeds.count(NOT)
    fewer = sum(math.comb(cells, k) * _ONE_SIDE**k * (1 - _ONE_SIDE) ** (cells - k) for k in range(contrary))
    return contrary, contrary > 0 and 1 - fewer >= _UNLIKELY


def overall(claim: Claim, cells: Sequence[tuple[str, str]], seen_in: int) -> tuple[str, str]:
    """A claim's verdict from those of its cells (verdict, reason): the weakest decided one, so that no place is hidden.

    It is reproduced only if every cell is. `seen_in`: in how many domains, or against how many other
    losses, if the claim speaks of all of them.
    """
    if not cells:
        return FEW, f"there are no two runs that differ in this alone: {claim.base} against {claim.other}"
    decided = [verdict for verdict, _ in cells if verdict != FEW]
    if not decided:
        return FEW, cells[0][1]
    order = (BETTER, REPRODUCED, SAME, NOT)
    worst = max(decided, key=order.index)
    counts = ", ".join(f"{decided.count(name)} {name}" for name in order if name in decided)
    decisions = f"{len(decided)} of {len(cells)} comparisons could be decided ({counts})"
    of_what, needed = claim.breadth
    if worst in (BETTER, REPRODUCED) and len(decided) < len(cells):
        return SAME, f"{decisions}; all are needed before it can be called {worst}"
    if worst in (BETTER, REPRODUCED) and seen_in < needed:
        where = "domain" if of_what == "domain" else "other loss"
        return SAME, f"{decisions}, with {seen_in} {where} only; {needed} are needed"
    return worst, decisions if len(
        set(decided)
    ) == 1 else f"{decisions}: a claim holds only if no comparison contradicts it"
