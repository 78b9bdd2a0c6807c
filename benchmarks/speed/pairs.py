"""Ways of doing the same work, timed in turns, and the ratios between them.

A machine drifts: it warms up, other programs come and go. So no figure is compared with one of another run. All ways
do the same piece of work in a round, each of them goes first equally often, and what counts is the ratio of their
rates with an interval over the rounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.measure.speed import turn
from engine.measure.statistics import bootstrap_ratio, paired_ratio
from engine.records.interval import Interval

_FEWEST = 2  # rounds without which there is no interval


@dataclass(frozen=True)
class Sample:
    """The work that a way did in one round, in the unit of the comparison, and the seconds it took."""

    amount: float
    seconds: float


Way = Callable[[int], "float | Sample"]
"""Does the work of a round, given its number; returns the amount, or a Sample if it timed itself."""


@dataclass(frozen=True)
class Paired:
    """What each way did in each round. `unit`: of the amounts, such as 'tokens'."""

    unit: str
    samples: Mapping[str, Sequence[Sample]]

    def rate(self, way: str) -> Interval:
        """Units a second, with its interval over the rounds."""
        return bootstrap_ratio(self._amounts(way), self._seconds(way))

    def ratio(self, way: str, over: str) -> Interval:
        """Rate of `way` over that of `over`, both on the same resampled rounds: above 1, `way` is faster."""
        return paired_ratio(self._amounts(over), self._seconds(over), self._amounts(way), self._seconds(way))

    def _amounts(self, way: str) -> list[float]:
        return [sample.amount for sample in self.samples[way]]

    def _seconds(self, way: str) -> list[float]:
        return [sample.seconds for sample in self.samples[way]]


@dataclass(frozen=True)
class Rounds:
    """How often ways take turns: `most` times, or from `limit_s` seconds on no more than `least` times."""

    most: int
    limit_s: float = math.inf
    least: int = 3

    def enough(self, done: int, seconds: float) -> bool:
        return done >= self.most or (done >= self.least and seconds > self.limit_s)


def interleave(
    ways: Mapping[str, Way],
    rounds: Rounds,
    *,
    unit: str,
    warm_up: int = 1,
    wait: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Paired:
    """Let the ways do each round's work in a turning order. The limit of `rounds` counts the warm-up too.

    A KeyboardInterrupt ends the comparison with the rounds that are whole, if there are at least two.

    The first `warm_up` rounds are done once before, without being counted. `wait` returns when the device has done
    all it was given, and is called before the clock is read.
    """
    started = clock()
    for number in range(warm_up):
        for way in ways.values():
            way(number)
    samples: dict[str, list[Sample]] = {name: [] for name in ways}
    number = -1
    try:
        while not rounds.enough(number + 1, clock() - started):
            number += 1
            for name in turn(list(ways), number):
                wait()
                began = clock()
                done = ways[name](number)
                wait()
                seconds = clock() - began
                samples[name].append(done if isinstance(done, Sample) else Sample(done, seconds))
    except KeyboardInterrupt:
        if number < _FEWEST:
            raise
        samples = {name: listed[:number] for name, listed in samples.items()}
    return Paired(unit, samples)
