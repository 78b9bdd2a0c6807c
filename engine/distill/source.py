"""Where the micro-batches of an optimiser step come from: what a mode of training is, and all it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.capture.batches import Batch, Sample, collate_samples, padded_tokens, sequence_tokens
from engine.capture.grouping import group_by_length
from engine.capture.signal import Signal, SignalFormat
from engine.capture.store import Capture
from engine.config.schema import CaptureSpec, LossTerm, TrainSpec
from engine.distill.reading import SignalReader
from engine.distill.schedule import forward_tokens
from engine.models.draft import Draft
from engine.models.head import Head
from engine.models.load import LoadedModel
from engine.records.events import Event


class BatchSource:
    """What a trainer asks of a mode. A mode overrides `micro_batches`, and the rest where it must.

    `steps`: optimiser steps in all. `terms`: the loss that a batch's weights, if it has any, belong to.
    """

    steps: int
    visits = 1.0  # times that a position of the capture is learnt from
    reads_weights = True  # whether a step's batches depend on the draft as it is then; if not they can be made ahead
    shares = 1  # processes that a step's batches are dealt to

    def __init__(self, settings: TrainSpec, reader: SignalReader, device: torch.device) -> None:
        self.settings, self.reader, self.device = settings, reader, device

    @property
    def terms(self) -> Sequence[LossTerm]:
        return self.settings.loss

    def micro_batches(self, step: int) -> Sequence[Batch]:
        """The batches of step `step` (from 0); the same whenever asked at the same weights."""
        raise NotImplementedError

    def read_signal(self, batch: Batch, part: slice) -> Signal | None:
        """The signal of some of a batch's response positions; None if only text was kept."""
        return self.reader.read(batch, part)

    def reads_capture(self) -> bool:
        """Whether the signal at a place of the capture is what is kept there, and nothing that the mode made of it."""
        return type(self).read_signal is BatchSource.read_signal

    def target_tokens(self, step: int, batches: Sequence[Batch]) -> int:
        """Tokens of the target's text that the step saw for the first time in its epoch: what the step's data cost."""
        return sum(batch.tokens for batch in batches)

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must keep of the mode besides the draft's weights, the optimiser and the step."""
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""

    def deal_to(self, shares: int) -> None:
        """Cut each step from now on into so many batches of about equal size, or more, as far as its texts allow."""
        self.shares = shares

    def grouped(self, samples: Sequence[Sample]) -> list[Batch]:
        """Samples of similar length together, at most `micro_batch_tokens` padded tokens per batch."""
        widths = [padded_tokens(sequence_tokens(s), self.device) for s in samples]
        most = forward_tokens(self.settings, self.device)
        if self.shares > 1 and widths:
            most = min(most, max(*widths, sum(widths) // self.shares))
        groups = group_by_length(widths, most)
        return [collate_samples([samples[i] for i in group], self.device) for group in groups]


class Ahead:
    """The batches of a source that reads no weights, each step's made in a thread while the step before it trains.

    `micro_batches` gives what the source would have given. The thread ends with the training, or with `close`.
    """

    def __init__(self, source: BatchSource) -> None:
        self.source = source
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[Sequence[Batch]]] | None = None

    def micro_batches(self, step: int) -> Sequence[Batch]:
        """The batches of a step; those of the next one are begun before this returns."""
        made = self._next[1] if self._next is not None and self._next[0] == step else None
        batches = self.source.micro_batches(step) if made is None else made.result()
        after = step + 1
        self._next = (
            (after, self._worker.submit(self.source.micro_batches, after)) if after < self.source.steps else None
        )
        return batches

    def close(self) -> None:
        """Let the thread finish what it makes, and end it."""
        self._worker.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Query:
    """A query of a stream: its prompt's id and the ids it is rendered to."""

    prompt_id: str
    prompt_ids: list[int]


@dataclass(frozen=True)
class Material:
    """What a mode may make its batches from."""

    draft: Draft  # in training
    target: LoadedModel
    queries: Sequence[Query]  # in the order of the prompt files
    signal: SignalFormat
    training: Capture | None  # the target's answers to them; None where a stream is decoded
    settings: TrainSpec
    capture: CaptureSpec
    folder: Path  # of the run
    emit: Callable[[Event], None]

    @property
    def head(self) -> Head:
        return Head.of(self.target.model).to(self.target.draft_device)

    @property
    def answers(self) -> Capture:
        """The target's answers to the queries, for a mode that needs a capture."""
        assert self.training is not None
        return self.training

    def reader(self, capture: Capture | None) -> SignalReader:
        """Reads a signal of the training captures' format for the draft; `capture`: the one it is of, if any."""
        ids = Head.of(self.draft.model).ids
        return SignalReader(self.signal, self.head, self.target.draft_device, ids, self.settings, capture)
