"""A tiny target with drafts and captures of its own answers, in memory and in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from engine.capture.plan import plan_capture
from engine.capture.store import Capture, make_capture
from engine.chat.prompt import Prompt
from engine.config.schema import CaptureSpec, DraftSpec, MeasureSpec, ModelSpec
from engine.measure.suite import Measured, Pair, measure_drafts
from engine.models.draft import Draft, DraftInfo, initialise_draft
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress
from engine.records.events import Event
from tests.conftest import byte_tokenizer, tiny_llama

QUESTIONS = ("hi", "What is 2 + 2?", "你好", "Name a river in Kenya.", "🙂?", "Why do leaves turn red in autumn?")


def loaded(model: Any, name: str = "tiny") -> LoadedModel:
    """A model that never was on disk, as if it had been loaded."""
    return LoadedModel(model, byte_tokenizer(), ModelSpec(model=name), fingerprint=name)


def stopping_target() -> LoadedModel:
    """A tiny target whose answers end at different lengths."""
    target = loaded(tiny_llama())
    target.model.generation_config.eos_token_id = list(range(40, 70))
    return target


def as_draft(model: Any) -> Draft:
    return Draft(model, DraftInfo("tiny", False, "random", []))


def draft_of(target: LoadedModel, **spec: Any) -> Draft:
    """A draft of two of the target's layers, unless `spec` says otherwise."""
    return initialise_draft(target, DraftSpec(**{"layers": 2, **spec}), seed=0)


def questions(count: int = len(QUESTIONS)) -> list[Prompt]:
    """Prompts of very different lengths, in two groups."""
    texts = QUESTIONS[:count]
    return [Prompt(f"q{i}", ({"role": "user", "content": t},), group="ab"[i % 2]) for i, t in enumerate(texts)]


def captured(folder: Path, target: LoadedModel, prompts: Sequence[Prompt] | None = None, **settings: Any) -> Capture:
    """The target's answers to the prompts with exact signal."""
    spec = CaptureSpec(**{"max_new_tokens": 12, **settings})
    plan = plan_capture(folder / "captures", target, prompts or questions(), spec)
    return make_capture(plan, target, batch_size=4)


def blend(model: Any, other: Any, share: float) -> Any:
    """`model` with a share of `other`'s weights mixed in: a draft that is right only partly."""
    with torch.no_grad():
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.lerp_(theirs, share)
    return model


def noisy_copy(share: float = 0.15) -> Any:
    """A draft whose acceptance is neither all nor nothing, for the default tiny target."""
    return blend(tiny_llama(), tiny_llama(seed=9), share)


def settings(**changes: Any) -> MeasureSpec:
    """What the tests measure: everything, of short answers."""
    short = {
        "max_new_tokens": 12,
        "speed_prompts": 2,
        "speed_tokens": 6,
        "certificate_prompts": 2,
        "certificate_tokens": 4,
        "bootstrap_samples": 200,
    }
    return MeasureSpec(**{**short, **changes})


def measured(
    target: LoadedModel, trained: Any, captures: dict[float, Capture], spec: MeasureSpec | None = None
) -> Measured:
    """A random draft 'initial' and the model `trained` on all questions of the captures."""
    ids = {answer.prompt_id for answer in next(iter(captures.values())).answers}
    prompts = [prompt for prompt in questions() if prompt.id in ids]
    return measured_on(target, trained, captures, prompts, spec or settings())


def measured_on(
    target: LoadedModel,
    trained: Any,
    captures: dict[float, Capture],
    prompts: Sequence[Prompt],
    spec: MeasureSpec,
    progress: Progress = SILENT,
) -> Measured:
    """The same on some prompts."""
    pair = Pair(target, as_draft(trained))
    return measure_drafts(
        pair, as_draft(tiny_llama(layers=2, seed=5)), pair, captures, prompts, spec, progress=progress
    )


def into(documents: list[dict[str, Any]]) -> Callable[[Event], None]:
    """Collect events as the documents that they are written as."""
    return lambda event: documents.append(event.document())
