"""The models of a recipe: the target, and where the draft's first weights come from."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from engine.config.defaults import DEFAULT_TARGET
from engine.config.lora import DraftLoraSpec
from engine.config.section import PACE, STORED, Mark, Section, Values, used_if
from engine.errors import DraftbenchError

RUN_DATE = "run:"  # before a date that nobody chose: it is that of the run's first day


def _is_quantised(model: Values) -> bool:
    return model.get("quantize") is not None


def _is_spread(model: Values) -> bool:
    return model.get("device_map") is not None


def _is_split(model: Values) -> bool:
    return bool(model.get("tensor_parallel", 1) != 1)


def _is_adapted(draft: Values) -> bool:
    return draft.get("lora") is not None


def _has_own_date(model: Values) -> bool:
    """Whether somebody chose the date of the template; else it is the day the run began, or not written at all."""
    return not str(model.get("template_date") or RUN_DATE).startswith(RUN_DATE)


class ModelSpec(Section):
    """A causal language model and how to load it."""

    shorthand = "model"

    model: Annotated[str, Mark(path="file")] = Field(
        DEFAULT_TARGET,
        min_length=1,
        title="Target model",
        description="asset:NAME (fetched once), hub:ORG/NAME, a local folder, or a .gguf file",
    )
    revision: str | None = Field(None, title="Version on the hub", description="branch, tag or commit of a hub model")
    adapter: Annotated[str | None, Mark(path="file")] = Field(
        None,
        description="folder or hub:ORG/NAME of a PEFT adapter to merge into the model; its tokenizer and template "
        "are used",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        title="Number format",
        description="auto: bfloat16 where the processor multiplies it natively, else float32",
    )
    quantize: Annotated[Literal["int8"] | None, Mark(used=_is_quantised)] = Field(
        None,
        title="Rounded weights",
        description="int8: the target is the model with its layers' weights rounded to 8 bits, faster on a CPU; "
        "empty: the model as it is",
    )
    device: str = Field("auto", description="auto (cuda, mps or cpu), or a torch device such as cuda:1")
    device_map: Annotated[Literal["auto"] | None, Mark(affects="pace", used=_is_spread)] = Field(
        None,
        title="Spread over several devices",
        description="auto: a model larger than one card is spread over all that CUDA_VISIBLE_DEVICES names, then over "
        "main memory, then over its own files; empty: all of it is on target.device",
    )
    max_memory_gb: Annotated[dict[str, float] | None, Mark(affects="pace", used=_is_spread)] = Field(
        None,
        title="Most memory per device, GB",
        description="with device_map, maximum memory for weights by device, 10^9 bytes, such as "
        "{0: 40, 1: 70, cpu: 100}; a device that is not named gets none; empty: what is free",
    )
    tensor_parallel: Annotated[int, Mark(affects="pace", used=_is_split)] = Field(
        1,
        ge=1,
        le=64,
        title="Processes that share each layer",
        description="processes that each hold a part of every layer, on a card of their own; 1: none",
    )
    trust_remote_code: Annotated[bool, Mark(by_hand=True)] = Field(
        False,
        title="Run the model's own code",
        description="run Python code that ships with the model: only if you trust it",
    )
    template_date: Annotated[str | None, Mark(used=_has_own_date)] = Field(
        None,
        pattern=rf"^({RUN_DATE})?\d{{4}}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?$",
        title="Date in the chat template",
        description="date for chat templates that write today's, such as 2026-01-31; empty: the day a run begins, "
        "which its config.yaml then keeps as run:DATE",
    )

    @field_validator("max_memory_gb", mode="before")
    @classmethod
    def _device_names(cls, memory: Any) -> Any:
        """Names as text: YAML reads that of a card as a number."""
        return {str(name): size for name, size in memory.items()} if isinstance(memory, dict) else memory

    @field_validator("max_memory_gb")
    @classmethod
    def _sizes_of_devices(cls, memory: dict[str, float] | None) -> dict[str, float] | None:
        for name, size in (memory or {}).items():
            if not (name.isdecimal() or name == "cpu"):
                raise ValueError(
                    f"{name!r} is neither a card's number nor cpu; what has no place is read from its files"
                )
            if not size >= 0:
                raise ValueError(f"{size} GB for {name}")
        return memory

    @model_validator(mode="after")
    def _one_way_to_be_large(self) -> ModelSpec:
        if self.max_memory_gb is not None and self.device_map is None:
            raise ValueError("max_memory_gb limits what device_map spreads: set device_map: auto as well")
        if self.tensor_parallel > 1 and self.device_map is not None:
            raise ValueError("device_map spreads whole layers and tensor_parallel splits each: set one of them")
        if self.quantize is not None and (self.device_map is not None or self.tensor_parallel > 1):
            raise ValueError(
                "quantize is for a target that lies whole in main memory, without device_map or tensor_parallel"
            )
        return self

    @model_validator(mode="after")
    def _revision_of_the_hub(self, info: ValidationInfo) -> ModelSpec:
        of_hub = self.model.startswith("hub:")
        if self.revision is not None and not of_hub and not (info.context or {}).get(STORED):
            raise ValueError(
                f"revision {self.revision!r} has no use: {self.model} is not from the hub, which alone has versions; "
                "leave it out, or name hub:ORG/NAME"
            )
        return self

    @field_validator("template_date")
    @classmethod
    def _is_a_date(cls, date: str | None) -> str | None:
        if date is not None:
            datetime.datetime.fromisoformat(date.removeprefix(RUN_DATE))
        return date

    @field_validator("model", "adapter", "device", mode="before")
    @classmethod
    def _utf8(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                shown = value.encode("utf-8", "backslashreplace").decode("ascii", "replace")
                raise DraftbenchError(
                    f"the name {shown} is not UTF-8", "it is opened by libraries that need that", "rename it"
                ) from None
        return value

    @property
    def label(self) -> str:
        """The model for people; one with an adapter or int8 weights is another target than its base."""
        merged = f"{self.model} + {Path(self.adapter).name}" if self.adapter else self.model
        return f"{merged}, {self.quantize} weights" if self.quantize else merged


class DraftSpec(Section):
    """Where the draft's first weights come from."""

    init: Literal["layers", "checkpoint", "random", "none"] = Field(
        "layers",
        title="Draft starts from",
        description="layers of the target, a checkpoint, or random weights; none: no draft, with task: measure",
    )
    layers: Annotated[int | list[int], used_if("init", "layers", "random")] = Field(
        4,
        title="Layers of the draft",
        description="how many evenly spaced layers, or the target's layer indices, first layer 0",
    )
    checkpoint: Annotated[str | None, Mark(path="draft")] = Field(
        None,
        title="Checkpoint to start from",
        description="with init: checkpoint, a run id, a draft folder, or any model as in target.model",
    )
    vocabulary: int | None = Field(
        None,
        ge=2,
        title="Vocabulary of the draft",
        description="number of ids the draft can propose, the most frequent ones of the training answers; if empty, "
        "all, "
        "or those of the checkpoint",
    )
    device: Annotated[str, PACE] = Field(
        "auto",
        description="auto: where the target's embeddings are; or a torch device of the draft's own, such as cuda:1",
    )
    share_embeddings: bool = Field(
        True,
        title="Use the target's embeddings",
        description="the draft uses the target's embeddings and output head, frozen; they are not stored again. A "
        "checkpoint must have the same; false keeps its own",
    )
    lora: Annotated[DraftLoraSpec | None, Mark(used=_is_adapted)] = Field(
        None,
        description="train a LoRA adapter on the draft that init gives, which all fine-tunes can share, instead of all "
        "its weights; {} takes the defaults, empty trains all weights",
    )

    @model_validator(mode="after")
    def _something_to_adapt(self) -> DraftSpec:
        if self.lora is not None and self.init == "random":
            raise ValueError("draft.lora adapts a draft that can do something already: init 'random' has no such draft")
        return self
