"""A draft's speed-up in our own loop at each gamma: measured at the gamma of its run, predicted at the others.

Drafts are measured at different gammas, and each is best at its own. Predicted are the rounds that the held-out texts
take at a gamma (`engine.measure.text_rounds`), over what a round costs: by the run's step times at batch size 1, or
else by its own timing, where a verification's time at another gamma is interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from engine.deploy.expected import is_whole, step_times_of
from engine.errors import DraftbenchError, boundary
from engine.measure.compare import SAME_TEMPERATURE
from engine.measure.predicted_speed import GammaChoice, RoundCosts, predict_speed, rounds_table
from engine.measure.text_rounds import predicted_rounds
from engine.numbers import is_number
from engine.records.interval import Interval
from engine.records.speed import GammaRow, Speed
from engine.records.step_times import StepCell, StepTimes
from engine.records.summary import Summary
from engine.runs.folder import RunFolder


@dataclass(frozen=True)
class SpeedByGamma:
    """Speed-ups over plain decoding by gamma, at temperature `temperature` and batch size 1.

    `measured`: at the gammas that were timed. `predicted`: at every gamma that the times tell, with intervals where
    acceptance by token is on record. `best`: the smallest gamma that the prediction does not tell from the best one;
    where that is plain decoding itself, the gamma above 0 that is predicted the fastest. `basis`: what the prediction
    rests on, in words; `notes`: what was not used.
    """

    temperature: float
    measured: dict[int, Interval]
    predicted: dict[int, Interval]
    best: int
    basis: str
    notes: tuple[str, ...] = ()

    def at(self, gamma: int) -> tuple[Interval, bool] | None:
        """The speed-up at a gamma, and whether it was measured; None if nothing tells it."""
        if gamma in self.measured:
            return self.measured[gamma], True
        return (self.predicted[gamma], False) if gamma in self.predicted else None


def speed_by_gamma(run: RunFolder) -> SpeedByGamma | None:
    """The speed-ups of a run's draft; None if it was not timed. Raises DraftbenchError for a damaged measurement."""
    summary = run.summary()
    speed = summary.speed
    if speed is None or speed.speedup is None or not speed.forward_s.num_draft_tokens:
        return None
    measured = {speed.forward_s.num_draft_tokens: speed.speedup}
    costs, basis, notes = _costs(run, speed)
    if not costs:
        best = speed.forward_s.num_draft_tokens
        return SpeedByGamma(
            speed.temperature, measured, {}, best, "", (*notes, "no times to predict other gammas from")
        )
    try:
        choice = _choice(run, summary, speed, costs)
    except DraftbenchError as error:
        predicted = {row.gamma: Interval(row.measured) for row in speed.by_gamma if is_number(row.measured)}
        best = max(sorted(predicted), key=lambda gamma: predicted[gamma].value)
        basis = "the cost model at the measured acceptance, without an interval"
        return SpeedByGamma(speed.temperature, measured, predicted, best, basis, (*notes, error.what))
    predicted = {row.gamma: row.speedup for row in choice.by_gamma}
    best = choice.best or max(sorted(predicted), key=lambda gamma: predicted[gamma].value)
    return SpeedByGamma(speed.temperature, measured, predicted, best, f"acceptance by token, {basis}", tuple(notes))


def round_cost(run: RunFolder, gamma: int) -> float:
    """Plain steps that a round of gamma proposals takes in our own loop at batch size 1; NaN without times."""
    speed = run.summary().speed
    costs = None if speed is None else _costs(run, speed)[0]
    if costs is None or gamma not in costs.round_s:
        return math.nan
    round_s, plain_s = (np.asarray(seconds, float).mean() for seconds in (costs.round_s[gamma], costs.plain_s))
    return float(round_s / plain_s)


def _costs(run: RunFolder, speed: Speed) -> tuple[RoundCosts | None, str, list[str]]:
    """Seconds of a plain step and of a round by gamma, where they come from, and what was not used."""
    times, notes = step_times_of(run)
    if times is not None and (cell := _cell(times)) is not None:
        rounds = {gamma: cell.at(gamma).turns for gamma in cell.gammas}
        return RoundCosts(cell.at(0).turns, rounds), "step times of each gamma", notes
    ratios = {row.gamma: _cost(row) for row in speed.by_gamma}
    known = {gamma: cost for gamma, cost in ratios.items() if math.isfinite(cost) and cost > 0}
    gamma = speed.forward_s.num_draft_tokens
    return (RoundCosts(1.0, known) if known else None), f"times interpolated from those at gamma {gamma}", notes


def _cost(row: GammaRow) -> float:
    """A round over a plain step, as the run's cost model has it."""
    return row.expected_tokens / row.measured if row.measured else math.nan


def _cell(times: StepTimes) -> StepCell | None:
    """The step times of one row at the context nearest to the run's own answers."""
    single = [cell for cell in times.cells if cell.batch_size == 1 and is_whole(cell)]
    usual = times.usual_context or 0
    return min(single, key=lambda cell: abs(cell.context - usual), default=None)


def _choice(run: RunFolder, summary: Summary, speed: Speed, costs: RoundCosts) -> GammaChoice:
    path = run.path / "measure" / "positions.parquet"
    with boundary(f"{path.name} cannot be read", f"draftbench measure {run.id}"):
        table = pd.read_parquet(path)
    near = (table.temperature - speed.temperature).abs() < SAME_TEMPERATURE
    rows = table[(table.draft == "trained") & near]
    if not len(rows):
        raise DraftbenchError("acceptance by token is not on record at the temperature of the timing", "", "")
    # at temperature 0 both ways propose the likeliest token, and older measurements know no other
    proposals = "sampled" if speed.temperature == 0 else summary.conditions.proposals
    by_gamma: Mapping[int, Sequence[tuple[float, float]]] = {
        gamma: [
            (text.emitted, text.rounds)
            for text in predicted_rounds(rows, gamma, proposals, limit=summary.conditions.max_new_tokens).values()
        ]
        for gamma in costs.round_s
    }
    return predict_speed(rounds_table(by_gamma), costs)
