"""Offline mode: the target's answers and signal were captured once and are read for several epochs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.capture.batches import Batch, collate, sequence_tokens
from engine.capture.grouping import group_by_length
from engine.capture.signal import ExactSignal, Signal, TrimmedSignal, log_totals
from engine.capture.store import Capture
from engine.config import TrainSpec
from engine.distill.plan import step_answers, total_steps
from engine.errors import DraftbenchError
from engine.models.head import Head


class OfflineBatches:
    """Shuffled, length-bucketed batches of a finished capture.

    `draft_ids`: [rows], the target's ids that a draft of a trimmed vocabulary knows; None if it knows all.
    """

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
        self.capture, self.settings, self.target_head, self.device = capture, settings, target_head, device
        self.steps = total_steps(len(capture.answers), settings)
        self._trimmed = _TrimmedReader(capture, target_head, draft_ids, settings) if draft_ids is not None else None

    def micro_batches(self, step: int) -> Sequence[Batch]:
        chosen = [self.capture.answers[i] for i in step_answers(len(self.capture.answers), self.settings, step)]
        groups = group_by_length([sequence_tokens(a) for a in chosen], self.settings.micro_batch_tokens)
        return [collate(self.capture, [chosen[i] for i in group], self.device) for group in groups]

    def read_signal(self, batch: Batch, part: slice) -> Signal | None:
        """None for a capture of text alone: the loss is sft then, checked with the recipe."""
        if self.capture.format.kind == "none":
            return None
        signal = self.capture.format.decode(batch.raw_signal[part], self.target_head, self.device)
        return signal if self._trimmed is None else self._trimmed.read(signal, batch.places[part])


_BLOCK = 64  # positions normalised at once: of 150,000 ids in float32 they are 38 MB


class _TrimmedReader:
    """A capture's exact signal at a draft's ids; the normaliser of each position is worked out once."""

    def __init__(self, capture: Capture, head: Head | None, ids: torch.Tensor, settings: TrainSpec) -> None:
        if capture.format.kind == "compact":
            raise DraftbenchError(
                "a draft of a trimmed vocabulary cannot learn from a compact signal",
                "which of its ids lie in the tail, and how likely each is, is not known",
                "set capture.signal: exact, or leave draft.vocabulary out",
            )
        self.head, self.temperature = head, settings.distill_temperature
        self.own_head = None if head is None else head.of_ids(ids)
        self.capture = capture
        self.totals = torch.full((capture.positions,), torch.nan)

    def read(self, signal: Signal, places: torch.Tensor) -> TrimmedSignal:
        assert isinstance(signal, ExactSignal)
        assert self.own_head is not None
        for block in sorted(set((places[self.totals[places].isnan()] // _BLOCK).tolist())):
            self._fill(signal.head, signal.hidden.device, slice(block * _BLOCK, (block + 1) * _BLOCK))
        return TrimmedSignal(signal.hidden, self.own_head, self.totals[places].to(signal.hidden.device))

    def _fill(self, head: Head, device: torch.device, part: slice) -> None:
        """The normalisers of a block of the file: always the same rows together, so that they round the same way
        whatever batch asks first, and a resumed run goes on bit for bit."""
        signal = self.capture.format.decode(self.capture.raw_positions(part), head, device)
        assert isinstance(signal, ExactSignal)
        self.totals[part] = log_totals(signal.hidden, head, self.temperature).cpu()
