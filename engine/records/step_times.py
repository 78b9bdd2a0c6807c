"""`measure/step_times.json`: seconds of a round of decoding by batch size, context length and gamma.

Measured on one machine, and true of it alone: the record says which one, in which precision, with how many threads,
and how busy it was.
"""

from __future__ import annotations

import math
from typing import ClassVar

from engine.records import files
from engine.records.provenance import Machine
from engine.records.record import Part, Real, Record, Text, Time, Whole


class Seconds(Part):
    """The median of a time over the turns, with its 95% interval; NaN bounds where there is none."""

    median: Real = math.nan
    low: Real = math.nan
    high: Real = math.nan


class RoundSeconds(Part):
    """A round of the whole batch at one gamma; gamma 0 is a plain step of the target."""

    gamma: Whole
    draft_s: Seconds = Seconds()
    """All gamma forwards of the draft."""
    verify_s: Seconds = Seconds()
    """The target over gamma + 1 tokens of each row."""
    overhead_s: Seconds = Seconds()
    """The rest of the round."""
    round_s: Seconds = Seconds()
    turns: list[Real] = []
    """Seconds of the round at each turn. In a cell, all gammas have as many turns, taken one after the other."""


class StepCell(Part):
    """One batch size at one context length."""

    batch_size: Whole
    context: Whole
    """Tokens that each row has in its cache when a round begins."""
    recorded_at: Time | None = None
    load: Real = math.nan
    """Cores that other processes kept busy before the cell began. NaN where unknown."""
    rounds: list[RoundSeconds] = []
    """Gamma 0, 1, 2, ..."""

    @property
    def gammas(self) -> list[int]:
        """The gammas above 0 that were timed."""
        return sorted(times.gamma for times in self.rounds if times.gamma > 0)

    def at(self, gamma: int) -> RoundSeconds:
        """The round at that gamma. Raises KeyError if it was not timed."""
        for times in self.rounds:
            if times.gamma == gamma:
                return times
        raise KeyError(gamma)


class StepTimes(Record):
    """The cells that were timed under one set of conditions."""

    FILE: ClassVar[str] = files.STEP_TIMES
    MOST_BYTES: ClassVar[int] = 16_000_000

    machine: Machine | None = None
    device: Text | None = None
    """'cpu' or 'cuda'."""
    dtype: Text | None = None
    """Precision of target and draft."""
    quantize: Text | None = None
    """How the target's weights were rounded: 'int8', or None."""
    threads: Whole | None = None
    """Threads that torch computed with."""
    draft_sha256: Text | None = None
    """Hash of the draft's weights."""
    usual_context: Whole | None = None
    """Tokens in the middle of one of the run's own held-out answers, the prompt included: the median."""
    cells: list[StepCell] = []

    def conditions(self) -> tuple[object, ...]:
        """What cells must share to stand in one record."""
        return (self.machine, self.device, self.dtype, self.quantize, self.threads, self.draft_sha256)

    def with_cell(self, cell: StepCell) -> StepTimes:
        """The record with the cell in its place; an earlier one of the same batch size and context goes."""
        others = [c for c in self.cells if (c.batch_size, c.context) != (cell.batch_size, cell.context)]
        cells = sorted([*others, cell], key=lambda c: (c.context, c.batch_size))
        return self.model_copy(update={"cells": cells})
