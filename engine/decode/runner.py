"""A causal model with its key-value cache for a batch of ragged rows.

Rows of a batch accept different numbers of tokens, so after a round their caches end at
different places. What every row refused is cropped; what only some refused stays as a hole
that the attention mask hides and that positions do not count. Holes are squeezed out when they
grow. Padding on the left is just another hole.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from engine.errors import DraftbenchError
from engine.models.head import Head, readable

_MOST_HOLES = 64  # columns; squeezing copies the cache, so it is not done for a few


class Runner:
    """Feeds tokens to a model, row by row ragged, and takes them back again."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self.model, self.head = model, Head.of(model)
        self.hidden = torch.zeros(0)  # [row, last, width]: what entered the head in the latest feed
        self.cache = DynamicCache(config=model.config)
        refuse_unfit_cache(model, self.cache)
        self.mask = torch.zeros(0, 0, dtype=torch.bool)  # [row, cached column], True for real tokens

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def lengths(self) -> torch.Tensor:
        """Real tokens cached in each row: [row], int64."""
        return self.mask.sum(-1)

    @torch.no_grad()
    def feed(self, pending: list[list[int]], *, last: int) -> torch.Tensor:
        """Run the pending tokens of each row; logits of the last `last` columns: [row, last, vocab].

        Rows are padded on the left, so each row's final token is in the last column.
        """
        width = max(len(ids) for ids in pending)
        ids = torch.tensor([[0] * (width - len(row)) + row for row in pending])
        new = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in pending])
        if self.mask.shape[0] == 0:
            self.mask = torch.zeros(len(pending), 0, dtype=torch.bool)
        positions = (self.lengths.unsqueeze(1) + new.cumsum(-1) - 1).clamp_min(0)
        self.mask = torch.cat([self.mask, new], dim=1)
        whole = bool(self.mask.all())  # then the model's own causal path, faster than a mask
        output = self.model.base_model(
            input_ids=readable(self.model, ids).to(self.device),
            attention_mask=None if whole else self.mask.long().to(self.device),
            position_ids=positions.to(self.device),
            past_key_values=self.cache,
            use_cache=True,
        )
        # The head is applied here to contiguous rows: the model's own forward hands it a strided slice, for which
        # torch copies the whole head once a row.
        self.hidden = output.last_hidden_state[:, -last:].contiguous()
        return self.head.logits(self.hidden)

    def take_back(self, counts: list[int]) -> None:
        """Forget the last `counts[row]` real tokens of each row."""
        for row, count in enumerate(counts):
            real = self.mask[row].nonzero().squeeze(-1)
            self.mask[row, real[len(real) - count :]] = False
        empty = int((~self.mask.any(0)).flip(0).long().cumprod(0).sum())  # columns at the end that no row needs
        if empty:
            self.cache.crop(-empty)
            self.mask = self.mask[:, : self.mask.shape[1] - empty]
        if self.mask.shape[1] - int(self.lengths.max()) > _MOST_HOLES:
            self.squeeze()

    def keep_rows(self, rows: list[int]) -> None:
        """Drop all other rows."""
        if self.mask.shape[0] == 0:  # nothing was fed yet
            return
        self.cache.batch_select_indices(torch.tensor(rows, dtype=torch.long, device=self.device))
        self.mask = self.mask[rows]
        if rows and self.mask.shape[1] - int(self.lengths.max()) > _MOST_HOLES:
            self.squeeze()

    def squeeze(self) -> None:
        """Move every row's real columns to the right end and cut what is empty in all rows."""
        width = int(self.lengths.max())
        order = self.mask.int().argsort(dim=1, stable=True)[:, self.mask.shape[1] - width :]
        self.mask = self.mask.gather(1, order)
        columns = order.to(self.device)[:, None, :, None]
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                index = columns.expand(-1, old.shape[1], -1, old.shape[3])
                setattr(layer, name, old.gather(2, index))

    def join(self, other: Runner) -> None:
        """Take over the rows of another runner of the same model, below one's own."""
        if self.mask.shape[0] == 0:
            self.cache, self.mask = other.cache, other.mask
            return
        width = max(self.mask.shape[1], other.mask.shape[1])
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            for name in ("keys", "values"):
                pair = [_pad_left(getattr(layer, name), width) for layer in (mine, theirs)]
                setattr(mine, name, torch.cat(pair))
        self.mask = torch.cat([torch.nn.functional.pad(m, (width - m.shape[1], 0)) for m in (self.mask, other.mask)])


def _pad_left(states: torch.Tensor, width: int) -> torch.Tensor:
    """states: [row, head, column, size], zeros put before the columns up to `width`."""
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0))


def refuse_unfit_cache(model: Any, cache: Any) -> None:
    """Refuse models whose cache cannot forget a token, or that cannot be told positions."""
    kinds = sorted({type(layer).__name__ for layer in cache.layers} - {"DynamicLayer"})
    if kinds:
        raise DraftbenchError(
            f"{type(model).__name__} keeps its past in {', '.join(kinds)}",
            "refused tokens must be taken out of the cache again, which such a cache cannot do exactly",
            "use a model with full attention in every layer",
        )
    if "position_ids" not in inspect.signature(model.base_model.forward).parameters:
        raise DraftbenchError(
            f"{type(model).__name__} takes no position_ids",
            "rows of different length need their positions told",
            "use a model with rotary or learned positions",
        )
