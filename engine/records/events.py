"""`events.jsonl`: what happened in a run, a JSON object per line, appended and never changed.

A kill tears the last line, and a resumed run does some steps again; `parse_events` and `replay` see to both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, TypeAdapter, ValidationError, model_validator

from engine.fileio import append_line, json_object, read_bounded
from engine.records import files
from engine.records.provenance import Source
from engine.records.record import Count, Document, Part, Real, Text, Whole

FILE = files.EVENTS
MOST_BYTES = 32_000_000  # some 200,000 optimiser steps


class Event(Part):
    """Something that happened. A kind that this version does not know is an `Event` and nothing more."""

    TRAINS: ClassVar[bool] = False
    """Whether training leaves it: a session that begins again from nothing makes all of these anew."""

    at: Text | None = None
    """UTC, ISO 8601."""
    kind: str = ""

    def came_before(self, step: int) -> bool:
        """Whether the weights after `step` optimiser steps had seen it."""
        return True

    def document(self) -> Document:
        return {"kind": self.kind} | self.model_dump(exclude_unset=True)


class Started(Event):
    """A session began. Its `schema` is that of the events that follow."""

    SCHEMA: ClassVar[int] = 1

    kind: Literal["started"] = "started"
    until: Text = "measure"
    """The last phase that was asked for: 'train' or 'measure'."""
    versions: dict[str, Text] = {}
    source: Source = Source()

    def document(self) -> Document:
        return {"schema": self.SCHEMA} | super().document()


class Ended(Event):
    """A session ended, and the run's state since."""

    kind: Literal["ended"] = "ended"
    state: Text = ""


class DraftMade(Event):
    """The draft as training begins with it. Counts of parameters as in `provenance.DraftParameters`."""

    kind: Literal["draft"] = "draft"
    total: Whole | None = None
    own: Whole | None = None
    trained: Whole | None = None
    lora_rank: Whole | None = None
    """Of the adapter that is trained instead of all weights; None without one."""


class _AtStep(Event):
    step: Whole

    def came_before(self, step: int) -> bool:
        return self.step <= step


class Resumed(_AtStep):
    """Training went on from a checkpoint after `step` steps: later steps are done again."""

    kind: Literal["resumed"] = "resumed"


class _Trained(_AtStep):
    TRAINS: ClassVar[bool] = True

    tokens_seen: Whole | None = None
    """Tokens of the target's text so far."""
    seconds: Real = math.nan
    """Time of the training steps so far, of all sessions."""


class TrainStep(_Trained):
    """An optimiser step, the `step`-th."""

    kind: Literal["train"] = "train"
    loss: Real = math.nan
    """Per position."""
    grad_norm: Real = math.nan
    """Before clipping."""
    learning_rate: Real = math.nan
    positions: Whole | None = None
    """Positions that the loss was taken at."""


class SkippedStep(_Trained):
    """A step that had nothing to learn from."""

    kind: Literal["skipped"] = "skipped"


class Evaluation(_Trained):
    """Exact acceptance on the watched prompts after `step` steps."""

    kind: Literal["eval"] = "eval"
    temperature: Real = math.nan
    exact: Real = math.nan


class StreamedQuery(_AtStep):
    """What became of one query of an online run's stream, `step` optimiser steps before it."""

    TRAINS: ClassVar[bool] = True

    kind: Literal["stream"] = "stream"
    query: Annotated[Whole, Field(ge=1)]
    step: Whole = 0
    prompt_id: Text | None = None
    emitted: Whole | None = None
    rounds: Whole | None = None
    drafted: Whole | None = None
    accepted: Count
    examined: Whole
    """Positions at which the target judged a drafted token."""
    expected: Real = math.nan
    """Sum of sum_v min(p, q) over the examined positions: how many were to be accepted."""

    @model_validator(mode="after")
    def _examined_what_it_accepted(self) -> Self:
        if self.accepted > self.examined:
            raise ValueError("more tokens accepted than examined")
        return self

    def came_before(self, step: int) -> bool:
        return self.step < step  # a query is noted with the steps before it, all else after them


_Known = Annotated[
    Started | Ended | DraftMade | Resumed | TrainStep | SkippedStep | Evaluation | StreamedQuery, Discriminator("kind")
]
_ONE: TypeAdapter[Event] = TypeAdapter(_Known)
_MANY = TypeAdapter(list[_Known])


@dataclass(frozen=True)
class ParsedEvents:
    """The events of a file, in order, and how many lines were left out."""

    events: list[Event]
    torn: int
    """Lines that are no whole JSON object: what a kill leaves behind."""
    senseless: int
    """Events of a known kind with a value that makes no sense, or without one that they cannot do without."""


def parse_events(raw: bytes) -> ParsedEvents:
    """The events among the lines of `events.jsonl`. A damaged line costs itself and nothing else."""
    lines = [line for line in raw.split(b"\n") if line.strip()]
    try:  # all in one call, which is nearly always possible
        known = _MANY.validate_json(b"[" + b",".join(lines) + b"]")
        if len(known) == len(lines):
            return ParsedEvents([*known], 0, 0)
    except ValidationError:
        pass
    parsed = [_parsed(line) for line in lines]
    events = [event for event in parsed if isinstance(event, Event)]
    return ParsedEvents(events, parsed.count("torn"), parsed.count("senseless"))


def _parsed(line: bytes) -> Event | Literal["torn", "senseless"]:
    document = json_object(line)
    if document is None:
        return "torn"
    return event_of(document) or "senseless"


def event_of(document: Document) -> Event | None:
    """The event of a JSON object, of whatever kind; None if it makes no sense."""
    try:
        return _ONE.validate_python(document)
    except ValidationError as error:
        if error.errors()[0]["type"] not in ("union_tag_invalid", "union_tag_not_found"):
            return None
    kind = document.get("kind")
    return Event(kind=kind if isinstance(kind, str) else "")


def read_events(folder: Path) -> ParsedEvents:
    """The events of a run's folder; none without a file. Raises DraftbenchError if it is too large or not a file."""
    try:
        return parse_events(read_bounded(folder / FILE, MOST_BYTES))
    except FileNotFoundError:
        return ParsedEvents([], 0, 0)


def append_event(folder: Path, event: Event) -> None:
    """Add an event with the present time."""
    append_line(folder / FILE, {"at": datetime.now(UTC).isoformat(), **event.document()})


def replay(events: Iterable[Event]) -> list[Event]:
    """The events of the run as if it had never been broken off, in order.

    `Resumed` says from which step the run went on; what came before it in the file but has a larger step was done
    again, and only the second time counts. A session that trains after `Started` without `Resumed` had no
    checkpoint: it did everything again.
    """
    # In the order of their steps, so that what was done again is at the end, however often a run was resumed.
    training: list[tuple[int, Event]] = []
    resumes: list[tuple[int, Event]] = []
    others: list[tuple[int, Event]] = []
    from_checkpoint = True
    for number, event in enumerate(events):
        if isinstance(event, Started):
            from_checkpoint = False
        elif isinstance(event, Resumed):
            for kept in (training, resumes):
                while kept and not kept[-1][1].came_before(event.step):
                    kept.pop()
            from_checkpoint = True
        elif event.TRAINS and not from_checkpoint:
            training.clear()
            from_checkpoint = True
        (training if event.TRAINS else resumes if isinstance(event, Resumed) else others).append((number, event))
    return [event for _, event in sorted([*training, *resumes, *others], key=itemgetter(0))]
