"""`training.json`: what the training of a run's draft came to. Written once, when the last step is done."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field

from engine.records import files
from engine.records.record import Document, Real, Record, Temperature, Whole

Count = Annotated[int, Field(strict=False, ge=1, le=1_000_000)]
"""A number as the key of a JSON object, where it is a text."""


def _before_modes(document: Document) -> Document:
    """Schema 0 may be from before there were modes that learn from some positions only, or from none in some steps."""
    if "positions_trained" in document or "tokens_seen" not in document:
        return document
    return {**document, "positions_trained": document["tokens_seen"], "steps_skipped": 0}


class Training(Record):
    """How much was trained, and which draft was kept."""

    FILE: ClassVar[str] = files.TRAINING
    UPGRADES = {0: _before_modes}

    steps: Whole | None = None
    """Optimiser steps that the recipe asked for."""
    steps_done: Whole | None = None
    """Optimiser steps taken; equal to `steps` in the end."""
    steps_skipped: Whole | None = None
    """Steps among them that had nothing to learn from, as when a stream passes without a refusal."""
    tokens_seen: Whole | None = None
    """Tokens of the target's text that were trained on, each epoch counted."""
    positions_trained: Whole | None = None
    """Positions that a loss was taken at; fewer than `tokens_seen` where a mode learns from some positions only."""
    seconds: Real = math.nan
    """Time of the steps of all sessions, evaluations not included."""
    best_step: Whole | None = None
    """Steps done before the evaluation that the best draft was kept at."""
    best_exact: Real = math.nan
    """Exact acceptance at that evaluation, on the watched prompts: mean over temperatures."""
    steps_by_processes: dict[Count, Whole] = {}
    """A number of processes -> the optimiser steps that so many took together; empty: of an earlier version, one."""
    first_exact: dict[Temperature, Real] = {}
    """Exact acceptance before the first step, on the watched prompts, by temperature."""
