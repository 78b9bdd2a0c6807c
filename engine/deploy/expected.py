"""What to expect of each server that a run's draft is given to: rates by their names, speed, schedule, flags.

Acceptance comes from the run's measurement and the server's rule (`engine.deploy.prediction`), seconds from the step
times of `draftbench measure RUN --batch-sizes`, or from the run's own timing where there are none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from engine.catalogue import SERVERS, Proposals
from engine.deploy.prediction import Prediction, Predictor
from engine.deploy.schedule import Schedule, schedule_for
from engine.deploy.synthetic import Synthetic, synthetic_for
from engine.deploy.worth import StepCosts, Worth, worth_it
from engine.errors import DraftbenchError, did_you_mean
from engine.fileio import read_object
from engine.measure.predicted_speed import GammaChoice, RoundCosts, predict_speed, rounds_table
from engine.measure.speed_words import measured_where
from engine.measure.step_words import true_of
from engine.measure.text_rounds import PredictedRates, TextRounds, predicted_rates
from engine.numbers import has_bounds, times
from engine.records.provenance import Provenance
from engine.records.speed import Speed
from engine.records.step_times import StepCell, StepTimes
from engine.records.summary import Summary
from engine.runs.folder import RunFolder

_BATCHED = "1,2,4,8"
_MOST_GAMMA, _MOST_TURNS, _MOST_CELLS = 64, 1000, 256  # of a file that may have been edited


@dataclass(frozen=True)
class CellChoice:
    """The best gamma of one batch size and context length."""

    batch_size: int
    context: int
    choice: GammaChoice


@dataclass(frozen=True)
class Expected:
    """What one server should do with the draft under one of its rules, at one temperature."""

    server: str
    proposals: Proposals
    is_default: bool
    """Whether the server proposes so unless asked for the other rule."""
    temperature: float
    gamma: int
    rate_name: str
    """What the server calls accepted over proposed tokens; '' for one that does not report it."""
    rates: PredictedRates
    synthetic: Synthetic
    worth: Worth | None
    """None where nothing was timed."""
    cells: tuple[CellChoice, ...] = ()
    schedule: Schedule | None = None
    """Of `Expectations.schedule_context`; None without step times."""


@dataclass(frozen=True)
class Expectations:
    """All rows, where their seconds come from, and what could not be predicted."""

    run_id: str
    rows: tuple[Expected, ...]
    timed_on: str
    """The machine of the times and that they are true of it alone; '' if nothing was timed."""
    schedule_context: int | None
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "run": self.run_id,
            "timed_on": self.timed_on,
            "schedule_context": self.schedule_context,
            "notes": list(self.notes),
            "servers": [{**asdict(row), "title": SERVERS[row.server].title} for row in self.rows],
        }


def expectations(run: RunFolder, *, servers: Sequence[str] = (), gamma: int | None = None) -> Expectations:
    """What to expect of some servers, by default of all, at every temperature that the run was measured at.

    `gamma`: by default that of the run's measurement. Raises DraftbenchError for an unknown server, a run without a
    measurement against its own target, or one from which nothing can be predicted.
    """
    chosen = _known(servers)
    predictor, summary = Predictor.of_run(run.path, run.id), run.summary()
    asked = gamma or summary.conditions.num_draft_tokens
    if asked is None:
        raise DraftbenchError(
            f"run {run.id} does not say with how many draft tokens it was measured",
            "a server's rates depend on gamma",
            "name it with --gamma",
        )
    timing = _Timing.of_run(run, summary)
    choices: dict[tuple[int, ...], GammaChoice] = {}
    rows: list[Expected] = []
    failed: dict[str, list[str]] = {}  # why, by what cannot be predicted -> the servers
    for temperature in predictor.temperatures:
        for server in chosen:
            for rule in _rules(server, temperature):
                try:
                    rows.append(_Forecast(predictor, timing, server, rule, temperature, asked, choices).expected())
                except DraftbenchError as error:
                    why = f"{error.what}; {error.fix.replace('RUN', run.id)}"
                    failed.setdefault(f"{rule} proposals at temperature {temperature:g}: {why}", []).append(server)
    notes = [*timing.notes]
    notes += [f"{', '.join(SERVERS[s].title for s in names)}: no {what}" for what, names in failed.items()]
    if not rows:
        raise DraftbenchError(f"nothing can be predicted from run {run.id}", notes[-1], f"draftbench measure {run.id}")
    return Expectations(run.id, tuple(rows), timing.where, timing.schedule_context, tuple(notes))


def _known(servers: Sequence[str]) -> list[str]:
    for name in servers:
        if name not in SERVERS:
            raise DraftbenchError(f"unknown server {name!r}", "", did_you_mean(name, SERVERS))
    return list(dict.fromkeys(servers)) or list(SERVERS)


def _rules(server: str, temperature: float) -> tuple[Proposals, ...]:
    """A server's rules; at temperature 0, where they are one, its default alone."""
    rules = SERVERS[server].proposals
    return rules[:1] if temperature == 0 else rules


@dataclass(frozen=True)
class _Timing:
    """The seconds that are at hand: cells of step times, else the run's own timing at one gamma."""

    cells: tuple[StepCell, ...] = ()
    single: StepCosts | None = None
    where: str = ""
    schedule_context: int | None = None
    notes: tuple[str, ...] = ()
    clock: Speed | None = None
    """What the run itself measured with a clock, at one gamma."""

    @classmethod
    def of_run(cls, run: RunFolder, summary: Summary) -> _Timing:
        again = f"`draftbench measure {run.id} --batch-sizes {_BATCHED}`"
        times, notes = step_times_of(run)
        cells = () if times is None else tuple(cell for cell in times.cells[:_MOST_CELLS] if is_whole(cell))
        if times is not None and len(cells) < len(times.cells):
            notes.append(f"{len(times.cells) - len(cells)} cells of step times are incomplete and not used")
        if times is not None and cells:
            contexts = sorted({cell.context for cell in cells})
            usual = times.usual_context or contexts[0]
            nearest = min(contexts, key=lambda context: abs(context - usual))
            return cls(cells, None, true_of(times), nearest, tuple(notes), summary.speed)
        notes.append(f"no schedule, and speed at one gamma alone: {again} times rounds by batch size")
        single = _single(summary)
        where = measured_where(summary, Provenance.read_or_empty(run.path)) if single else ""
        if single is None:
            notes.append("nothing was timed, so no speed-up is predicted")
        timed_on = f"measured on {where or 'an unknown machine'}, and true of it alone." if single else ""
        return cls((), single, timed_on, None, tuple(notes), summary.speed)

    @property
    def at_one(self) -> StepCell | None:
        """The cell of the smallest batch at the context of the schedule."""
        here = [cell for cell in self.cells if cell.context == self.schedule_context]
        return min(here, key=lambda cell: cell.batch_size, default=None)


def step_times_of(run: RunFolder) -> tuple[StepTimes | None, list[str]]:
    """The step times of the run's draft, None if there are none, and what was not used.

    Times of a draft with other weights are not used; of a run without weights none are known to be others.
    """
    times, notes = StepTimes.load(run.path)
    path = run.path / "draft" / "best" / "draft.json"
    if times is not None and path.is_file() and read_object(path).get("weights_sha256") != times.draft_sha256:
        return None, [*notes, "its step times were measured with an earlier draft of this run, and are not used"]
    return times, notes


def is_whole(cell: StepCell) -> bool:
    """Whether a cell has a plain step and a round, each of as many turns, all finite, none out of bounds."""
    rounds = cell.rounds
    seconds = [part for r in rounds for part in (*r.turns, r.round_s.median, r.verify_s.median)]
    parts = [part.median for r in rounds for part in (r.draft_s, r.overhead_s)]
    (turns, *others) = {len(r.turns) for r in rounds} or {0}
    return (
        0 in {r.gamma for r in rounds}
        and bool(cell.gammas)
        and cell.gammas[-1] <= _MOST_GAMMA
        and not others
        and 0 < turns <= _MOST_TURNS
        and cell.batch_size > 0
        and all(math.isfinite(part) and part > 0 for part in seconds)
        and all(math.isfinite(part) and part >= 0 for part in parts)
    )


def _single(summary: Summary) -> StepCosts | None:
    """The run's own timing at its gamma; None if there is none or it is not whole."""
    if summary.speed is None or not summary.speed.forward_s.num_draft_tokens:
        return None
    s = summary.speed.forward_s
    if not all(map(math.isfinite, (s.plain_s, s.draft_s, s.verify_s, s.overhead_s))) or s.plain_s <= 0:
        return None
    return StepCosts(s.num_draft_tokens or 0, s.plain_s, s.draft_s, s.verify_s, s.overhead_s, s.plain_s)


@dataclass(frozen=True)
class _Forecast:
    """One row in the making."""

    predictor: Predictor
    timing: _Timing
    server: str
    rule: Proposals
    temperature: float
    gamma: int
    choices: dict[tuple[int, ...], GammaChoice]
    """By the predictions, which servers share, and the place of the cell."""
    _made: dict[int, Prediction] = field(default_factory=dict)

    def expected(self) -> Expected:
        rates = predicted_rates(self._rounds(self.gamma).values())
        cells = tuple(
            CellChoice(cell.batch_size, cell.context, self._choice(place, cell))
            for place, cell in enumerate(self.timing.cells)
        )
        best = {c.batch_size: c.choice.best for c in cells if c.context == self.timing.schedule_context}
        return Expected(
            self.server,
            self.rule,
            self.rule == SERVERS[self.server].proposals[0],
            self.temperature,
            self.gamma,
            SERVERS[self.server].acceptance,
            rates,
            synthetic_for(self.server, [place.value for place in rates.accepted_at], self.rule),
            self._worth(cells),
            cells,
            schedule_for(self.server, best, self.rule) if best else None,
        )

    def _rounds(self, gamma: int) -> Mapping[str, TextRounds]:
        return self._prediction(gamma).rounds

    def _prediction(self, gamma: int) -> Prediction:
        if gamma not in self._made:
            self._made[gamma] = self.predictor.predict(self.server, self.temperature, self.rule, gamma)
        return self._made[gamma]

    def _choice(self, place: int, cell: StepCell) -> GammaChoice:
        key = (place, *(id(self._prediction(gamma)) for gamma in cell.gammas))
        if key not in self.choices:
            costs = RoundCosts(cell.at(0).turns, {gamma: cell.at(gamma).turns for gamma in cell.gammas})
            self.choices[key] = self._speeds(cell.gammas, costs)
        return self.choices[key]

    def _speeds(self, gammas: Sequence[int], costs: RoundCosts) -> GammaChoice:
        by_gamma = {g: [(text.emitted, text.rounds) for text in self._rounds(g).values()] for g in gammas}
        return predict_speed(rounds_table(by_gamma), costs)

    def _worth(self, cells: Sequence[CellChoice]) -> Worth | None:
        """The answer at the smallest batch size that was timed, at the gamma that is asked for if it was timed."""
        cell = self.timing.at_one
        if cell is not None:
            gamma = min(cell.gammas, key=lambda timed: (abs(timed - self.gamma), timed))
            here = next(c for c in cells if (c.batch_size, c.context) == (cell.batch_size, cell.context))
            times, plain = cell.at(gamma), cell.at(0)
            costs = StepCosts(
                gamma,
                plain.round_s.median,
                times.draft_s.median / gamma,
                times.verify_s.median,
                times.overhead_s.median,
                plain.verify_s.median,
            )
            return self._beside_the_clock(worth_it(costs, here.choice, asked=self.gamma), gamma)
        single = self.timing.single
        if single is None:
            return None
        round_s = single.gamma * single.draft_s + single.verify_s + single.overhead_s
        choice = self._speeds([single.gamma], RoundCosts(single.plain_s, {single.gamma: round_s}))
        worth = worth_it(single, choice, asked=self.gamma, spread_of_times=False)
        return self._beside_the_clock(worth, single.gamma)

    def _beside_the_clock(self, worth: Worth, gamma: int) -> Worth:
        """The same with what the run measured under the same rule, at this gamma and temperature, if it did."""
        clock = self.timing.clock
        same_rule = self.temperature == 0 or self.rule == self.predictor.conditions.proposals
        if clock is None or clock.speedup is None or not same_rule or clock.temperature != self.temperature:
            return worth
        if clock.forward_s.num_draft_tokens != gamma:
            return worth
        words = f"On the clock this run measured {times(clock.speedup)} at this gamma"
        if has_bounds(clock.speedup) and not clock.speedup.low <= worth.speedup.value <= clock.speedup.high:
            words += ": the prediction is outside that interval, so trust the measured figure"
        return replace(worth, sentence=f"{worth.sentence} {words}.")
