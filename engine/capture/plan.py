"""What a capture will hold and where, known before the target writes a word.

A capture's address is the hash of everything that changes its answers or its signal, so that whoever asks for the
same finds the same folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.capture.signal import SignalFormat, signal_format
from engine.chat.prompt import Prompt
from engine.chat.rendering import render, template_hash
from engine.chat.template_date import clock_identity
from engine.config.schema import CaptureSpec
from engine.fileio import content_hash
from engine.models.load import LoadedModel

DONE = "done.json"  # in a capture's folder once every prompt is answered
_FORMAT = 1  # increase it when the meaning of the bytes changes
# Families whose rows once shared a cache although they count its columns: their captures of that time hold other text.
_ONCE_WITH_HOLES = ("gpt_neo",)


@dataclass(frozen=True)
class CapturePlan:
    """A capture's folder, the description that its address is the hash of, and its prompts as token ids."""

    folder: Path
    spec: dict[str, Any]
    signal: SignalFormat
    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    whole: Path | None = None  # folder of the capture that this one is a shard of

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do: every prompt has its answer here, or in the capture that this is a part of."""
        return any((folder / DONE).exists() for folder in (self.folder, self.whole) if folder is not None)

    def part(self, indices: Sequence[int], folder: Path) -> CapturePlan:
        """The plan of a capture of some of the prompts, in a folder of its own."""
        prompts, rendered = [self.prompts[i] for i in indices], [self.prompt_ids[i] for i in indices]
        spec = {**self.spec, "prompts": _prompts_identity(prompts, rendered)}
        return CapturePlan(folder, spec, self.signal, prompts, rendered, whole=self.folder)

    @property
    def address(self) -> str:
        return self.folder.name

    @property
    def most_tokens(self) -> int:
        return len(self.prompts) * int(self.spec["max_new_tokens"])

    @property
    def texts(self) -> list[tuple[str, int]]:
        """Each prompt's id, and how many tokens it and its answer may have."""
        most = int(self.spec["max_new_tokens"])
        return [(prompt.id, len(ids) + most) for prompt, ids in zip(self.prompts, self.prompt_ids, strict=True)]

    @property
    def most_bytes(self) -> int:
        return self.most_tokens * self.signal.bytes_per_token


def plan_capture(captures: Path, target: LoadedModel, prompts: Sequence[Prompt], settings: CaptureSpec) -> CapturePlan:
    """Plan a capture of what the target itself answers: weights, dtype and stop ids are part of its address."""
    writer: dict[str, Any] = {"format": _FORMAT, "target": target.fingerprint, "dtype": target.dtype_name}
    writer |= target.turns.stops_identity()
    if target.model.config.model_type in _ONCE_WITH_HOLES:
        writer["rows"] = "apart"
    signal = signal_format(settings.signal, target.model, settings.signal_top_k)
    return plan_for_writer(writer, captures, target, prompts, settings, signal)


def plan_for_writer(
    writer: Mapping[str, Any],
    captures: Path,
    target: LoadedModel,
    prompts: Sequence[Prompt],
    settings: CaptureSpec,
    signal: SignalFormat,
) -> CapturePlan:
    """Render the prompts and compute the capture's address.

    `writer` says who answers, in what else the answers depend on beside template, prompts, sampling and signal. The
    batch size is not part of the address. Raises DraftbenchError for a prompt that the target cannot be given.
    """
    rendered = [
        render(
            target.tokenizer,
            prompt,
            context_tokens=target.context_tokens,
            max_new_tokens=settings.max_new_tokens,
            rows=target.input_rows,
        )
        for prompt in prompts
    ]
    spec = {
        **writer,
        "template": template_hash(target.tokenizer),
        "prompts": _prompts_identity(prompts, rendered),
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
        "signal": {"kind": signal.kind, "bytes_per_token": signal.bytes_per_token},
        **clock_identity(target.tokenizer),
    }
    return CapturePlan(captures / content_hash(spec)[:24], spec, signal, list(prompts), rendered)


def _prompts_identity(prompts: Sequence[Prompt], rendered: Sequence[Sequence[int]]) -> str:
    return content_hash([[prompt.id, list(ids)] for prompt, ids in zip(prompts, rendered, strict=True)])
