"""What a server that ran a draft reported of it: `served/NAME/measurement.json` in a run's folder."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from engine.catalogue import Proposals
from engine.numbers import number
from engine.records.interval import Interval
from engine.records.record import Count, Part, Real, Record, Text, Time, Whole

SERVED_FOLDER = "served"
"""In a run's folder: a folder for each served measurement."""


class RoundTotals(Part):
    """Rounds of speculative decoding, added up. None where the source does not say.

    A round is one verification of a proposal by the target: `proposed` tokens of the draft, those before the first
    refusal `accepted`, and one token of the target's own after them. What a server does without a proposal is no round:
    reading the prompt, which yields the first token of an answer, or the last token where no more fit.
    """

    requests: Count | None = None
    rounds: Count | None = None
    proposed: Count | None = None
    accepted: Count | None = None
    accepted_at: list[Count] | None = None
    """By place in the proposal, the first one first: rounds in which that token was accepted."""
    emitted: Count | None = None
    """Tokens of the answers, the target's own included."""

    @property
    def per_proposed(self) -> float:
        """Accepted over proposed tokens; NaN where they are not known."""
        return _share(self.accepted, self.proposed)

    @property
    def tokens_per_round(self) -> float:
        """Accepted tokens of a round and the target's own; NaN where they are not known.

        Where only the answers' tokens are counted: those after the first one, which no round made, by round.
        """
        if self.accepted is None and self.emitted is not None and self.requests is not None:
            return _share(self.emitted - self.requests, self.rounds)
        return 1 + _share(self.accepted, self.rounds)

    @property
    def acceptance_at(self) -> list[float]:
        """By place in the proposal, the share of rounds in which that token was accepted; empty if not known."""
        return [_share(count, self.rounds) for count in self.accepted_at or []] if self.rounds else []


def _share(part: int | None, whole: int | None) -> float:
    return math.nan if part is None or not whole else part / whole


def added(parts: Iterable[RoundTotals]) -> RoundTotals:
    """The totals of several requests. A count that one of them lacks is not known of all.

    >>> added([RoundTotals(rounds=2, accepted_at=[1, 1]), RoundTotals(rounds=1, accepted_at=[1])]).accepted_at
    [2, 1]
    """
    all_parts = list(parts)
    if not all_parts:
        return RoundTotals()
    counts: dict[str, int | list[int] | None] = {}
    for name in ("requests", "rounds", "proposed", "accepted", "emitted"):
        values = [getattr(part, name) for part in all_parts]
        counts[name] = None if None in values else sum(values)
    places = [part.accepted_at for part in all_parts]
    if all(place is not None for place in places):
        known = [place for place in places if place is not None]
        width = max(len(place) for place in known)
        counts["accepted_at"] = [sum(place[i] for place in known if i < len(place)) for i in range(width)]
    return RoundTotals.model_validate({name: value for name, value in counts.items() if value is not None})


class RawFile(Part):
    """A file that a measurement was read from."""

    name: Text = ""
    size_bytes: Whole = 0
    sha256: Text = ""
    kept_as: Text | None = None
    """Its copy beside the measurement; None if it was too large to be copied."""


class ServedMeasurement(Record):
    """A draft's acceptance and speed as a server reported them."""

    FILE: ClassVar[str] = "measurement.json"
    MOST_BYTES: ClassVar[int] = 16_000_000

    server: Text = ""
    """A name of `engine.catalogue.SERVERS`, or the word of the source for another one."""
    version: Text | None = None
    model: Text | None = None
    """What the server calls the target."""
    form: Text = ""
    """The reader: a name of `engine.deploy.readers.forms.FORMS`, or 'probe'."""
    source: Text = ""
    """The form that was read, for people: 'Prometheus text, two scrapes'."""
    recorded_at: Time | None = None
    """When it was imported or asked."""
    temperature: Real = math.nan
    num_draft_tokens: Whole | None = None
    """gamma; the most that one round proposes."""
    proposals: Proposals | None = None
    draft_p_min: Real = math.nan
    """Least probability at which the draft goes on proposing (llama.cpp's `--spec-draft-p-min`)."""
    weights: Text | None = None
    """Precision of the served target: 'BF16', 'Q4_K_M'."""
    prompts_hash: Text | None = None
    """Of the prompts that a probe sent, as `Conditions.heldout_hash` of a summary."""
    prompt_ids: list[Text] = []
    """Of the requests in `per_request`, where a probe sent the prompts."""
    prompt_tokens: Whole | None = None
    """Of all requests, as the server counts them."""
    max_new_tokens: Whole | None = None
    totals: RoundTotals = RoundTotals()
    per_request: list[RoundTotals] = []
    """The same by request where the source has it: what an interval is taken over."""
    tokens_per_s: Interval | None = None
    """Emitted tokens a second with the draft, one request at a time unless `concurrency` says otherwise."""
    plain_tokens_per_s: Interval | None = None
    """The same without the draft."""
    concurrency: Whole | None = None
    files: list[RawFile] = []
    notes: list[Text] = []
    """What was left out or taken for granted, in sentences."""

    @property
    def in_words(self) -> str:
        """What it is of, in a line: 'vLLM answers, T = 1, gamma 3, 60 requests, 2,114 rounds, 41.3 tokens/s'."""
        totals = self.totals
        parts = [self.source or self.server]
        if not math.isnan(self.temperature):
            parts.append(f"T = {self.temperature:g}")
        if self.num_draft_tokens is not None:
            parts.append(f"gamma {self.num_draft_tokens}")
        counts = (("requests", totals.requests), ("rounds", totals.rounds), ("tokens", totals.emitted))
        parts += [f"{count:,} {word}" for word, count in counts if count is not None]
        if self.tokens_per_s is not None:
            parts.append(f"{number(self.tokens_per_s.value, 1)} tokens/s")
        return ", ".join(parts)
