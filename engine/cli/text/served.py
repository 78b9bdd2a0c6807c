"""A draft on a server as text: seconds of a round, and what to expect of a server."""

from __future__ import annotations

from engine.cli.text import console
from engine.measure import step_words
from engine.numbers import interval
from engine.records.interval import Interval
from engine.records.step_times import Seconds, StepTimes


def step_times(run_id: str, times: StepTimes) -> None:
    """Print a row per batch size, context and gamma, and where the times were measured."""
    console.line(run_id)
    rows = [
        [cell.context, cell.batch_size, r.gamma, *map(_ms, (r.draft_s, r.verify_s, r.overhead_s, r.round_s))]
        for cell in times.cells
        for r in cell.rounds
    ]
    columns = ["context", "batch", "gamma", "draft ms", "verify ms", "rest ms", "round ms"]
    console.table("milliseconds of a round, median of the turns [95% interval]; gamma 0 is a plain step", columns, rows)
    console.paragraph(step_words.true_of(times))


def _ms(seconds: Seconds) -> str:
    return interval(Interval(1000 * seconds.median, 1000 * seconds.low, 1000 * seconds.high), 1)
