"""`served/NAME/parity.json`: a run's draft on a real server, beside what was predicted before it was started."""

from __future__ import annotations

import math
from typing import ClassVar

from engine.catalogue import Proposals
from engine.records.interval import Interval
from engine.records.record import Part, Real, Record, Text, Time, Whole


class PartedText(Part):
    """A greedy text that is not the captured one."""

    prompt_id: Text = ""
    position: Whole = 0
    """Of the first token that differs, from 0."""
    margin: Real = math.nan
    """How far the two tokens are apart there, in float32 logits of the target."""
    largest: Real = math.nan
    """How far the likeliest token is above the lower of the two; equal to `margin` if one of them is the likeliest."""


class ParityRow(Part):
    """One temperature and rule of proposing."""

    temperature: Real = math.nan
    proposals: Proposals = "argmax"
    prompts: Whole = 0
    predicted: Interval = Interval()
    """Accepted over proposed tokens, from the target's own text and the draft, by the server's rule. Above temperature
    0 the interval is that of other texts of as many prompts, since the server draws its own."""
    served: Interval = Interval()
    difference: Interval = Interval()
    """Served less predicted, paired by prompt."""
    predicted_at: list[Interval] = []
    """By place in the proposal: rounds in which that token was accepted, of all rounds."""
    served_at: list[Interval] = []
    predicted_tokens_per_round: Interval = Interval()
    served_tokens_per_round: Interval = Interval()
    recounted: Real = math.nan
    """Accepted over proposed by our draft on the very texts that the server wrote; NaN for drawn proposals."""
    explained: Whole | None = None
    """Answers whose counts are exactly those of our draft on the server's text; None for drawn proposals."""
    same_text: Whole | None = None
    """At temperature 0: answers that are the captured ones."""
    parted: list[PartedText] = []
    calibration_z: Real = math.nan
    """Above temperature 0: how often the target's likeliest token came, in standard deviations from what the target's
    own probabilities say. A server that draws from the target stays within 4."""
    tokens_per_s: Interval | None = None
    plain_tokens_per_s: Interval | None = None
    speedup: Interval | None = None
    """Seconds a token without the draft over those with it, one request at a time, paired by prompt."""
    predicted_speedup: Real = math.nan
    agrees: bool | None = False
    verdict: Text = ""


class ParityReport(Record):
    """All rows of one server, and what it was started with."""

    FILE: ClassVar[str] = "parity.json"

    run: Text = ""
    server: Text = ""
    version: Text = ""
    recorded_at: Time | None = None
    num_draft_tokens: Whole = 0
    limit: Whole = 0
    """Tokens that each answer was asked for."""
    dtype: Text = ""
    prompts_from: Text = ""
    chat_asked: Whole = 0
    chat_same: Whole = 0
    """Conversations of which the server's own chat route makes the token ids that the draft was measured on."""
    rows: list[ParityRow] = []
    commands: list[Text] = []
    notes: list[Text] = []
