"""A predicted figure beside the served one, with intervals and the distance between them. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from engine.deploy.prediction import Prediction
from engine.measure.statistics import bootstrap_ratio, paired_difference
from engine.measure.text_rounds import TextRounds
from engine.records.interval import Interval
from engine.records.served import RoundTotals

Z = 1.96  # standard errors of a 95% interval
_CHANCE = 0.05  # of calling one place of a proposal different though none is
_FEWEST_REQUESTS = 8  # fewer vary too little to show how much requests vary
_MOST_GROUPS = 1000
Basis = Literal["prompts", "requests", "rounds", "proposed tokens"]
"""What the served interval is taken over; 'prompts': the same ones as predicted, in pairs."""

_Counts = RoundTotals | TextRounds


@dataclass(frozen=True)
class Figure:
    """One figure. `distance`: served less predicted in standard errors; NaN where either has no interval.

    `limit`: the distance that chance allows.
    """

    name: str
    title: str
    predicted: Interval
    served: Interval
    basis: Basis
    distance: float
    limit: float = Z

    @property
    def agrees(self) -> bool | None:
        """Whether the two are no further apart than chance allows; None if that cannot be said."""
        return None if math.isnan(self.distance) else abs(self.distance) <= self.limit

    @property
    def apart(self) -> str:
        """The distance in words: '+0.4'; '–' where it cannot be said, 'no spread' between two that do not vary."""
        if math.isnan(self.distance):
            return "–"
        return f"{self.distance:+.1f}" if math.isfinite(self.distance) else "no spread"

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
    """Acceptance at each place of the proposal, over rounds; empty where the server does not count it.

    Of several places one is likely to be off by chance, so what chance allows each is Holm's bound over all of them.
    """
    totals = served.totals
    if not totals.accepted_at or not totals.rounds:
        return []
    # a server's list may end with the last place that is not 0, and adds up to all accepted tokens
    listed = len(totals.accepted_at) if totals.accepted is None else prediction.gamma
    return _holm(
        _known(
            [
                _figure(f"place_{place + 1}", f"token {place + 1} accepted", prediction, served)
                for place in range(min(prediction.gamma, listed))
            ]
        )
    )


def compared(prediction: Prediction, served: Served) -> list[Figure]:
    """All figures that decide whether a server does as predicted: the headline ones, then those by place."""
    return [*headline(prediction, served), *by_place(prediction, served)]


def _holm(figures: Sequence[Figure]) -> list[Figure]:
    """The figures with the distance that chance allows each, so that it lifts any of them over its own in 5% of cases.

    Holm's procedure: of m figures the furthest apart is tested at 5% / m, the next at 5% / (m - 1), and so on up to the
    first that agrees, whose bound then holds for the rest. It needs no independence, which places do not have: a
    token is accepted only after all before it. Source: S. Holm, "A simple sequentially rejective multiple test
    procedure", Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    tested = sorted((f for f in figures if not math.isnan(f.distance)), key=lambda f: -abs(f.distance))
    limits, limit, agreed = dict[str, float](), Z, False
    for rank, figure in enumerate(tested):
        if not agreed:
            limit = NormalDist().inv_cdf(1 - _CHANCE / 2 / (len(tested) - rank))
        agreed = agreed or abs(figure.distance) <= limit
        limits[figure.name] = limit
    return [replace(figure, limit=limits.get(figure.name, Z)) for figure in figures]


def _known(figures: Sequence[Figure]) -> list[Figure]:
    return [figure for figure in figures if math.isfinite(figure.served.value)]


def _figure(name: str, title: str, prediction: Prediction, served: Served) -> Figure:
    texts = list(prediction.rounds.values())
    predicted = bootstrap_ratio(*_columns(name, texts))
    paired = _paired(name, prediction, served)
    basis: Basis = "prompts"
    if paired is not None:
        interval, difference = paired
        apart, spread = difference.value, _error(difference)
    else:
        interval, error, basis = _served_interval(name, served, prediction.gamma)
        apart, spread = interval.value - predicted.value, math.hypot(_error(predicted), error)
    spread = max(spread, _least_error(name, served.totals))  # NaN stays NaN
    return Figure(name, title, predicted, interval, basis, apart / spread if spread else _sign(apart))


def _least_error(name: str, totals: RoundTotals) -> float:
    """The standard error that a share of the rounds has at least, also where it is 0 or 1; 0 for other figures.

    As if rounds were independent, with two more of each kind (A. Agresti and B. Coull, "Approximate is better than
    'exact'", The American Statistician 52 (1998), 119-126): resampled zeros have no spread at all.
    """
    if not name.startswith("place_"):
        return 0.0
    count, rounds = _ratio(name, totals)
    share = (count + 2) / (rounds + 4)
    return math.sqrt(share * (1 - share) / (rounds + 4))


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


def _paired(name: str, prediction: Prediction, served: Served) -> tuple[Interval, Interval] | None:
    """The served figure of the prediction's own prompts and its difference by prompt; None if they are others."""
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
    return bootstrap_ratio(*observed), paired_difference(*expected, *observed)


def _served_interval(name: str, served: Served, gamma: int) -> tuple[Interval, float, Basis]:
    """The served figure with its interval, its standard error, and what the interval is taken over.

    Of totals alone the interval ends where the figure does, as a share at 0 and 1. The standard error does not: an
    interval that was cut would say that the figure is better known than it is.
    """
    tops, bottoms = _columns(name, served.per_request)
    if len(tops) >= _FEWEST_REQUESTS and np.isfinite([*tops, *bottoms]).all():
        interval = ratio_over_requests(tops, bottoms)
        return interval, _error(interval), "requests"
    top, bottom = _ratio(name, served.totals)
    value = top / bottom if bottom else math.nan
    error, count = _round_error(name, served.totals, gamma)
    basis: Basis = "rounds" if served.totals.rounds else "proposed tokens"
    least, most = (1.0, 1.0 + gamma) if name == "tokens_per_round" else (0.0, 1.0)
    low, high = max(least, value - Z * error), min(most, value + Z * error)
    return Interval(value, min(low, value), max(high, value), count), error, basis


def _round_error(name: str, totals: RoundTotals, gamma: int) -> tuple[float, int]:
    """Standard error of a figure from totals alone, as if rounds were independent, and how many there are.

    Rounds of one answer are alike, so it is somewhat too small. Where the spread over rounds is not counted, it is
    taken as large as it can be: as if all tokens of a proposal were accepted together or none. Where rounds are not
    counted either, there are taken to be as many as gamma makes of the proposed tokens.
    """
    rounds = totals.rounds or (totals.proposed or 0) / gamma
    if rounds and name.startswith("place_"):
        return _least_error(name, totals), int(rounds)
    if not rounds or totals.accepted is None:
        return math.nan, int(rounds)
    mean = totals.accepted / rounds
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
    """The largest distance of some figures, on the scale on which chance allows `Z`; NaN where none has one."""
    distances = [abs(figure.distance) * Z / figure.limit for figure in figures if not math.isnan(figure.distance)]
    return max(distances, default=math.nan)
