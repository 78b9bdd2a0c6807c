"""How a draft is trained: losses, modes, token selection, optimiser."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from engine.catalogue import LOSSES, MODES, Supervision, supervision_of
from engine.config.section import (
    MOST_TOKENS,
    ONE_OR_MANY,
    PACE,
    TEMPERATURE,
    Mark,
    Section,
    Values,
    section_of,
    used_if,
    used_unless,
)

if TYPE_CHECKING:
    ModeName = str
else:  # one of the catalogue's modes, which a type checker cannot look up
    ModeName = Literal[tuple(MODES)]


def _parameter(name: str) -> Mark:
    """A key that belongs to the losses of which it is the parameter."""
    return Mark(used=lambda term: (card := LOSSES.get(str(term.get("name")))) is not None and card.parameter == name)


class LossTerm(Section):
    """One divergence, its weight in the sum and its own parameter."""

    shorthand = "name"

    name: str = Field(title="Loss", description="a loss of the catalogue: `draftbench losses` lists them")
    weight: float = Field(1.0, gt=0, title="Weight in the sum", description="factor in the weighted sum")
    beta: Annotated[float, _parameter("beta")] = Field(
        0.5, gt=0, lt=1, title="Share of the target (beta)", description="share of the target in the mixture of jsd"
    )
    eta: Annotated[float, _parameter("eta")] = Field(
        3.0,
        gt=0,
        title="Speed of the change (eta)",
        description="how fast lk_hybrid moves from forward KL to total variation",
    )
    hard_weight: Annotated[float, _parameter("hard_weight")] = Field(
        1.0,
        gt=0,
        le=1,
        title="Share of the likeliest token",
        description="share of the target's likeliest token in argmax_ce; the rest is forward KL",
    )

    @property
    def parameters(self) -> dict[str, float]:
        """The loss's own parameter by name; empty if it has none."""
        card = LOSSES.get(self.name)
        return {card.parameter: getattr(self, card.parameter)} if card and card.parameter else {}

    @property
    def own(self) -> tuple[str, float] | None:
        """Name and value of the loss's own parameter; None if it has none or has its usual value."""
        for name, value in self.parameters.items():
            if value != type(self).model_fields[name].default:
                return name, float(value)
        return None


class ModeSpec(Section):
    """The settings of a mode of training. A mode's own section overrides what differs from the usual."""

    # Whether each query is passed once, in as many steps as the mode makes of it: then `steps` and `answers_per_step`
    # are the mode's, and the keys epochs, max_steps, batch_size and batch_tokens of `train` are not used.
    one_pass: ClassVar[bool] = False

    @property
    def needs_capture(self) -> bool:
        """Whether the target must have answered the training prompts before training begins."""
        return True

    def steps(self, queries: int) -> int:
        """Optimiser steps over a stream of that many queries."""
        raise NotImplementedError

    def answers_per_step(self) -> float:
        """New answers that an optimiser step is made of, on average."""
        raise NotImplementedError


class OnlineSpec(ModeSpec):
    """Online mode: the draft learns from its refusals while it serves a stream of queries [OSD, arXiv 2310.07177]."""

    one_pass = True

    stream: Literal["decode", "replay"] = Field(
        "decode",
        title="How the stream is decoded",
        description="decode: every query is decoded speculatively; replay: fates are drawn for the text of a capture, "
        "which has the same distribution and costs one pass instead of one per token",
    )
    order: Literal["given", "shuffled"] = Field(
        "given",
        title="Order of the stream",
        description="given: the order of the prompt files; shuffled: shuffled by train.seed",
    )
    num_draft_tokens: int = Field(
        3, ge=1, le=32, title="Tokens proposed per round (gamma)", description="gamma of the stream"
    )
    update_interval: int = Field(8, ge=1, title="Queries between updates", description="queries between updates")
    steps_per_update: int = Field(1, ge=1, title="Steps per update", description="optimiser steps per update")
    positions: Literal["wrong", "all"] = Field(
        "wrong",
        title="Positions to learn from",
        description="learn from refused positions only, or from all that were judged; never from a bonus",
    )
    replay_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Share of earlier answers",
        description="share of an update's answers that come from earlier in the stream; 0 forgets them",
    )
    swap_every: int = Field(
        1,
        ge=0,
        title="Updates between two copies",
        description="updates between two copies of the new weights to the draft that decodes; 0: never",
    )

    @property
    def needs_capture(self) -> bool:
        return self.stream != "decode"

    def steps(self, queries: int) -> int:
        return math.ceil(queries / self.update_interval) * self.steps_per_update

    def answers_per_step(self) -> float:
        return self.update_interval / self.steps_per_update


_ASSISTED = used_unless("form", "sampled")


class OnPolicySpec(ModeSpec):
    """On-policy mode: the draft writes, the target scores."""

    form: Literal["sampled", "assisted"] = Field(
        "sampled",
        title="What the draft writes",
        description="sampled: whole answers of the draft [GKD]; assisted: blocks that it proposes from anchors in "
        "the target's text [Draft-OPD]",
    )
    share: float = Field(
        0.5,
        ge=0,
        le=1,
        title="Share of the draft's own text (lambda)",
        description="lambda: probability that a step's batch is the draft's, not the target's",
    )
    temperature: Annotated[float, TEMPERATURE] = Field(
        1.0, gt=0, le=10, title="Temperature of the draft", description="sampling temperature of the draft"
    )
    anchors: Annotated[int, _ASSISTED] = Field(
        4,
        ge=1,
        le=MOST_TOKENS,
        title="Blocks per answer",
        description="assisted: positions in an answer from which a block is proposed",
    )
    block_tokens: Annotated[int, _ASSISTED] = Field(
        5, ge=1, le=64, title="Tokens per block", description="assisted: tokens per block"
    )
    decay: Annotated[float, _ASSISTED] = Field(
        0.8,
        gt=0,
        le=1,
        title="Weight of what follows a refusal",
        description="assisted: factor on the loss for each token after the first refused one",
    )


class SelectionSpec(Section):
    """Token selection: learn where the draft lags most behind a reference [AdaSPEC, arXiv 2510.19779]."""

    share: float = Field(
        1.0,
        gt=0,
        le=1,
        title="Share of the positions",
        description="share of an optimiser step's positions to learn from; 1: all",
    )
    reference: Annotated[str | None, Mark(path="draft")] = Field(
        None, title="Reference draft", description="run or draft folder that the draft's loss is compared with"
    )


def _selects(train: Values) -> bool:
    return bool((train.get("selection") or {}).get("share", 1) < 1)


def _has_several_passes(train: Values) -> bool:
    section = section_of(TrainSpec.model_fields.get(str(train.get("mode"))))
    return not (section is not None and issubclass(section, ModeSpec) and section.one_pass)


_SEVERAL_PASSES = Mark(used=_has_several_passes)
_COUNTS_TOKENS = Mark(used=lambda train: _has_several_passes(train) and train.get("batch_tokens") is not None)
_COUNTS_ANSWERS = Mark(used=lambda train: _has_several_passes(train) and train.get("batch_tokens") is None)


class TrainSpec(Section):
    """Distillation of the draft. A mode decides where the next batch comes from, nothing else."""

    mode: ModeName = Field(
        "offline", title="Training mode", description="; ".join(f"{mode.name}: {mode.brief}" for mode in MODES.values())
    )
    online: Annotated[OnlineSpec, used_if("mode", "online")] = OnlineSpec()
    on_policy: Annotated[OnPolicySpec, used_if("mode", "on_policy")] = OnPolicySpec()
    selection: Annotated[SelectionSpec, Mark(used=_selects)] = SelectionSpec()
    loss: Annotated[list[LossTerm], ONE_OR_MANY] = Field(
        [LossTerm(name="forward_kl")],
        min_length=1,
        validate_default=True,
        title="Loss",
        description="one loss or a weighted sum",
    )
    distill_temperature: Annotated[float, TEMPERATURE] = Field(
        1.0,
        gt=0,
        le=10,
        title="Temperature of the distillation",
        description="temperature of both distributions in the loss",
    )
    epochs: Annotated[float, _SEVERAL_PASSES] = Field(
        6.0, gt=0, le=1_000_000, title="Epochs", description="passes over the training answers"
    )
    max_steps: Annotated[int | None, _SEVERAL_PASSES] = Field(
        None, ge=1, title="Steps, at most", description="stop after this many optimiser steps"
    )
    batch_size: Annotated[int | None, _COUNTS_ANSWERS] = Field(
        16,
        ge=1,
        title="Answers per step",
        description="answers per optimiser step; not used where batch_tokens is given",
    )
    batch_tokens: Annotated[int | None, _COUNTS_TOKENS] = Field(
        None,
        ge=1,
        title="Tokens per step",
        description="approximate tokens of the target's answers per optimiser step, instead of batch_size",
    )
    micro_batch_tokens: Annotated[int | None, PACE] = Field(
        None,
        ge=1,
        le=MOST_TOKENS,
        title="Tokens per pass",
        description="padded tokens per forward pass; a smaller value needs less memory and gives the same result; "
        "empty: 4,096 on a CPU, 16,384 on a GPU",
    )
    learning_rate: float = Field(1e-3, gt=0, description="peak of the schedule")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="learning rate after the warm-up")
    warmup_fraction: float = Field(
        0.05,
        ge=0,
        lt=1,
        title="Warm-up, share of the steps",
        description="share of the steps with a rising learning rate",
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled decay")
    adam_beta2: float = Field(0.98, gt=0, lt=1, title="Adam's second beta", description="AdamW's second beta")
    max_grad_norm: float = Field(
        1.0, gt=0, title="Largest gradient norm", description="gradients are clipped to this norm"
    )
    shard: Annotated[Literal["none", "full"], PACE] = Field(
        "none",
        title="Split the draft over processes",
        description="on several processes, none: each holds the whole draft; full: each holds a piece of every layer "
        "(FSDP2), for drafts that do not fit",
    )
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="precision of the forward and backward pass; the weights that are optimised stay float32"
    )
    eval_every: int = Field(
        25, ge=1, title="Steps between evaluations", description="steps between held-out evaluations"
    )
    eval_prompts: int = Field(
        16, ge=1, title="Prompts per evaluation", description="held-out prompts in an evaluation during training"
    )
    checkpoint_every: Annotated[int, PACE] = Field(
        25, ge=1, title="Steps between checkpoints", description="steps between checkpoints"
    )
    seed: int = Field(0, ge=0, title="Seed of the training", description="seed of initialisation and shuffling")

    @model_validator(mode="before")
    @classmethod
    def _one_batch_size(cls, values: Any) -> Any:
        """A batch is so many answers or so many tokens: what is not named is empty."""
        if not isinstance(values, dict) or values.get("batch_tokens") is None:
            return values
        if values.get("batch_size") is not None:
            raise ValueError(
                f"batch_size is {values['batch_size']} and batch_tokens {values['batch_tokens']}: a step takes a "
                "number of answers or of tokens; set the other one to null"
            )
        return {**values, "batch_size": None}

    @model_validator(mode="after")
    def _some_batch_size(self) -> TrainSpec:
        if self.batch_size is None and self.batch_tokens is None:
            raise ValueError("batch_size and batch_tokens are both empty: a step needs one of them")
        return self

    @property
    def own(self) -> ModeSpec:
        """The section of the mode; the usual settings if it has none."""
        section = getattr(self, self.mode, None)
        return section if isinstance(section, ModeSpec) else ModeSpec()

    @property
    def needs_capture(self) -> bool:
        """Whether the target must have answered the training prompts before training begins."""
        return self.own.needs_capture

    @property
    def supervision(self) -> Supervision:
        """What the draft sees of the target: its distribution, or its text alone."""
        return supervision_of(term.name for term in self.loss)
