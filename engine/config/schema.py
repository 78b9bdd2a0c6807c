"""The one schema: recipe files, command-line overrides and the browser form come from it.

Every default exists here and nowhere else. Descriptions carry the unit where there is one.
This module imports no torch, so that a page or `--help` can load it in milliseconds.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from engine.errors import DraftbenchError

RUN_DATE = "run:"  # before a date that nobody chose: it is that of the run's first day
DEFAULT_TARGET = "asset:smollm2-135m-instruct"


# What a column of the index and a generator of random numbers hold; torch's own seeds go to twice that.
MOST = 2**63 - 1
MOST_TOKENS = 1_000_000  # of an answer, a pass or a vocabulary: beyond any model, and still fit to compute with
# A right, or what is sent to whom: only a person may set it, so a form takes it from no address (URL).
BY_HAND = {"by_hand": True}


def _takes_truth(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_takes_truth(part) for part in get_args(annotation))


class Section(BaseModel):
    """A part of a recipe: immutable, and strict about names it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, values: Any) -> Any:
        """YAML reads yes, on and true alike; as a number each would be 1."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            inner = value if isinstance(value, list) else [value]
            if field and any(isinstance(each, bool) for each in inner) and not _takes_truth(field.annotation):
                raise ValueError(f"{name} is {str(value).lower()}, which is neither a number nor text")
        return values

    @model_validator(mode="after")
    def _whole_numbers_fit(self) -> Section:
        for name, value in self:
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int) and not isinstance(number, bool) and abs(number) > MOST:
                    raise ValueError(
                        f"{name} must be within 63 bits, from -{MOST} to {MOST}, which is what the index holds"
                    )
        return self


class ModelSpec(Section):
    """A causal language model and how to load it."""

    model: str = Field(
        DEFAULT_TARGET,
        min_length=1,
        description="asset:NAME (fetched once), hub:ORG/NAME, a local folder, or a .gguf file",
    )
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    adapter: str | None = Field(
        None,
        description="folder or hub:ORG/NAME of a PEFT adapter merged into the model; its own tokenizer or template is used",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 where the processor multiplies it natively, else float32"
    )
    device: str = Field("auto", description="auto (cuda, mps or cpu), or a torch device such as cuda:1")
    trust_remote_code: bool = Field(
        False,
        description="run Python code that ships with the model: only if you trust it",
        json_schema_extra={**BY_HAND},
    )
    template_date: str | None = Field(
        None,
        pattern=rf"^({RUN_DATE})?\d{{4}}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?$",
        description="date for chat templates that write today's, such as 2026-01-31; empty: the day a run begins, "
        "which its config.yaml then keeps as run:DATE",
    )

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
        """The model for people; one with an adapter is another target than its base."""
        return f"{self.model} + {Path(self.adapter).name}" if self.adapter else self.model


def _model_spec(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


ModelField = Annotated[ModelSpec, BeforeValidator(_model_spec)]


class DraftSpec(Section):
    """Where the draft's first weights come from."""

    init: Literal["layers", "checkpoint", "random"] = Field(
        "layers", description="layers of the target, a checkpoint, or random weights"
    )
    layers: int | list[int] = Field(
        4, description="how many evenly spaced layers, or the target's layer indices, first layer 0"
    )
    checkpoint: str | None = Field(
        None, description="with init: checkpoint, a run id, a draft folder, or any model as in target.model"
    )
    vocabulary: int | None = Field(
        None,
        ge=2,
        description="ids the draft can propose, the most frequent ones of the training answers; all (or those of the checkpoint) if empty",
    )
    share_embeddings: bool = Field(
        True, description="the draft uses the target's embeddings and output head, frozen; they are not stored again"
    )


class PromptSource(Section):
    """One file, folder or dataset of prompts, and where its columns are."""

    path: str = Field(
        min_length=1,
        description=".jsonl, .json, .csv or .parquet file, a Datasets folder, hub:NAME, or pack:DOMAIN/SCENARIO",
    )
    split: str = Field("train", description="split of a Datasets source")
    revision: str | None = Field(None, description="branch, tag or commit of a hub source")
    config: str | None = Field(None, description="configuration name of a Datasets source")
    messages_column: str = Field(
        "messages", description="column of the chat messages; dots go into objects, as in request.messages"
    )
    tools_column: str = Field("tools", description="column of the tool schemas")
    prompt_column: str = Field("prompt", description="column of plain text, used where there are no messages")
    limit: int | None = Field(None, ge=1, description="take at most this many prompts, in file order")

    def columns(self) -> tuple[str, ...]:
        """The columns, or dotted paths, that a record is read from; of wide tables no others are loaded."""
        return (
            "id",
            "group",
            self.messages_column,
            self.prompt_column,
            *self.tools_columns(),
            *self.system_columns(),
            *(("input", "history") if self.is_alpaca else ()),
        )

    def tools_columns(self) -> tuple[str, ...]:
        """Where tools may stand: unless the user names the column, also where OpenAI's requests have them."""
        if self.tools_column != "tools":
            return (self.tools_column,)
        return tuple(f"{outer}{name}" for outer in ("", self._around_messages) for name in ("tools", "functions"))

    def system_columns(self) -> tuple[str, ...]:
        """Where a system message may stand that is not among the messages: ShareGPT's and Anthropic's form."""
        return ("system", f"{self._around_messages}system")

    @property
    def is_alpaca(self) -> bool:
        """Whether rows are an instruction, perhaps with an `input` to it and a `history` before it."""
        return self.prompt_column == "instruction"

    @property
    def _around_messages(self) -> str:
        """The path of the object around the messages, with its dot; "" if they are a column."""
        outer, dot, _ = self.messages_column.rpartition(".")
        return outer + dot


def _sources(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    return [{"path": item} if isinstance(item, str) else item for item in items]


SourcesField = Annotated[list[PromptSource], BeforeValidator(_sources)]


class PromptsSpec(Section):
    """The prompts a draft is trained on and those it is measured on."""

    train: SourcesField = Field(min_length=1, description="prompts to train on")
    heldout: SourcesField = Field(min_length=1, description="prompts to measure on, kept out of training")
    domain: str = Field("general", description="label of the domain, for comparison")
    scenario: Literal["historical", "curated", "synthetic"] = Field(
        "curated", description="where the training prompts come from"
    )
    skip_bad: bool = Field(False, description="go on past bad rows and count them")
    max_prompt_tokens: int | None = Field(
        None,
        ge=1,
        description="leave out longer training prompts, in tokens, and of the held-out ones those of them that leave no room "
        "for an answer in the context; counted",
    )
    train_prompts: int | None = Field(
        None,
        ge=1,
        description="train on so many of the training prompts, chosen by their ids: a smaller set is part of a larger one; "
        "all if empty",
    )


class ServerSpec(Section):
    """An OpenAI-compatible server that answers in the target's stead: its text is all that is seen of the target."""

    base_url: str = Field(
        pattern=r"^https?://", description="where the server's API begins, such as http://127.0.0.1:8000/v1"
    )
    model: str = Field(min_length=1, description="name of the model there")
    key_env: str | None = Field(
        None,
        pattern=r"^[A-Z_][A-Z0-9_]*$",  # capitals only: a key put here by mistake is no such name
        description="environment variable, in capital letters, that holds the key; its value is never written anywhere",
    )
    concurrency: int = Field(4, ge=1, le=256, description="requests under way at once")
    requests_per_minute: int | None = Field(
        None, ge=1, le=1_000_000, description="begin at most so many a minute; no limit if empty"
    )
    timeout_s: float = Field(120.0, gt=0, le=86_400, description="seconds to wait for an answer")
    attempts: int = Field(6, ge=1, le=50, description="tries of a request before it counts as failed")

    @model_validator(mode="after")
    def _address_holds_no_key(self) -> ServerSpec:
        if any(mark in self.base_url for mark in "@?#"):
            raise ValueError(
                "base_url must not hold a user, a password or a query, since recipes are kept with runs: "
                "put the key into an environment variable and its name into key_env"
            )
        return self


class CaptureSpec(Section):
    """How the target answers the training prompts and what of its distribution is kept."""

    temperature: float = Field(1.0, ge=0, le=10, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 is off")
    top_k: int = Field(0, ge=0, le=MOST_TOKENS, description="0 is off")
    max_new_tokens: int = Field(160, ge=1, le=MOST_TOKENS, description="length limit of an answer, tokens")
    seed: int = Field(0, ge=0, description="seed of the answers")
    batch_size: int = Field(64, ge=1, description="prompts answered at once")
    signal: Literal["exact", "compact", "none"] = Field(
        "exact",
        description="exact: last hidden state; compact: top-k log-probabilities and the tail's mass; none: text only",
    )
    signal_top_k: int = Field(64, ge=1, le=4096, description="log-probabilities kept a token by the compact signal")
    server: ServerSpec | None = Field(
        None,
        description="fetch the training answers from this server; needs signal: none",
        json_schema_extra={**BY_HAND},
    )


# The parameter that belongs to one loss alone; a test holds this against the registry, which needs torch.
LOSS_PARAMETERS = {"jsd": "beta", "lk_hybrid": "eta"}


class LossTerm(Section):
    """One divergence, its weight in the sum and its own parameter."""

    name: str = Field(description="a loss of the registry: `draftbench losses` lists them")
    weight: float = Field(1.0, gt=0, description="factor in the weighted sum")
    beta: float = Field(0.5, gt=0, lt=1, description="share of the target in the mixture of jsd")
    eta: float = Field(3.0, gt=0, description="how fast lk_hybrid moves from forward KL to total variation")

    @property
    def own(self) -> tuple[str, float] | None:
        """Name and value of the loss's own parameter; None if it has none or has its usual value."""
        name = LOSS_PARAMETERS.get(self.name)
        if name is None or getattr(self, name) == type(self).model_fields[name].default:
            return None
        return name, float(getattr(self, name))


def _loss_terms(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    return [{"name": item} if isinstance(item, str) else item for item in items]


LossField = Annotated[list[LossTerm], BeforeValidator(_loss_terms)]


class OnlineSpec(Section):
    """Online mode: the draft learns from its refusals while it serves a stream of queries [OSD, arXiv 2310.07177]."""

    stream: Literal["decode", "replay"] = Field(
        "decode",
        description="decode: every query is decoded speculatively; replay: fates are drawn for the text of a capture, "
        "which has the same distribution and costs one pass instead of one a token",
    )
    order: Literal["given", "shuffled"] = Field(
        "given", description="given: queries come as the prompt files have them; shuffled: mixed by train.seed"
    )
    num_draft_tokens: int = Field(3, ge=1, le=32, description="gamma of the stream")
    update_interval: int = Field(8, ge=1, description="queries between updates")
    steps_per_update: int = Field(1, ge=1, description="optimiser steps an update")
    positions: Literal["wrong", "all"] = Field(
        "wrong", description="learn from refused positions only, or from all that were judged; never from a bonus"
    )
    replay_share: float = Field(
        0.0, ge=0, lt=1, description="share of an update's answers that come from earlier in the stream; 0 forgets them"
    )
    swap_every: int = Field(
        1, ge=0, description="updates between swaps of the new weights into the draft that decodes; 0: never"
    )


class OnPolicySpec(Section):
    """On-policy mode: the draft writes, the target scores."""

    form: Literal["sampled", "assisted"] = Field(
        "sampled",
        description="sampled: whole answers of the draft [GKD]; assisted: blocks that it proposes from anchors in "
        "the target's text [Draft-OPD]",
    )
    share: float = Field(
        0.5, ge=0, le=1, description="lambda: probability that a step's batch is the draft's, not the target's"
    )
    temperature: float = Field(1.0, gt=0, le=10, description="temperature the draft writes at")
    anchors: int = Field(
        4, ge=1, le=MOST_TOKENS, description="assisted: places in an answer from which a block is proposed"
    )
    block_tokens: int = Field(5, ge=1, le=64, description="assisted: tokens of a block")
    decay: float = Field(
        0.8, gt=0, le=1, description="assisted: factor on the loss for each token behind the first refused one"
    )


class SelectionSpec(Section):
    """Token selection: learn where the draft lags most behind a reference [AdaSPEC, arXiv 2510.19779]."""

    share: float = Field(
        1.0, gt=0, le=1, description="share of an optimiser step's positions that is learnt from; 1: all"
    )
    reference: str | None = Field(None, description="run or draft folder whose loss the gap is taken to")


class TrainSpec(Section):
    """Distillation of the draft. A mode decides where the next batch comes from, nothing else."""

    mode: Literal["offline", "online", "on_policy"] = Field(
        "offline",
        description="offline: capture once, several shuffled epochs; online: a stream of queries, each seen once; "
        "on_policy: the draft writes, the target scores",
    )
    online: OnlineSpec = OnlineSpec()
    on_policy: OnPolicySpec = OnPolicySpec()
    selection: SelectionSpec = SelectionSpec()
    loss: LossField = Field(
        [LossTerm(name="forward_kl")], min_length=1, validate_default=True, description="one loss or a weighted sum"
    )
    distill_temperature: float = Field(
        1.0, gt=0, le=10, description="both distributions are softened by it before the loss"
    )
    epochs: float = Field(6.0, gt=0, le=1_000_000, description="passes over the training answers")
    max_steps: int | None = Field(None, ge=1, description="stop after this many optimiser steps")
    batch_size: int = Field(16, ge=1, description="answers an optimiser step")
    micro_batch_tokens: int = Field(
        4096, ge=1, le=MOST_TOKENS, description="padded tokens a forward pass; smaller needs less memory, same result"
    )
    learning_rate: float = Field(1e-3, gt=0, description="peak of the schedule")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="learning rate after the warm-up")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled decay")
    adam_beta2: float = Field(0.98, gt=0, lt=1, description="AdamW's second beta")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="autocast of the forward pass; weights stay float32"
    )
    eval_every: int = Field(25, ge=1, description="steps between held-out evaluations")
    eval_prompts: int = Field(16, ge=1, description="held-out prompts in an evaluation during training")
    checkpoint_every: int = Field(25, ge=1, description="steps between checkpoints")
    seed: int = Field(0, ge=0, description="seed of initialisation and shuffling")


class MeasureSpec(Section):
    """What is measured on the held-out prompts, and how long that may take."""

    against: Literal["model", "server"] = Field(
        "model",
        description="model: the model at hand, everything; server: the text of capture.server and the log-probabilities "
        "it tells, acceptance at temperature 0 and 1 alone",
    )
    temperatures: list[float] = Field([0.0, 1.0], min_length=1, description="each is captured and measured on its own")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus for target and draft alike; 1 is off")
    top_k: int = Field(0, ge=0, le=MOST_TOKENS, description="for target and draft alike; 0 is off")
    num_draft_tokens: int = Field(3, ge=1, le=32, description="gamma: tokens proposed a round")
    adaptive: bool = Field(
        False, description="choose gamma each round from the acceptance seen so far, up to num_draft_tokens"
    )
    max_new_tokens: int = Field(160, ge=2, le=MOST_TOKENS, description="length limit of an answer, tokens")
    heldout_prompts: int | None = Field(
        None, ge=1, description="measure on the first so many held-out prompts; all if empty"
    )
    trace_prompts: int = Field(24, ge=1, description="prompts decoded speculatively for the sampled rates")
    speed_prompts: int = Field(
        8,
        ge=0,
        description="prompts timed plain, speculative and by Transformers' generate in turn; 0 skips the timing",
    )
    speed_tokens: int = Field(64, ge=2, le=MOST_TOKENS, description="tokens of each timed answer")
    speed_temperature: float = Field(0.0, ge=0, le=10, description="temperature of the timed answers")
    certificate_prompts: int = Field(4, ge=1, description="prompts of the losslessness certificate")
    certificate_tokens: int = Field(32, ge=2, le=MOST_TOKENS, description="tokens of each answer in the certificate")
    seed: int = Field(0, ge=0, description="seed of the draws")
    bootstrap_samples: int = Field(2000, ge=100, le=1_000_000, description="resamples of the prompts for an interval")

    @model_validator(mode="after")
    def _temperatures_are_sane(self) -> MeasureSpec:
        if (
            len(set(self.temperatures)) != len(self.temperatures)
            or not 0 <= min(self.temperatures) <= max(self.temperatures) <= 10
        ):
            raise ValueError("temperatures must be distinct, not negative and at most 10")
        if self.against == "server" and not (
            set(self.temperatures) <= {0.0, 1.0} and self.top_p == 1 and not self.top_k
        ):
            raise ValueError(
                "against 'server' needs temperatures 0 and 1 alone, top_p 1 and top_k 0: what a server tells of its tokens "
                "is its whole distribution at temperature 1"
            )
        return self


class Recipe(Section):
    """A run: one draft of one target, trained and measured."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="start of the run's id")
    target: ModelField = Field(
        ModelSpec(), validate_default=True, description="the model whose outputs are kept exactly"
    )
    draft: DraftSpec = DraftSpec()
    prompts: PromptsSpec
    capture: CaptureSpec = CaptureSpec()
    train: TrainSpec = TrainSpec()
    measure: MeasureSpec = MeasureSpec()
    tags: list[str] = Field([], description="labels for filtering")
    notes: str = Field("", description="free text kept with the run")

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Recipe:
        if (self.draft.init == "checkpoint") != (self.draft.checkpoint is not None):
            raise ValueError("draft.checkpoint is given exactly when draft.init is 'checkpoint'")
        self._modes_fit()
        if self.measure.against == "server" and self.capture.server is None:
            raise ValueError("measure.against 'server' needs a capture.server to measure against")
        needs_signal = [term.name for term in self.train.loss if term.name != "sft"]
        if self.capture.signal == "none" and needs_signal:
            raise ValueError(f"capture.signal 'none' keeps no distribution, which the loss {needs_signal[0]} needs")
        if self.capture.signal == "compact" and self.draft.vocabulary is not None:
            raise ValueError(
                "a compact signal does not say how likely each of a trimmed vocabulary's ids is; "
                "draft.vocabulary needs capture.signal 'exact'"
            )
        if self.capture.signal == "compact" and self.train.distill_temperature != 1:
            raise ValueError(
                "a compact signal holds probabilities at temperature 1; distill_temperature needs capture.signal 'exact'"
            )
        return self

    def _modes_fit(self) -> None:
        """What a mode of training cannot do."""
        train, black_box = self.train, all(term.name == "sft" for term in self.train.loss)
        if train.mode == "on_policy" and (black_box or self.capture.signal == "none"):
            raise ValueError(
                "on_policy learns from the target's distribution on the draft's text: sft and signal 'none' have none"
            )
        if train.mode == "online" and train.online.stream == "decode" and self.draft.vocabulary is not None:
            raise ValueError(
                f"draft.vocabulary {self.draft.vocabulary} is chosen from the target's answers, which a stream that is "
                "decoded has not seen yet: set train.online.stream to replay, or leave draft.vocabulary empty (null): "
                "a checkpoint then keeps the ids it has"
            )
        if (train.selection.share < 1) != (train.selection.reference is not None):
            raise ValueError("train.selection.reference is given exactly when train.selection.share is below 1")
        if train.selection.share < 1 and black_box:
            raise ValueError("train.selection compares distributions, and sft has only the text")
        if self.capture.server is not None and self.capture.signal != "none":
            raise ValueError("a server sends text, no distribution: capture.server needs capture.signal 'none'")
        if self.capture.server is not None and (train.mode == "online" and train.online.stream == "decode"):
            raise ValueError(
                "a stream that is decoded needs the target itself, not a server: use train.online.stream 'replay'"
            )
