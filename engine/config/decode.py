"""The defaults of decoding one prompt, on the command line and in the live view."""

from __future__ import annotations

from pydantic import Field

from engine.config.section import MOST_TOKENS, Section


class DecodeSpec(Section):
    """How one prompt is decoded."""

    num_draft_tokens: int = Field(4, ge=1, le=32, description="gamma: tokens proposed per round")
    temperature: float = Field(0.0, ge=0, le=10, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 is off")
    top_k: int = Field(0, ge=0, le=MOST_TOKENS, description="0 is off")
    max_new_tokens: int = Field(96, ge=1, le=MOST_TOKENS, description="length limit of the answer, tokens")
    seed: int = Field(0, ge=0, description="seed of every draw")


DEFAULTS = DecodeSpec()
