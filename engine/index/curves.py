"""Training events to points of a curve. Pure functions: the live page uses them on the file itself."""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.fileio import json_object
from engine.records.values import integer, number, text

Event = Mapping[str, Any]
_VALUE_OF = {"train": "loss", "eval": "exact"}  # kind of event -> the field that is its value
TRAINING = (*_VALUE_OF, "stream", "skipped")
"""Kinds of events that training leaves: a session that begins again from nothing makes all of them anew."""


@dataclass(frozen=True)
class CurvePoint:
    """One value after `step` optimiser steps: the loss of kind `train`, `exact` acceptance of `eval`.

    `temperature` is of the evaluation (None for `train`); `tokens_seen` counts target tokens
    trained on so far, `seconds` the training time so far. What is not known is None.
    """

    step: int
    kind: str
    temperature: float | None
    value: float | None
    tokens_seen: int | None
    seconds: float | None


@dataclass(frozen=True)
class StreamPoint:
    """What became of one query of an online run's stream.

    `query` counts from 1, `step` the optimiser steps before it. `expected` is the sum over its judged positions of
    sum_v min(p, q): what `accepted` of `examined` positions was to be expected. None if it is not known.
    """

    query: int
    step: int
    prompt_id: str | None
    emitted: int | None
    rounds: int | None
    drafted: int | None
    accepted: int
    examined: int
    expected: float | None


def parse_events(raw: bytes) -> tuple[list[Event], int]:
    """The whole JSON objects among the lines of `events.jsonl`, and the number of damaged lines.

    A torn last line is what a kill leaves behind; it costs itself and nothing else.
    """
    events: list[Event] = []
    damaged = 0
    lines = raw.split(b"\n")
    together = _together([line for line in lines if line.strip()])
    if together is not None:
        return together, 0
    for line in lines:
        event = json_object(line)
        if event is not None:
            events.append(event)
        elif line.strip():
            damaged += 1
    return events, damaged


def _together(lines: list[bytes]) -> list[Event] | None:
    """The objects of whole lines, parsed in one call, which takes half the time; None if they have to be looked at singly."""
    raw = b",".join(lines)
    if b"\\u" in raw:  # perhaps half a character
        return None
    try:
        events = json.loads(b"[" + raw + b"]")
    except (ValueError, RecursionError):
        return None
    flat = all(isinstance(event, dict) for event in events) and max(map(_brackets, lines), default=0) < _FLAT
    return events if flat and len(events) == len(lines) else None


_FLAT = 64  # brackets of a line: it cannot be nested too deep


def _brackets(line: bytes) -> int:
    return line.count(b"{") + line.count(b"[")


def replay(events: Iterable[Event]) -> list[Event]:
    """The events of the run as if it had never been broken off, in order.

    A `resumed` event says from which step the run went on; what came before it in the file
    but has a larger step was done again, and only the second time counts. A session that trains
    after `started` without `resumed` found no checkpoint: it did everything again.
    """
    # In the order of their steps, so that what was done again is at the end, however often a run was resumed.
    training: list[tuple[int, Event]] = []
    others: list[tuple[int, Event]] = []
    timeless: list[tuple[int, Event]] = []
    from_checkpoint = True
    for place, event in enumerate(events):
        kind = event.get("kind")
        trains = isinstance(kind, str) and kind in TRAINING
        if kind == "started":
            from_checkpoint = False
        elif kind == "resumed" and isinstance(event.get("step"), int | float):
            for kept in (training, others):
                while kept and not _came_before(kept[-1][1], event["step"]):
                    kept.pop()
            from_checkpoint = True
        elif trains and not from_checkpoint:
            training.clear()
            from_checkpoint = True
        (training if trains else others if _step(event) > -math.inf else timeless).append((place, event))
    return [event for _, event in heapq.merge(training, others, timeless, key=lambda item: item[0])]


def curve_points(events: Iterable[Event]) -> tuple[list[CurvePoint], int]:
    """Points of the `train` and `eval` events, and the number of such events that make no sense."""
    points: list[CurvePoint] = []
    damaged = 0
    for event in events:
        if event.get("kind") not in _VALUE_OF:
            continue
        try:
            points.append(_point(event))
        except ValueError:
            damaged += 1
    return points, damaged


def stream_points(events: Iterable[Event]) -> tuple[list[StreamPoint], int]:
    """The queries of a stream in order, and the number of `stream` events that make no sense.

    A resumed run streams queries again that came after its checkpoint. The later event counts, and
    what followed the earlier one is still to come: it was answered by weights that are gone.
    """
    points: list[StreamPoint] = []
    damaged = 0
    for event in events:
        if event.get("kind") != "stream":
            continue
        try:
            point = _stream_point(event)
        except ValueError:
            damaged += 1
            continue
        while points and points[-1].query >= point.query:
            points.pop()
        points.append(point)
    return points, damaged


def skipped_steps(events: Iterable[Event]) -> int:
    """Optimiser steps that had nothing to learn from, of events as `replay` leaves them."""
    return len({event.get("step") for event in events if event.get("kind") == "skipped"})


def _came_before(event: Event, step: float) -> bool:
    """Whether weights of that many steps had seen it: a query is told with the steps before it, all else after them."""
    return _step(event) < step if event.get("kind") == "stream" else _step(event) <= step


def _step(event: Event) -> float:
    """The event's step; an event without one is never redone."""
    step = event.get("step")
    return step if isinstance(step, int | float) else -math.inf


def _point(event: Event) -> CurvePoint:
    step = integer(event.get("step"))
    if step is None:
        raise ValueError("an event without a step")
    return CurvePoint(
        step=step,
        kind=event["kind"],
        temperature=number(event.get("temperature")),
        value=number(event.get(_VALUE_OF[event["kind"]])),
        tokens_seen=integer(event.get("tokens_seen")),
        seconds=number(event.get("seconds")),
    )


def _stream_point(event: Event) -> StreamPoint:
    counts = {key: integer(event.get(key)) for key in ("query", "step", "emitted", "rounds", "drafted")}
    query, accepted, examined = counts["query"], integer(event.get("accepted")), integer(event.get("examined"))
    if query is None or query < 1 or accepted is None or examined is None or not 0 <= accepted <= examined:
        raise ValueError("a query without a number or without counts")
    return StreamPoint(
        query=query,
        step=counts["step"] or 0,
        prompt_id=text(event.get("prompt_id")),
        emitted=counts["emitted"],
        rounds=counts["rounds"],
        drafted=counts["drafted"],
        accepted=accepted,
        examined=examined,
        expected=number(event.get("expected")),
    )
