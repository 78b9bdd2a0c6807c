"""A predicted figure beside the served one, with intervals and the distance between them. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from engine.deploy.prediction import Prediction
from engine.measure.statistics import bootstrap_ratio, paired_difference
from engine.measure.text_rounds import TextRounds
from engine.records.interval import Interval
from engine.records.served import RoundTotals

Z = 1.96  # standard errors of a 95% interval
_FEWEST_REQUESTS = 8  # fewer vary too little to show how much requests vary
_MOST_GROUPS = 1000
Basis = Literal["prompts", "requests", "rounds", "proposed tokens"]
"""What the served interval is taken over; 'prompts': the same ones as predicted, in pairs."""

_Counts = RoundTotals | TextRounds


@dataclass(frozen=True)
class Figure:
    """One figure. `distance`: served less predicted in standard errors; NaN where either has no interval."""

    name: str
    title: str
    predicted: Interval
    served: Interval
    basis: Basis
    distance: float

    @property
    def agrees(self) -> bool | None:
        """Whether the two are no further apart than chance allows; None if that cannot be said."""
        return None if math.isnan(self.distance) else abs(self.distance) <= Z

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "agrees": self.agrees}


@dataclass(frozen=True)
class Served:
    """What is compared: the counts of a server, in all, by request, and by prompt id where the prompts are known."""

    totals: RoundTotals
    per_request: Sequence[RoundTotals] = ()
    prompt_ids: Sequence[str] = ()


def headline(prediction: Prediction, served: Served) -> list[Figure]:
    """Accepted over proposed and tokens per round, as far as the server counts what they are of."""
    return _known(
        [
            _figure("per_proposed", "accepted / proposed", prediction, served),
            _figure("tokens_per_round", "tokens per round", prediction, served),
        ]
    )


def by_place(prediction: Prediction, served: Served) -> list[Figure]:
    """Acceptance at each place of the proposal, over rounds; empty where the server does not count it."""
    if not served.totals.accepted_at or not served.totals.rounds:
        return []
    places = min(prediction.gamma, len(served.totals.accepted_at))
    return _known(
        [_figure(f"place_{place + 1}", f"token {place + 1} accepted", prediction, served) for place in range(places)]
    )


def _known(figures: Sequence[Figure]) -> list[Figure]:
    return [figure for figure in figures if math.isfinite(figure.served.value)]


def _figure(name: str, title: str, prediction: Prediction, served: Served) -> Figure:
    texts = list(prediction.rounds.values())
    predicted = bootstrap_ratio(*_columns(name, texts))
    paired = _paired(name, prediction, served)
    if paired is not None:
        return Figure(name, title, predicted, paired[0], "prompts", paired[1])
    interval, basis = _served_interval(name, served, prediction.gamma)
    spread = math.hypot(_error(predicted), _error(interval))
    apart = interval.value - predicted.value
    return Figure(name, title, predicted, interval, basis, apart / spread if spread else _sign(apart))


def _columns(name: str, counts: Sequence[_Counts]) -> tuple[list[float], list[float]]:
    """Numerators and denominators of a figure; NaN where a count is missing."""
    pairs = [_ratio(name, count) for count in counts]
    return [top for top, _ in pairs], [bottom for _, bottom in pairs]


def _ratio(name: str, count: _Counts) -> tuple[float, float]:
    accepted, rounds = _number(count.accepted), _number(count.rounds)
    if name == "per_proposed":
        return accepted, _number(count.proposed)
    if name == "tokens_per_round":
        if isinstance(count, RoundTotals) and count.accepted is None and count.requests is not None:
            return _number(count.emitted) - count.requests, rounds
        return accepted + rounds, rounds
    place, places = int(name.removeprefix("place_")) - 1, count.accepted_at
    return (float(places[place]) if place < len(places) else 0.0) if places is not None else math.nan, rounds


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _paired(name: str, prediction: Prediction, served: Served) -> tuple[Interval, float] | None:
    """The served figure of the very prompts of the prediction and its distance, by prompt; None if they are others."""
    if not served.prompt_ids or len(served.prompt_ids) != len(served.per_request):
        return None
    pairs = [
        (prediction.rounds[prompt_id], request)
        for prompt_id, request in zip(served.prompt_ids, served.per_request, strict=True)
        if prompt_id in prediction.rounds
    ]
    if len(pairs) < 2 or len(pairs) < len(served.per_request):
        return None
    expected, observed = (_columns(name, [pair[side] for pair in pairs]) for side in (0, 1))
    if not np.isfinite([*observed[0], *observed[1]]).all():
        return None
    difference = paired_difference(*expected, *observed)
    error = _error(difference)
    return bootstrap_ratio(*observed), difference.value / error if error else _sign(difference.value)


def _served_interval(name: str, served: Served, gamma: int) -> tuple[Interval, Basis]:
    tops, bottoms = _columns(name, served.per_request)
    if len(tops) >= _FEWEST_REQUESTS and np.isfinite([*tops, *bottoms]).all():
        return ratio_over_requests(tops, bottoms), "requests"
    top, bottom = _ratio(name, served.totals)
    value = top / bottom if bottom else math.nan
    error, count = _round_error(name, served.totals, gamma)
    basis: Basis = "rounds" if served.totals.rounds else "proposed tokens"
    return Interval(value, max(0.0, value - Z * error), value + Z * error, count), basis


def _round_error(name: str, totals: RoundTotals, gamma: int) -> tuple[float, int]:
    """Standard error of a figure from totals alone, as if rounds were independent, and how many there are.

    Rounds of one answer are alike, so it is somewhat too small. Where the spread over rounds is not counted, it is
    taken as large as it can be: as if all tokens of a proposal were accepted together or none. Where rounds are not
    counted either, there are taken to be as many as gamma makes of the proposed tokens.
    """
    rounds = totals.rounds or (totals.proposed or 0) / gamma
    if not rounds or totals.accepted is None:
        return math.nan, int(rounds)
    mean = totals.accepted / rounds
    if name.startswith("place_"):
        share = _ratio(name, totals)[0] / rounds
        return math.sqrt(share * (1 - share) / rounds), int(rounds)
    variance = mean * max(gamma - mean, 0.0)
    if totals.accepted_at and totals.rounds:
        # E[K^2] of K accepted tokens is sum of (2 i - 1) P(K >= i), i from 1
        squares = sum((2 * place + 1) * count for place, count in enumerate(totals.accepted_at)) / rounds
        variance = max(squares - mean * mean, 0.0)
    error = math.sqrt(variance / rounds)
    per_round = (totals.proposed or 0) / rounds
    return (error / per_round if name == "per_proposed" and per_round else error), int(rounds)


def ratio_over_requests(tops: Sequence[float], bottoms: Sequence[float]) -> Interval:
    """sum(tops) / sum(bottoms) with its interval over requests: [request], in the order they were served.

    Of very many, neighbours are added up to a thousand groups first: resampling 200,000 requests would take gigabytes,
    and a thousand groups give the same interval.
    """
    size = -(-len(tops) // _MOST_GROUPS)
    pooled = [[sum(values[i : i + size]) for i in range(0, len(values), size)] for values in (tops, bottoms)]
    interval = bootstrap_ratio(*pooled)
    return Interval(interval.value, interval.low, interval.high, len(tops))


def _error(interval: Interval) -> float:
    """The standard error that a 95% interval stands for; NaN without one."""
    return (interval.high - interval.low) / (2 * Z)


def _sign(apart: float) -> float:
    return 0.0 if apart == 0 else math.copysign(math.inf, apart)


def largest_distance(figures: Sequence[Figure]) -> float:
    """The largest distance of some figures; NaN where none has one."""
    distances = [abs(figure.distance) for figure in figures if not math.isnan(figure.distance)]
    return max(distances, default=math.nan)
