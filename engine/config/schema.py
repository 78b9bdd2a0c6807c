"""The one schema: recipe files, command-line overrides and the browser form come from it, a section a file.

Every default exists here and nowhere else. Descriptions carry the unit where there is one; a `title` is the label of a
key whose name is no plain word. Nothing in this package
imports torch, so that a page or `--help` can load it in milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from engine.catalogue import MODES, supervision_of
from engine.config.capture import CaptureSpec, ServerSpec
from engine.config.defaults import DEFAULT_TARGET
from engine.config.measure import MeasureSpec
from engine.config.models import RUN_DATE, DraftSpec, ModelSpec
from engine.config.prompts import PromptSource, PromptsSpec, SourcesField
from engine.config.resources import ResourcesSpec
from engine.config.section import LABEL, MOST_TOKENS, PACE, STORED, Mark, Section, Values
from engine.config.train import LossTerm, OnlineSpec, OnPolicySpec, SelectionSpec, TrainSpec

__all__ = [
    "DEFAULT_TARGET",
    "MOST_TOKENS",
    "RUN_DATE",
    "CaptureSpec",
    "DraftSpec",
    "LossTerm",
    "MeasureSpec",
    "ModelSpec",
    "OnPolicySpec",
    "OnlineSpec",
    "PromptSource",
    "PromptsSpec",
    "Recipe",
    "ResourcesSpec",
    "Section",
    "SelectionSpec",
    "ServerSpec",
    "SourcesField",
    "TrainSpec",
]


def _only_measures(recipe: Values) -> bool:
    return recipe.get("task") == "measure"


class Recipe(Section):
    """A run: one draft of one target, trained and measured; or a target, with a draft or none, measured as it is."""

    name: Annotated[str, LABEL] = Field(
        "run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        title="Name of the run",
        description="start of the run's id",
    )
    task: Annotated[Literal["train", "measure"], Mark(used=_only_measures)] = Field(
        "train",
        title="What the run does",
        description="train: a draft is trained, then measured; measure: nothing is trained, and the target is measured "
        "with the draft that draft.init names, as it is",
    )
    target: ModelSpec = Field(
        ModelSpec(), validate_default=True, title="Target", description="the model whose outputs are kept exactly"
    )
    draft: DraftSpec = Field(DraftSpec(), title="Draft")
    prompts: PromptsSpec = Field(title="Prompts")
    capture: CaptureSpec = Field(CaptureSpec(), title="Answers of the target")
    train: TrainSpec = Field(TrainSpec(), title="Training")
    measure: MeasureSpec = Field(MeasureSpec(), title="Measurement")
    resources: Annotated[ResourcesSpec, PACE] = Field(ResourcesSpec(), title="Machine")
    tags: Annotated[list[str], LABEL] = Field([], description="labels for filtering")
    notes: Annotated[str, LABEL] = Field("", description="free text kept with the run")

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Recipe:
        if (self.draft.init == "checkpoint") != (self.draft.checkpoint is not None):
            raise ValueError("draft.checkpoint is given exactly when draft.init is 'checkpoint'")
        self._task_fits()
        self._mode_fits()
        self._server_fits()
        needs_signal = [term.name for term in self.train.loss if supervision_of([term.name]) == "white_box"]
        if self.trains and self.capture.signal == "none" and needs_signal:
            raise ValueError(f"capture.signal 'none' keeps no distribution, which the loss {needs_signal[0]} needs")
        if self.capture.signal == "compact" and self.draft.vocabulary is not None:
            raise ValueError(
                "a compact signal does not say how likely each of a trimmed vocabulary's ids is; "
                "draft.vocabulary needs capture.signal 'exact'"
            )
        if self.capture.signal == "compact" and self.train.distill_temperature != 1:
            raise ValueError(
                "a compact signal holds probabilities at temperature 1; distill_temperature needs "
                "capture.signal 'exact'"
            )
        return self

    @model_validator(mode="after")
    def _stream_can_be_replayed(self, info: ValidationInfo) -> Recipe:
        """Refuse before the capture what could not be replayed from it. An earlier version did so after it."""
        replays = self.trains and self.train.mode == "online" and self.train.online.stream == "replay"
        if replays and self.capture.signal != "exact" and not (info.context or {}).get(STORED):
            instead = "set capture.signal 'exact', or train.online.stream 'decode'"
            if self.capture.server is not None:
                instead = "a server sends no more, so use train.mode 'offline'"
            raise ValueError(
                "a replayed stream needs the target's probability of every token, and capture.signal "
                f"{self.capture.signal!r} does not keep it: {instead}"
            )
        return self

    @model_validator(mode="after")
    def _something_is_measured(self, info: ValidationInfo) -> Recipe:
        """Refuse before the target is loaded what an earlier version refused after it."""
        alone = not self.trains and not self.has_draft
        if alone and self.measure.speed_prompts == 0 and not (info.context or {}).get(STORED):
            raise ValueError(
                "measure.speed_prompts 0 leaves nothing: speed is all that can be measured of a target alone"
            )
        return self

    @property
    def trains(self) -> bool:
        """Whether a draft is trained; else the run only measures."""
        return self.task == "train"

    @property
    def has_draft(self) -> bool:
        """Whether there is a draft to measure; else the target is timed alone."""
        return self.draft.init != "none"

    @property
    def times_server(self) -> bool:
        """Whether a server's speed is all that is measured: there is no target at hand."""
        return not self.trains and not self.has_draft and self.measure.against == "server"

    @property
    def target_label(self) -> str:
        """The target for people: the model at hand, or the served one that alone is measured."""
        server = self.capture.server
        return f"{server.model} at {server.base_url}" if self.times_server and server else self.target.label

    def _task_fits(self) -> None:
        """Refuse training prompts that nothing would be trained on, and a training without prompts or without draft."""
        if self.trains:
            if not self.prompts.train:
                raise ValueError("prompts.train is empty: a run that trains needs prompts to train on")
            if not self.has_draft:
                raise ValueError("draft.init 'none' leaves nothing to train: it goes with task 'measure'")
            return
        unused: dict[str, Any] = {
            "prompts.train": self.prompts.train,
            "prompts.train_prompts": self.prompts.train_prompts,
            "draft.vocabulary": self.draft.vocabulary,
            "draft.lora": self.draft.lora,
            "capture.server": None if self.times_server else self.capture.server,
        }
        named = [key for key, value in unused.items() if value]
        if named:
            raise ValueError(f"{named[0]} has no use with task 'measure', which trains nothing: leave it out")

    def _mode_fits(self) -> None:
        """Refuse what the mode of training, or token selection, cannot do."""
        if not self.trains:
            return
        train, black_box = self.train, self.train.supervision == "black_box"
        if (black_box or self.capture.signal == "none") and "black_box" not in MODES[train.mode].supervision:
            raise ValueError(
                f"{train.mode} learns from the target's distribution on the draft's text: sft and signal 'none' "
                "have none"
            )
        if not train.needs_capture and self.draft.vocabulary is not None:
            raise ValueError(
                f"draft.vocabulary {self.draft.vocabulary} is chosen from the target's answers, which a stream that is "
                "decoded has not seen yet: set train.online.stream to replay, or leave draft.vocabulary empty (null): "
                "a checkpoint then keeps the ids it has"
            )
        if (train.selection.share < 1) != (train.selection.reference is not None):
            raise ValueError("train.selection.reference is given exactly when train.selection.share is below 1")
        if train.shard == "full":
            self._shards_fit()
        if train.selection.share < 1 and black_box:
            raise ValueError("train.selection compares distributions, and sft has only the text")

    def _shards_fit(self) -> None:
        """Refuse what needs the whole draft in one process while it trains."""
        if self.train.mode != "offline":
            raise ValueError(
                f"train.shard 'full': in mode {self.train.mode} the draft decodes, for which it must be whole"
            )
        if self.train.selection.share < 1:
            raise ValueError("train.shard 'full': train.selection compares two whole drafts at every step")
        if self.draft.lora is not None:
            raise ValueError("train.shard 'full': of a draft with an adapter (draft.lora) only the adapter is trained")

    def _server_fits(self) -> None:
        """Refuse what needs more of the target than a server sends."""
        if self.capture.server is None:
            if self.measure.against == "server":
                raise ValueError("measure.against 'server' needs a capture.server to measure against")
            return
        if not self.trains:
            return
        signal, logprobs = self.capture.signal, self.capture.server.logprobs
        if signal == "exact":
            raise ValueError(
                "a server sends no hidden states: capture.server needs capture.signal 'none' to learn from its text, "
                "or 'compact' with capture.server.logprobs to learn from its likeliest tokens too"
            )
        if signal == "compact" and logprobs is None:
            raise ValueError(
                "capture.signal 'compact' from a server needs capture.server.logprobs: how many tokens to ask for at "
                "each position (20 is the most that vLLM sends by default)"
            )
        if signal == "none" and logprobs is not None:
            raise ValueError("capture.server.logprobs are kept by capture.signal 'compact' alone, not by 'none'")
        if not self.train.needs_capture:
            raise ValueError("a stream that is decoded needs the target itself, not a server: use train.mode 'offline'")
        if signal == "compact" and self.train.mode == "online":
            raise ValueError(
                "a replayed stream needs the target's probability of every token, and a server sends its likeliest "
                "alone: use train.mode 'offline'"
            )
        if self.train.mode == "on_policy":
            raise ValueError(
                "on_policy needs the target's distribution on the draft's own text, and the target is on a server "
                "that only answers prompts: use train.mode 'offline'"
            )
