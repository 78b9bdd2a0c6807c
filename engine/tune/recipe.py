"""The schema of a tuning recipe: which model, which references, which adapter, how long."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from engine.config.lora import LoraSpec
from engine.config.schema import MOST_TOKENS, ModelSpec, Section, SourcesField, TrainSpec


class TuneData(Section):
    """Records with a `reference`: what the assistant should say."""

    train: SourcesField = Field(min_length=1, description="records to learn from; pack:DOMAIN/SCENARIO or files")
    heldout: SourcesField = Field(min_length=1, description="records for the figures, kept out of training")
    unanswered: Literal["refuse", "leave_out"] = Field(
        "refuse", description="records without a reference: an error, or left out and counted"
    )
    max_prompt_tokens: int = Field(
        400, ge=1, description="records with longer prompts are left out, in tokens; counted"
    )
    max_reference_tokens: int = Field(256, ge=1, description="longer references are cut there, in tokens; counted")


class AdapterSpec(LoraSpec):
    """The LoRA adapter of a target. Embeddings and output head are never adapted: the draft shares them."""

    layers: int = Field(14, ge=1, description="adapt this many of the last layers; those below need no backward pass")


class TuneTraining(Section):
    """The optimiser and its schedule."""

    epochs: float = Field(1.0, gt=0, le=1_000_000, description="passes over the training records")
    max_steps: int | None = Field(None, ge=1, description="stop after this many optimiser steps")
    batch_size: int = Field(8, ge=1, description="records an optimiser step")
    micro_batch_tokens: int = Field(
        1024, ge=1, le=MOST_TOKENS, description="padded tokens a forward pass; same result, less memory"
    )
    learning_rate: float = Field(1e-3, gt=0, description="peak of the schedule")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="learning rate after the warm-up")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    checkpoint_every: int = Field(10, ge=1, description="steps between checkpoints")
    seed: int = Field(0, ge=0, description="seed of the adapter's first weights and of shuffling")

    def plan(self) -> TrainSpec:
        """The settings as engine.distill reads them for the order of records and the learning rate."""
        names = ("epochs", "max_steps", "batch_size", "learning_rate", "schedule", "warmup_fraction", "seed")
        return TrainSpec(**{name: getattr(self, name) for name in names})


class TuneMeasure(Section):
    """The figures before and after."""

    records: int | None = Field(
        None, ge=1, description="perplexity on this many held-out records, from the first; all if empty"
    )
    function_calls: bool = Field(False, description="let the model answer, and judge its function calls")
    call_records: int = Field(96, ge=2, description="held-out records answered for the rate of valid calls")
    max_new_tokens: int = Field(160, ge=2, le=MOST_TOKENS, description="length limit of such an answer, tokens")
    batch_size: int = Field(32, ge=1, description="records answered at once")
    bootstrap_samples: int = Field(2000, ge=100, le=1_000_000, description="resamples of the prompts for an interval")
    seed: int = Field(0, ge=0, description="seed of the resampling")


class TuneRecipe(Section):
    """A domain target: a model, its domain's references, and the adapter that learns them."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="name of the target")
    target: ModelSpec = Field(ModelSpec(), validate_default=True, description="the model to tune")
    data: TuneData
    adapter: AdapterSpec = AdapterSpec()
    train: TuneTraining = TuneTraining()
    measure: TuneMeasure = TuneMeasure()
    notes: str = Field("", description="free text kept with the target")

    @model_validator(mode="after")
    def _target_can_be_tuned(self) -> TuneRecipe:
        if self.target.dtype == "float16":
            raise ValueError("target.dtype: gradients vanish in float16; tune in bfloat16 or float32")
        if self.target.quantize is not None:
            raise ValueError("target.quantize: an adapter is made for unrounded weights; tune the plain model")
        if self.target.device_map is not None or self.target.tensor_parallel > 1:
            raise ValueError(
                "target.device_map, target.tensor_parallel: an adapter is tuned on a target that is whole on one device"
            )
        if self.target.adapter is not None:
            raise ValueError("target.adapter: an adapter is made for the plain model; merge the first one before")
        return self
