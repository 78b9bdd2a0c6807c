"""A server's figures as a served measurement of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from engine.catalogue import SERVERS, Proposals
from engine.deploy.figures import ratio_over_requests
from engine.deploy.readers.reading import Reading, refused
from engine.errors import did_you_mean
from engine.records.interval import Interval
from engine.records.served import RoundTotals, ServedMeasurement

MOST_REQUESTS = 20_000  # kept one by one
_SAME = 1e-6
LIMITS: dict[str, tuple[float, float]] = {
    "temperature": (0, 10),
    "gamma": (1, 64),
    "p-min": (0, 1),
    "concurrency": (1, 1_000_000),
    "max-new-tokens": (1, 10_000_000),
}
"""Of what is stated and of what is read."""


@dataclass(frozen=True)
class Stated:
    """What the user says of the requests, where the figures do not. None: not said."""

    server: str | None = None
    temperature: float | None = None
    gamma: int | None = None
    proposals: Proposals | None = None
    p_min: float | None = None
    weights: str | None = None
    concurrency: int | None = None
    max_new_tokens: int | None = None


def measurement_of(reading: Reading, form: str, stated: Stated, now: datetime | None = None) -> ServedMeasurement:
    """The measurement. Raises DraftbenchError where what is stated is impossible or contradicts the figures."""
    check_stated(stated)
    server = stated.server or reading.server
    temperature = _agreed("temperature", stated.temperature, reading.temperature)
    gamma = _agreed("gamma", stated.gamma, reading.gamma)
    if gamma is not None:
        _check_gamma(reading.totals, int(gamma))
    concurrency = _agreed("concurrency", stated.concurrency, reading.concurrency)
    notes = list(reading.notes)
    per_request = list(reading.per_request)
    if len(per_request) > MOST_REQUESTS:
        notes.append(f"{len(per_request):,} requests: only their sums are kept")
        per_request = []
    values = {
        "server": server,
        "version": reading.version,
        "model": reading.model,
        "form": form,
        "source": reading.source,
        "recorded_at": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
        "temperature": math.nan if temperature is None else float(temperature),
        "num_draft_tokens": None if gamma is None else int(gamma),
        "proposals": stated.proposals,
        "draft_p_min": math.nan if stated.p_min is None else stated.p_min,
        "weights": stated.weights,
        "prompt_tokens": reading.prompt_tokens,
        "max_new_tokens": stated.max_new_tokens,
        "totals": reading.totals.document(),
        "per_request": [request.document() for request in per_request],
        "tokens_per_s": _speed(reading),
        "concurrency": None if concurrency is None else int(concurrency),
        "notes": notes,
    }
    return ServedMeasurement.of_values({name: value for name, value in values.items() if value is not None})


def check_stated(stated: Stated) -> None:
    """Raise DraftbenchError for what no server and no request has."""
    if stated.server is not None and stated.server not in SERVERS:
        raise refused(f"unknown server {stated.server!r}", "--server names one", did_you_mean(stated.server, SERVERS))
    for name in LIMITS:
        _check_range(name, getattr(stated, name.replace("-", "_")), f"--{name} is", f"correct --{name}")


def _check_range(name: str, value: float | None, said: str, fix: str) -> None:
    low, high = LIMITS[name]
    if value is not None and not low <= value <= high:  # NaN is not either
        raise refused(f"{said} {value:g}", f"it lies between {low:g} and {high:g}", fix)


def _agreed(name: str, stated: float | None, read: float | None) -> float | None:
    _check_range(name, read, f"the figures say that {name} is", "take the figures from the server again")
    if stated is not None and read is not None and abs(stated - read) > _SAME:
        raise refused(
            f"--{name} is {stated:g}, the figures say {read:g}",
            "one of them is wrong",
            f"leave --{name} out, or check that these are the figures you mean",
        )
    return read if read is not None else stated


def _check_gamma(totals: RoundTotals, gamma: int) -> None:
    if totals.rounds is not None and totals.proposed is not None and totals.proposed > gamma * totals.rounds:
        raise refused(
            f"{totals.proposed:,} tokens were proposed in {totals.rounds:,} rounds",
            f"that is more than {gamma} in each",
            "correct --gamma",
        )
    beyond = sum((totals.accepted_at or [])[gamma:])
    if beyond:
        raise refused(
            f"{beyond:,} tokens were accepted at places beyond {gamma}", "a proposal has no more", "correct --gamma"
        )


def _speed(reading: Reading) -> dict[str, float | int] | None:
    """Emitted tokens a second, with an interval over requests where each is timed."""
    if reading.seconds_by_request:
        tokens, seconds = zip(*reading.seconds_by_request, strict=True)
        return ratio_over_requests(tokens, seconds).as_dict()
    return None if reading.tokens_per_s is None else Interval(reading.tokens_per_s).as_dict()
