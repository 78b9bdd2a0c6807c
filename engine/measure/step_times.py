"""Seconds of a round of decoding by batch size, context length and gamma, in the loop that decodes.

All rows of a batch have read the same number of tokens when a round begins, and what a round added is taken back after
it, so every gamma is timed at exactly this context. Plain steps and all gammas take turns: a machine drifts, and what
is compared was timed in between. The seconds depend on shapes, not on what the text says, so any text will do (a model
with experts is an exception: it is timed on the text given).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from engine.decode.events import Round
from engine.decode.runner import AnyRunner, runner_for
from engine.decode.sampling import Sampling
from engine.decode.settings import NO_DRAFT, DecodeSettings, FixedLength
from engine.decode.speculative import rounds_from
from engine.measure.load import load_of_others
from engine.measure.speed import turn
from engine.measure.statistics import percentile_interval
from engine.progress import SILENT, TIMING, Progress
from engine.records.step_times import RoundSeconds, Seconds, StepCell

MOST_GAMMA = 8
TURNS = 15
_WARM_UP_TURNS = 2
_SAMPLES = 2000  # bootstrap draws of a median
_SPARE_SLOTS = 2  # of a row, beyond its context and the largest proposal


@dataclass(frozen=True)
class TimedRound:
    """The parts of one round of the whole batch, in seconds."""

    draft_s: float
    verify_s: float
    overhead_s: float

    @property
    def round_s(self) -> float:
        return self.draft_s + self.verify_s + self.overhead_s


def time_cell(
    target: Any,
    draft: Any,
    texts: Sequence[Sequence[int]],
    *,
    gammas: Sequence[int] = tuple(range(1, MOST_GAMMA + 1)),
    turns: int = TURNS,
    seed: int = 0,
    progress: Progress = SILENT,
) -> StepCell:
    """Time a round at each gamma, and a plain step, in the middle of the texts.

    `target` and `draft` are Transformers causal models. `texts`: ids [row], all of one length, which is
    the context and one token that the target has yet to read. Proposals are greedy. Raises ValueError for texts that
    are not alike or shorter than three tokens.
    """
    lengths = {len(ids) for ids in texts}
    if len(lengths) != 1 or min(lengths) < 3:
        raise ValueError(f"texts must be of one length of at least 3 tokens, got {sorted(lengths)}")
    context, ways = lengths.pop() - 1, [0, *sorted(gammas)]
    load = load_of_others()
    runners = _prefilled(target, draft, texts, slots=context + ways[-1] + _SPARE_SLOTS)
    timed: dict[int, list[TimedRound]] = {gamma: [] for gamma in ways}
    progress.note(f"timing batch size {len(texts)} at context {context}")
    progress.start(TIMING, _WARM_UP_TURNS + turns, "turns")
    try:
        for number in range(_WARM_UP_TURNS + turns):
            for gamma in turn(ways, number):
                timed[gamma].append(_one_round(*runners, texts, gamma, seed))
            progress.advance(1)
            progress.stop_if_asked()
    finally:
        for runner in runners:
            runner.close()
        progress.finish()
    rounds = [round_seconds(gamma, some[_WARM_UP_TURNS:], seed) for gamma, some in timed.items()]
    return StepCell(batch_size=len(texts), context=context, load=load, rounds=rounds)


def _prefilled(target: Any, draft: Any, texts: Sequence[Sequence[int]], slots: int) -> tuple[AnyRunner, AnyRunner]:
    """Runners that stand where a round begins: the target has one token yet to read, the draft two."""
    target_runner = runner_for(target, slots=slots)
    draft_runner = runner_for(draft, is_draft=True, slots=slots)
    target_runner.feed([ids[:-1] for ids in texts], last=1)
    draft_runner.feed([ids[:-2] for ids in texts], last=1)
    return target_runner, draft_runner


def _one_round(
    target_runner: AnyRunner, draft_runner: AnyRunner, texts: Sequence[Sequence[int]], gamma: int, seed: int
) -> TimedRound:
    """One round of all rows, after which the runners stand where they stood."""
    length = FixedLength(gamma) if gamma else NO_DRAFT
    settings = DecodeSettings(Sampling(0.0), length, gamma + _SPARE_SLOTS, frozenset(), seed)
    runners = (target_runner, draft_runner) if gamma else (target_runner,)
    before = [list(runner.lengths) for runner in runners]
    rounds = rounds_from(target_runner, draft_runner if gamma else None, texts, settings)
    (first, *_) = islice(rounds, len(texts))  # each row's round, all with the seconds of the batch
    for runner, lengths in zip(runners, before, strict=True):
        runner.take_back([now - then for now, then in zip(runner.lengths, lengths, strict=True)])
    return _timed(first)


def _timed(item: Round) -> TimedRound:
    return TimedRound(item.draft_s, item.verify_s, item.overhead_s)


def round_seconds(gamma: int, timed: Sequence[TimedRound], seed: int = 0) -> RoundSeconds:
    """Medians of the parts of some rounds at one gamma, with intervals over the turns."""
    return RoundSeconds(
        gamma=gamma,
        draft_s=median([t.draft_s for t in timed], seed),
        verify_s=median([t.verify_s for t in timed], seed),
        overhead_s=median([t.overhead_s for t in timed], seed),
        round_s=median([t.round_s for t in timed], seed),
        turns=[t.round_s for t in timed],
    )


def median(seconds: Sequence[float], seed: int = 0) -> Seconds:
    """The median with its 95% interval (bootstrap over the turns); no bounds for a single one."""
    values = np.asarray(seconds, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), (_SAMPLES, len(values)))
    interval = percentile_interval(float(np.median(values)), np.median(values[drawn], axis=1), len(values))
    return Seconds(median=interval.value, low=interval.low, high=interval.high)


def texts_of(rows: Sequence[Sequence[int]], count: int, tokens: int) -> list[list[int]]:
    """`count` texts of exactly `tokens` ids each, cut from the rows one after the other, which begin again at the end.

    Raises ValueError if there is no id at all.
    """
    stream = [token for row in rows for token in row]
    if not stream:
        raise ValueError("there is no text to cut from")
    starts = [number * len(stream) // count for number in range(count)]
    return [[stream[(start + place) % len(stream)] for place in range(tokens)] for start in starts]
