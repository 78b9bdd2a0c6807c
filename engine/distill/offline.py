"""Offline mode: the target's answers and signal were captured once and are read for several epochs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.capture.batches import Batch, collate, group_by_length, sequence_tokens
from engine.capture.signal import Signal
from engine.capture.store import Capture
from engine.config import TrainSpec
from engine.distill.plan import step_answers, total_steps
from engine.errors import DraftbenchError
from engine.models.head import Head


class OfflineBatches:
    """Shuffled, length-bucketed batches of a finished capture."""

    def __init__(self, capture: Capture, settings: TrainSpec, target_head: Head | None, device: torch.device) -> None:
        if not capture.answers:
            raise DraftbenchError("the capture holds no answers", "there is nothing to train on", "check prompts.train")
        self.capture, self.settings, self.target_head, self.device = capture, settings, target_head, device
        self.steps = total_steps(len(capture.answers), settings)

    def micro_batches(self, step: int) -> Sequence[Batch]:
        chosen = [self.capture.answers[i] for i in step_answers(len(self.capture.answers), self.settings, step)]
        groups = group_by_length([sequence_tokens(a) for a in chosen], self.settings.micro_batch_tokens)
        return [collate(self.capture, [chosen[i] for i in group], self.device) for group in groups]

    def read_signal(self, batch: Batch, part: slice) -> Signal | None:
        """None for a capture of text alone: the loss is sft then, checked with the recipe."""
        if self.capture.format.kind == "none":
            return None
        return self.capture.format.decode(batch.raw_signal[part], self.target_head, self.device)
