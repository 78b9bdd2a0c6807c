"""Defaults that the command line and the pages show: of no recipe, or shown before the schema is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from engine.catalogue import Proposals

DEFAULT_TARGET = "asset:smollm2-135m-instruct"


@dataclass(frozen=True)
class DecodeDefaults:
    """How one prompt is decoded where nothing else is asked for."""

    num_draft_tokens: int = 4
    """gamma: tokens proposed per round."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus; 1 is off."""
    top_k: int = 0
    """0 is off."""
    proposals: Proposals = "sampled"
    """How the draft proposes."""
    max_new_tokens: int = 96
    """Length limit of the answer, tokens."""
    seed: int = 0
    """Seed of every draw."""


DECODE = DecodeDefaults()
