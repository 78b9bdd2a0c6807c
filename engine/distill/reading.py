"""Reading a batch's signal, for every mode alike."""

from __future__ import annotations

import torch

from engine.capture.batches import Batch
from engine.capture.signal import ExactSignal, Signal, SignalFormat, TrimmedSignal, log_totals
from engine.capture.store import Capture
from engine.config.schema import TrainSpec
from engine.decode.device import on_device
from engine.errors import DraftbenchError
from engine.models.head import Head

_BLOCK = 64  # positions normalised at once: of 150,000 ids in float32 they are 38 MB


def refuse_trimmed(signal_kind: str, draft_ids: torch.Tensor | None) -> None:
    """Raise DraftbenchError if the signal is compact and the draft's vocabulary, or its checkpoint's, is trimmed."""
    if draft_ids is not None and signal_kind == "compact":
        raise DraftbenchError(
            "a draft of a trimmed vocabulary cannot learn from a compact signal",
            "the probabilities of its ids in the tail are not known",
            "set capture.signal: exact, or take a draft with all ids: leave draft.vocabulary out, and draft.checkpoint "
            "too if it is trimmed (the generic draft is), as with draft.init: layers",
        )


class SignalReader:
    """Turns the raw signal of a batch into distributions over the ids that the draft knows.

    `draft_ids`: [rows], the target's ids that a draft of a trimmed vocabulary knows; None if it knows all.
    The normaliser of each position of a capture is computed once; a signal outside any capture (place -1) is
    normalised whenever it is read.
    """

    def __init__(
        self,
        signal: SignalFormat,
        target_head: Head | None,
        device: torch.device,
        draft_ids: torch.Tensor | None,
        settings: TrainSpec,
        capture: Capture | None = None,
    ) -> None:
        refuse_trimmed(signal.kind, draft_ids)
        self.format, self.head, self.device, self.capture = signal, target_head, device, capture
        self.temperature = settings.distill_temperature
        self.own_head = None if draft_ids is None or target_head is None else target_head.of_ids(draft_ids)
        self.totals = torch.full((0 if capture is None else capture.positions,), torch.nan)

    def read(self, batch: Batch, part: slice) -> Signal | None:
        """The signal of some of a batch's response positions; None if only text was kept."""
        if self.format.kind == "none":
            return None
        return self._of(batch.raw_signal[part], batch.places[part])

    def read_positions(self, part: slice) -> Signal:
        """The signal of a range of the capture's positions, in the order on disk."""
        assert self.capture is not None
        return self._of(self.capture.raw_positions(part), torch.arange(part.start, part.stop))

    def _of(self, raw: torch.Tensor, places: torch.Tensor) -> Signal:
        signal = self.format.decode(raw, self.head, self.device)
        if self.own_head is None:
            return signal
        assert isinstance(signal, ExactSignal)
        totals = self._totals(signal, places)
        return TrimmedSignal(signal.hidden, self.own_head, on_device(totals, signal.hidden.device))

    def _totals(self, signal: ExactSignal, places: torch.Tensor) -> torch.Tensor:
        """The normaliser of each position: [position]. The positions are all of the capture, or none is."""
        if bool((places < 0).all()):
            parts = torch.split(signal.hidden, _BLOCK)
            return torch.cat([log_totals(part, signal.head, self.temperature) for part in parts])
        for block in sorted(set((places[self.totals[places].isnan()] // _BLOCK).tolist())):
            self._fill(signal, slice(block * _BLOCK, (block + 1) * _BLOCK))
        return self.totals[places]

    def _fill(self, signal: ExactSignal, part: slice) -> None:
        """The normalisers of a block of the file: always the same rows together, so that they round the same way
        whatever batch asks first, and a resumed run goes on bit for bit."""
        assert self.capture is not None
        block = self.format.decode(self.capture.raw_positions(part), signal.head, signal.hidden.device)
        assert isinstance(block, ExactSignal)
        self.totals[part] = log_totals(block.hidden, signal.head, self.temperature).cpu()
