"""Offline mode: the target's answers and signal were captured once and are read for several epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch

from engine.capture.batches import Batch, captured
from engine.capture.store import Capture
from engine.config.schema import TrainSpec
from engine.distill.reading import SignalReader
from engine.distill.schedule import Passes
from engine.distill.source import BatchSource, Material
from engine.errors import DraftbenchError
from engine.models.head import Head


def source(material: Material) -> OfflineBatches:
    """The batches of the mode."""
    return OfflineBatches.of(material)


class OfflineBatches(BatchSource):
    """Shuffled, length-bucketed batches of a finished capture.

    `draft_ids`: [rows], the target's ids that a draft of a trimmed vocabulary knows; None if it knows all.
    """

    reads_weights = False

    def __init__(
        self,
        capture: Capture,
        settings: TrainSpec,
        target_head: Head | None,
        device: torch.device,
        draft_ids: torch.Tensor | None = None,
    ) -> None:
        if not capture.answers:
            raise DraftbenchError("the capture holds no answers", "there is nothing to train on", "check prompts.train")
        super().__init__(
            settings, SignalReader(capture.format, target_head, device, draft_ids, settings, capture), device
        )
        self.capture = capture
        self.passes = Passes([len(answer.token_ids) for answer in capture.answers], settings)
        self.steps, self.visits = self.passes.steps, self.passes.visits

    @classmethod
    def of(cls, material: Material) -> Self:
        """The batches of a run."""
        ids = Head.of(material.draft.model).ids
        return cls(material.answers, material.settings, material.head, material.target.draft_device, ids)

    def micro_batches(self, step: int) -> Sequence[Batch]:
        answers = self.capture.answers
        return self.grouped([captured(self.capture, answers[i]) for i in self.passes.answers(step)])
