"""A capture's `done.json`: what it holds, there only when every prompt is answered.

The address of a capture is the hash of its `spec.json`, so nothing may be added to that (`engine.capture.plan`).
"""

from __future__ import annotations

import math
from typing import ClassVar

from engine.records.record import Part, Real, Record, Text, Whole


class LastSession(Part):
    """What the last session added to a capture."""

    tokens: Whole = 0
    seconds: Real = math.nan


class AnswerSignal(Part):
    """What a served answer's signal does not hold. Beside the answer in `answers.jsonl`."""

    short: Whole = 0
    """Positions at which the server sent fewer tokens than it was asked for."""
    unnamed: Real = 0.0
    """Sum over positions of the mass of tokens without a certain id, which is in the bucket of the others."""
    likeliest_unnamed: Whole = 0
    """Positions whose likeliest token is one of those."""
    cut: Whole = 0
    """Tokens at the end of the answer whose id or distribution is not certain; the capture does not have them."""
    ends_left_out: Whole = 0
    """1 if the answer ended, and the server sends no distribution at its end."""


class ServedSignal(Part):
    """How far the distributions that a server sent reach: its likeliest tokens, and one bucket for all others."""

    logprobs: Whole = 0
    """Tokens asked for at each position."""
    kept: Real = math.nan
    """Tokens per position whose probability is kept, on average."""
    tail: Real = math.nan
    """Mass of all others, on average."""
    left_out: AnswerSignal = AnswerSignal()
    """The sums over all answers."""
    likeliest_written: Real = math.nan
    """Share of the positions at which the likeliest token was written."""
    likeliest_expected: Real = math.nan
    """The same by the probabilities that were sent; as above only if the text was drawn from them."""
    z: Real = math.nan
    """Their distance in standard errors; NaN where the text is not meant to be drawn from them."""


class ServedAnswers(Part):
    """Who answered a served capture, and how the texts became tokens."""

    base_url: Text = ""
    model: Text = ""
    ids_from_server: Whole = 0
    """Answers whose token ids the server sent."""
    ids_from_text: Whole = 0
    """Answers that were tokenised here."""
    other_prompt_tokens: Whole = 0
    """Prompts that have another number of tokens on the server."""
    noted: dict[str, Whole] = {}
    """Deviation in words -> number of answers, the most frequent ones."""
    answered_by: dict[str, Whole] = {}
    """Address -> number of answers, where several servers shared the load."""
    signal: ServedSignal | None = None
    """None where the text alone was kept."""


class CaptureCounts(Record):
    """Counts of a capture. In a run's provenance together with the capture's address."""

    FILE: ClassVar[str] = "done.json"

    address: Text | None = None
    """Name of the capture's folder; in a run's provenance only."""
    prompts: Whole = 0
    tokens: Whole = 0
    """Tokens of all answers."""
    stopped: Whole = 0
    """Answers that ended by themselves, rather than at `max_new_tokens`."""
    bytes_per_token: Whole = 0
    """Of the stored signal."""
    signal_bytes: Whole = 0
    """Size of `signal.bin`."""
    last_session: LastSession = LastSession()
    server: ServedAnswers | None = None
    """None for answers of the model at hand."""
