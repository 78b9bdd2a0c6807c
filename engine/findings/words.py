"""A claim's result in one sentence, and the paper that the claims are of."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.findings.claim import Claim
from engine.findings.evaluate import Finding, Outcome, Pooled
from engine.findings.verdicts import NOT, is_better
from engine.records.interval import Interval

PAPER = (
    'Hong et al. 2025, "Training Domain Draft Models for Speculative Decoding: Best Practices and Insights", '
    "arXiv:2503.07807"
)
PAPER_URL = "https://arxiv.org/abs/2503.07807"


def sentence(finding: Finding) -> str:
    """What was measured, over all comparisons of the claim, and what the paper says; or what is missing.

    'Offline 0.459, online 0.402: +14.2% [+12.0%, +16.1%], over 24 comparisons at T = 0 and 1 together (T = 0: +16.3%;
    T = 1: +12.1%); the paper says +11% to +25%.'
    """
    claim, pooled = finding.claim, finding.headline.pooled
    if pooled is None:
        return f"Not tested yet: {finding.reason}."
    sides = f"{claim.other} {pooled.other_rate:.3f}, {claim.base} {pooled.base_rate:.3f}"
    absolute = math.isnan(pooled.relative.value)
    form = "+.3f" if absolute else "+.1%"
    effect = ranged(pooled.absolute if absolute else pooled.relative, form)
    sides = sides if "_" in sides.split()[0] else sides[:1].upper() + sides[1:]  # forward_kl is a name
    why = f"; {finding.reason}" if finding.verdict == NOT else ""  # the mean alone may point the other way
    over = f", over {pooled.n_cells} comparisons" if pooled.n_cells > 1 else ""
    over += _temperatures(finding.headline, form)
    return f"{sides}: {effect}{over}{_paper(claim, pooled)}{why}."


def _temperatures(outcome: Outcome, form: str) -> str:
    """' at T = 0', or both with the value at each alone: the paper reports by temperature."""
    apart = outcome.by_temperature
    if len(apart) < 2:
        return "".join(f" at T = {t:g}" for t in apart)
    effects = {t: one.absolute if math.isnan(one.relative.value) else one.relative for t, one in apart.items()}
    values = "; ".join(f"T = {t:g}: {one.value:{form}}" for t, one in effects.items())
    return f" at T = {at_words(tuple(apart))} together ({values})"


def at_words(temperatures: Sequence[float]) -> str:
    """'0 and 1'."""
    return " and ".join(f"{t:g}" for t in temperatures)


def _paper(claim: Claim, pooled: Pooled) -> str:
    if claim.band is None:
        return ""
    low, high = claim.band
    said = f"{low:+.0%} to {high:+.0%}" if high else f"down to {low:+.0%}"
    better = is_better(claim, pooled.relative, pooled.absolute)
    return f"; better than the paper says ({said})" if better else f"; the paper says {said}"


def ranged(interval: Interval, form: str) -> str:
    """'+14.2% [+12.0%, +16.1%]': a value with its interval, where it has one."""
    if math.isnan(interval.value):
        return "–"
    if math.isnan(interval.low):
        return f"{interval.value:{form}}"
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"
