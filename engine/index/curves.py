"""Events of a training as points of a curve. Pure functions: the live page uses them on the file itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from engine.records.events import Evaluation, Event, SkippedStep, StreamedQuery, TrainStep


@dataclass(frozen=True)
class CurvePoint:
    """One value after `step` optimiser steps: the loss of kind `train`, `exact` acceptance of `eval`.

    `temperature` is of the evaluation (None for `train`); `tokens_seen` counts target tokens
    trained on so far, `seconds` the training time so far. What is not known is None.
    """

    step: int
    kind: Literal["train", "eval"]
    temperature: float | None
    value: float | None
    tokens_seen: int | None
    seconds: float | None


def curve_points(events: Iterable[Event]) -> list[CurvePoint]:
    """The points of a curve, of events as `replay` leaves them."""
    points = []
    for event in events:
        if isinstance(event, TrainStep):
            temperature, value = math.nan, event.loss
        elif isinstance(event, Evaluation):
            temperature, value = event.temperature, event.exact
        else:
            continue
        seconds = _known(event.seconds)
        points.append(
            CurvePoint(event.step, event.kind, _known(temperature), _known(value), event.tokens_seen, seconds)
        )
    return points


def streamed_queries(events: Iterable[Event]) -> list[StreamedQuery]:
    """The queries of a stream in order, each once.

    A resumed run streams queries again that came after its checkpoint. The later event counts, and
    what followed the earlier one is still to come: it was answered by weights that are gone.
    """
    queries: list[StreamedQuery] = []
    for event in events:
        if isinstance(event, StreamedQuery):
            while queries and queries[-1].query >= event.query:
                queries.pop()
            queries.append(event)
    return queries


def skipped_steps(events: Iterable[Event]) -> int:
    """Optimiser steps that had nothing to learn from, of events as `replay` leaves them."""
    return len({event.step for event in events if isinstance(event, SkippedStep)})


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
