"""A claim's result in one sentence, and the paper that the claims are of."""

from __future__ import annotations

import math

from engine.findings.claim import Claim
from engine.findings.evaluate import Finding, Pooled
from engine.findings.verdicts import NOT, is_better
from engine.records.interval import Interval

PAPER = (
    'Hong et al. 2025, "Training Domain Draft Models for Speculative Decoding: Best Practices and Insights", '
    "arXiv:2503.07807"
)
PAPER_URL = "https://arxiv.org/abs/2503.07807"


def sentence(finding: Finding) -> str:
    """What was measured, over all comparisons of the claim, and what the paper says; or what is missing.

    'Offline 0.459, online 0.402: +14.2% [+12.0%, +16.1%], over 24 comparisons; the paper says +11% to +25%.'
    """
    claim, pooled = finding.claim, finding.headline.pooled
    if pooled is None:
        return f"Not tested yet: {finding.reason}."
    sides = f"{claim.other} {pooled.other_rate:.3f}, {claim.base} {pooled.base_rate:.3f}"
    absolute = math.isnan(pooled.relative.value)
    effect = ranged(pooled.absolute, "+.3f") if absolute else ranged(pooled.relative, "+.1%")
    sides = sides if "_" in sides.split()[0] else sides[:1].upper() + sides[1:]  # forward_kl is a name
    why = f"; {finding.reason}" if finding.verdict == NOT else ""  # the mean alone may point the other way
    over = f", over {pooled.n_cells} comparisons" if pooled.n_cells > 1 else ""
    return f"{sides}: {effect}{over}{_paper(claim, pooled)}{why}."


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
