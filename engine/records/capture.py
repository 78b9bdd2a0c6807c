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
