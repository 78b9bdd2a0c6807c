"""Token selection: learn where the draft lags most behind a reference [AdaSPEC, arXiv 2510.19779].

The reference is a draft of the same shape of output that was trained before, on everything. Where it
does well and the draft does not, there is something to gain; where both do badly, the token is beyond
drafts of this size, and where both do well, it is learnt. So of all positions of an optimiser step only
the share with the largest gap, loss(draft) - loss(reference), is kept. Any mode's batches can be
selected from; the trainer divides by the positions that are left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.capture.batches import Batch
from engine.capture.signal import Signal
from engine.config.schema import LossTerm
from engine.distill.chunked import Positions, position_losses
from engine.distill.forward import draft_states
from engine.distill.source import BatchSource
from engine.errors import DraftbenchError
from engine.models.draft import Draft, load_draft
from engine.models.head import Head
from engine.models.load import LoadedModel, resolve_dtype
from engine.models.vocabulary import known_rows, row_of_ids


class SelectedBatches(BatchSource):
    """The batches of another source, less the positions where the draft does not lag behind the reference.

    `draft_model` is the one in training. Both losses are taken in the precision of training.
    """

    def __init__(self, source: BatchSource, draft_model: Any, reference_model: Any) -> None:
        super().__init__(source.settings, source.reader, source.device)
        check_reference(draft_model, reference_model)
        self.source, self.draft_model, self.reference_model = source, draft_model, reference_model
        self.share = self.settings.selection.share
        self.dtype = resolve_dtype(self.settings.precision, self.device)
        self.steps, self.visits = source.steps, self.share * source.visits
        self._seen = (-1, 0)

    @property
    def terms(self) -> Sequence[LossTerm]:
        return self.source.terms

    def micro_batches(self, step: int) -> Sequence[Batch]:
        batches = self.source.micro_batches(step)
        self._seen = (step, self.source.target_tokens(step, batches))
        if self.share == 1 or not batches:
            return batches
        gaps = torch.cat([self.gap(batch) for batch in batches])
        keep = torch.split(largest(gaps, self.share), [batch.tokens for batch in batches])
        kept = [batch.only(own) for batch, own in zip(batches, keep, strict=True)]
        return [batch for batch in kept if batch.tokens]

    def gap(self, batch: Batch) -> torch.Tensor:
        """loss(draft) - loss(reference) at each response position: [position], on the CPU."""
        mine, theirs = (self._losses(model, batch) for model in (self.draft_model, self.reference_model))
        return (mine - theirs).cpu()

    @torch.no_grad()
    def _losses(self, model: Any, batch: Batch) -> torch.Tensor:
        hidden = draft_states(model, batch, self.dtype)
        head, own = self._head(model), Head.of(self.draft_model)
        rows = known_rows(batch.token_ids, len(own.weight), own.ids, self.draft_model.config.vocab_size)
        unused = torch.zeros(batch.tokens, device=self.device)  # no loss with a value draws anything
        positions = Positions(rows, unused, lambda part: self.read_signal(batch, part), batch.weights)
        return position_losses(hidden, head, positions, self.terms, temperature=self.settings.distill_temperature)

    def _head(self, model: Any) -> Head:
        """A model's head, its rows in the order of the draft's."""
        head, ids = Head.of(model, self.dtype), Head.of(self.draft_model).ids
        if ids is None or head.ids is None or torch.equal(head.ids, ids):
            return head
        rows = row_of_ids(head.ids, model.config.vocab_size)[ids]
        return replace(head, weight=head.weight[rows], bias=None if head.bias is None else head.bias[rows], ids=ids)

    def read_signal(self, batch: Batch, part: slice) -> Signal | None:
        return self.source.read_signal(batch, part)

    def reads_capture(self) -> bool:
        return self.source.reads_capture()

    def target_tokens(self, step: int, batches: Sequence[Batch]) -> int:
        """Those of the whole step: the target wrote them, whatever is learnt from them."""
        known, tokens = self._seen
        return tokens if known == step else self.source.target_tokens(step, batches)

    def deal_to(self, shares: int) -> None:
        self.source.deal_to(shares)

    def state(self) -> dict[str, torch.Tensor]:
        return self.source.state()

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.source.restore(state)


def largest(gaps: torch.Tensor, share: float) -> torch.Tensor:
    """[position] bool: the `share` of positions with the largest gaps, at least one; of equal ones the earlier."""
    count = min(len(gaps), max(1, math.floor(share * len(gaps) + 0.5)))
    keep = torch.zeros(len(gaps), dtype=torch.bool)
    keep[gaps.argsort(descending=True, stable=True)[:count]] = True
    return keep


def load_reference(folder: Path, draft: Draft, target: LoadedModel) -> Draft:
    """The reference draft of a folder, in evaluation mode, in the target's dtype; nothing of it learns.

    Raises DraftbenchError if it is of another target or proposes other ids than `draft`.
    """
    reference = load_draft(folder, target)
    check_reference(draft.model, reference.model)
    reference.model.eval().requires_grad_(False)
    return reference


def check_reference(draft_model: Any, reference_model: Any) -> None:
    """Raise DraftbenchError unless both propose the same ids of their target, in whatever order."""
    mine, theirs = (Head.of(model).ids for model in (draft_model, reference_model))
    if mine is None and theirs is None:
        return
    if mine is not None and theirs is not None and torch.equal(mine.sort().values, theirs.sort().values):
        return
    raise DraftbenchError(
        f"the draft proposes {_id_count(mine)}, the reference of train.selection {_id_count(theirs)}"
        + (", and not the same" if mine is not None and theirs is not None and len(mine) == len(theirs) else ""),
        "a gap between their losses says something only if both could say the same tokens",
        "take a reference from a run with the same draft.vocabulary and the same training answers, "
        "or start the draft from the reference: draft.init: checkpoint without draft.vocabulary",
    )


def _id_count(ids: torch.Tensor | None) -> str:
    return "all ids" if ids is None else f"{len(ids):,} ids"
