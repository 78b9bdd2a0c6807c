"""What a server that ran a draft reported of it: `served/NAME/measurement.json` in a run's folder."""

from __future__ import annotations

import math
from typing import ClassVar

from engine.catalogue import Proposals
from engine.records.interval import Interval
from engine.records.record import Part, Real, Record, Text, Time, Whole


class RoundTotals(Part):
    """Rounds of speculative decoding, added up. None where the source does not say.

    A round is one verification by the target: `proposed` tokens of the draft, those before the first refusal
    `accepted`, and one token of the target's own after them.
    """

    requests: Whole | None = None
    rounds: Whole | None = None
    proposed: Whole | None = None
    accepted: Whole | None = None
    accepted_at: list[Whole] | None = None
    """By place in the proposal, the first one first: rounds in which that token was accepted."""
    emitted: Whole | None = None
    """Tokens of the answers, the target's own included."""


class ServedMeasurement(Record):
    """A draft's acceptance and speed as a server reported them."""

    FILE: ClassVar[str] = "measurement.json"

    server: Text = ""
    """A name of `engine.catalogue.SERVERS`, or the word of the source for another one."""
    version: Text | None = None
    source: Text = ""
    """The form that was read, for people: 'Prometheus text, two scrapes'."""
    recorded_at: Time | None = None
    temperature: Real = math.nan
    num_draft_tokens: Whole | None = None
    """gamma; the most that one round proposes."""
    proposals: Proposals | None = None
    totals: RoundTotals = RoundTotals()
    per_request: list[RoundTotals] = []
    """The same by request where the source has it: what an interval is taken over."""
    tokens_per_s: Interval | None = None
    """Emitted tokens a second with the draft, one request at a time unless `concurrency` says otherwise."""
    plain_tokens_per_s: Interval | None = None
    """The same without the draft."""
    concurrency: Whole | None = None
    notes: list[Text] = []
    """What was left out or taken for granted, in sentences."""
