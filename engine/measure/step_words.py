"""Step times in words: which machine they are true of. One place for reports, pages and predictions."""

from __future__ import annotations

import math

from engine.measure import speed_words
from engine.measure.speed_words import machine_words
from engine.numbers import number
from engine.records.provenance import Machine
from engine.records.step_times import StepTimes


def measured_where(times: StepTimes) -> str:
    """'AMD EPYC, 2 cores, 2 threads, bfloat16 on cpu'; what is not on record is left out."""
    return machine_words(times.machine or Machine(), times.device, times.dtype, times.threads, times.quantize)


def true_of(times: StepTimes) -> str:
    """Where the times were measured, that they are true of it alone, and whether it was busy."""
    words = f"measured on {measured_where(times) or 'an unknown machine'}, and true of it alone"
    if times.device == "cpu":
        words += ": a server on another processor or a GPU has other times, and another best gamma"
    busiest = max((cell.load for cell in times.cells if not math.isnan(cell.load)), default=0.0)
    if is_busy(busiest, times.machine):
        words += f". Other processes kept {number(busiest, 1)} cores busy: measure again when the machine is idle"
    return words + "."


def is_busy(load: float, machine: Machine | None) -> bool:
    """Whether other work was on the machine: more than a tenth of its cores."""
    return speed_words.is_busy(load, machine.cores if machine else None)
