"""What is measured on the held-out prompts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, model_validator

from engine.catalogue import Proposals
from engine.config.section import MEASUREMENT, MOST_TOKENS, STORED, TEMPERATURE, Section, temperature_fault, used_unless


class MeasureSpec(Section):
    """What is measured on the held-out prompts, and how long that may take."""

    against: Annotated[Literal["model", "server"], used_unless("against", "model")] = Field(
        "model",
        title="Measured against",
        description="model: everything, against the model here; server: acceptance at temperatures 0 and 1 alone, from "
        "the text of capture.server and the log-probabilities that it sends",
    )
    temperatures: list[float] = Field([0.0, 1.0], min_length=1, description="each is captured and measured on its own")
    top_p: float = Field(1.0, gt=0, le=1, title="Top-p", description="nucleus for target and draft alike; 1 is off")
    top_k: int = Field(0, ge=0, le=MOST_TOKENS, title="Top-k", description="for target and draft alike; 0 is off")
    num_draft_tokens: Annotated[int, MEASUREMENT] = Field(
        3, ge=1, le=32, title="Tokens proposed per round (gamma)", description="gamma: tokens proposed per round"
    )
    adaptive: Annotated[bool, MEASUREMENT] = Field(
        False,
        title="Adapt gamma to the acceptance",
        description="set gamma in each round from the acceptance so far, up to num_draft_tokens",
    )
    proposals: Annotated[Proposals, MEASUREMENT] = Field(
        "sampled",
        title="How the draft proposes",
        description="how the draft proposes when it is decoded; sampled: drawn from q, as Transformers does; argmax: "
        "always its likeliest token, as vLLM, SGLang, llama.cpp and TensorRT-LLM do unless told otherwise",
    )
    max_new_tokens: int = Field(
        160, ge=2, le=MOST_TOKENS, title="Longest answer, tokens", description="length limit of an answer, tokens"
    )
    heldout_prompts: int | None = Field(
        None,
        ge=1,
        title="Held-out prompts, how many",
        description="number of held-out prompts to measure on, from the first; all if empty",
    )
    trace_prompts: Annotated[int, MEASUREMENT] = Field(
        24, ge=1, title="Prompts with traces", description="prompts decoded speculatively for the sampled rates"
    )
    speed_prompts: Annotated[int, MEASUREMENT] = Field(
        8,
        ge=0,
        title="Timed prompts",
        description="prompts timed plain, speculative and by Transformers' generate in turn; 0 skips the timing",
    )
    speed_tokens: Annotated[int, MEASUREMENT] = Field(
        64, ge=2, le=MOST_TOKENS, title="Tokens of a timed answer", description="tokens of each timed answer"
    )
    speed_temperature: Annotated[float, MEASUREMENT, TEMPERATURE] = Field(
        0.0, ge=0, le=10, title="Temperature of the timed answers", description="temperature of the timed answers"
    )
    certificate_prompts: Annotated[int, MEASUREMENT] = Field(
        4, ge=1, title="Prompts of the certificate", description="prompts of the losslessness certificate"
    )
    certificate_tokens: Annotated[int, MEASUREMENT] = Field(
        32,
        ge=2,
        le=MOST_TOKENS,
        title="Tokens of a certified answer",
        description="tokens of each answer in the certificate",
    )
    seed: int = Field(0, ge=0, title="Seed of the measurement", description="seed of the draws")
    bootstrap_samples: Annotated[int, MEASUREMENT] = Field(
        2000,
        ge=100,
        le=1_000_000,
        title="Resamples for an interval",
        description="resamples of the prompts for an interval",
    )

    @model_validator(mode="after")
    def _temperatures_are_sane(self, info: ValidationInfo) -> MeasureSpec:
        if (
            len(set(self.temperatures)) != len(self.temperatures)
            or not 0 <= min(self.temperatures) <= max(self.temperatures) <= 10
        ):
            raise ValueError("temperatures must be distinct, not negative and at most 10")
        fault = next(filter(None, map(temperature_fault, self.temperatures)), "")
        if fault and not (info.context or {}).get(STORED):
            raise ValueError(f"temperatures: {fault}")
        if self.against == "server" and not (
            set(self.temperatures) <= {0.0, 1.0} and self.top_p == 1 and not self.top_k
        ):
            raise ValueError(
                "against 'server' needs temperatures 0 and 1 alone, top_p 1 and top_k 0: the log-probabilities that a "
                "server sends are of its whole distribution at temperature 1"
            )
        return self
