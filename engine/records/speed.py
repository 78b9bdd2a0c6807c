"""The timing in a summary: speculative decoding against plain decoding on the same prompts, in turn."""

from __future__ import annotations

import math

from engine.records.interval import Interval
from engine.records.record import Part, Real, Whole


class ForwardSeconds(Part):
    """Median seconds of one forward of each kind, rounds with a prefill left out (`engine.measure.speed`)."""

    plain_s: Real = math.nan
    """The target over one token."""
    draft_s: Real = math.nan
    verify_s: Real = math.nan
    """The target over gamma + 1 tokens."""
    overhead_s: Real = math.nan
    """Everything else in a round."""
    num_draft_tokens: Whole | None = None
    """gamma; None where it adapted to the acceptance, and `verify_s` is of the largest."""

    @property
    def cost_ratio(self) -> float:
        """c: one draft forward over one target forward of a single token."""
        return self.draft_s / self.plain_s

    @property
    def round_cost(self) -> float:
        """Plain steps that a round of gamma proposals takes as long as: from so many tokens per round it pays."""
        round_s = (self.num_draft_tokens or 0) * self.draft_s + self.verify_s + self.overhead_s
        return round_s / self.plain_s if self.plain_s else math.nan


class TimeSplit(Part):
    """Shares of the time of speculative decoding; they sum to 1."""

    draft: Real = math.nan
    verify: Real = math.nan
    overhead: Real = math.nan


class PredictedSpeedup(Part):
    """What the cost model says at the measured acceptance [Leviathan et al., arXiv 2211.17192].

    NaN where gamma adapted to the acceptance: the model is of one gamma.
    """

    formula: Real = math.nan
    """Theorem 3.8, which takes a verification for as long as a plain step."""
    measured_times: Real = math.nan
    """With the measured seconds of each kind of forward."""


class BreakEven(Part):
    """Acceptance from which speculation does not lose, by the formula, which takes a verification for a plain step."""

    some_gamma: Real = math.nan
    """At the best gamma: c itself [2211.17192, corollary 3.9]. NaN where no acceptance would be enough."""
    this_gamma: Real = math.nan
    """At the gamma of the measurement."""


class GammaRow(Part):
    """The cost model at one gamma (`engine.measure.cost_model`)."""

    gamma: Whole
    expected_tokens: Real = math.nan
    """Per round, the bonus or corrected token included."""
    formula: Real = math.nan
    """Speed-up by the plain formula."""
    measured: Real = math.nan
    """Speed-up with the measured seconds."""


class MachineLoad(Part):
    """Cores that other processes kept busy (`engine.measure.load.LoadMeter`)."""

    before: Real = math.nan
    """In the half second before the timing."""
    during: Real = math.nan
    """Mean over the timing."""
    cores: Whole | None = None
    """Of the machine."""


class Speed(Part):
    """Batch size 1, warm, the ways of decoding taking turns prompt by prompt."""

    temperature: Real = math.nan
    threads: Whole | None = None
    """Threads that torch computed with."""
    load: MachineLoad | None = None
    """None in older runs, which did not record it."""
    tokens_per_s: dict[str, Interval] = {}
    """'plain', 'speculative', 'transformers' -> emitted tokens a second."""
    speedup: Interval | None = None
    """Tokens a second over those of our plain decoding, paired by prompt."""
    speedup_over_transformers: Interval | None = None
    """The same over Transformers' own `generate`. None in older runs, which did not time it."""
    forward_s: ForwardSeconds = ForwardSeconds()
    time_split: TimeSplit = TimeSplit()
    cost_ratio: Real = math.nan
    """c: one draft forward over one target forward of a single token."""
    alpha: Real = math.nan
    """per_examined acceptance at the temperature of the timing, or at the nearest one measured."""
    alpha_temperature: Real = math.nan
    """Where that is; NaN in older runs, which did not record it."""
    predicted_speedup: PredictedSpeedup = PredictedSpeedup()
    best_gamma: Whole | None = None
    """By the formula; 0 means that speculation does not pay."""
    break_even_alpha: BreakEven = BreakEven()
    by_gamma: list[GammaRow] = []
