"""A causal model with its key-value cache for a batch of ragged rows.

Rows of a batch accept different numbers of tokens, so after a round their caches end at
different places. What every row refused is cropped; what only some refused stays as a hole
that the attention mask hides and that positions do not count. Holes are squeezed out when they
grow. Padding on the left is just another hole. A model that would read the holes (see
`engine.decode.cache_columns`) has a cache for each row, which then never has any.
"""

from __future__ import annotations

from typing import Any

import torch

from engine.decode.cache_columns import may_hold_holes, new_cache, refuse_unfit_cache, rotary_limit, takes_positions
from engine.errors import DraftbenchError
from engine.models.head import Head, body, readable, refuse_unknown

_MOST_HOLES = 64  # columns; squeezing copies the cache, so it is not done for a few


def runner_for(model: Any, *, is_draft: bool = False) -> AnyRunner:
    """A runner for rows of different lengths: one cache for all where the model can hold holes, else one for each row.

    A draft also reads ids that only its target has an embedding for, as its last one; a target reads what it can.
    """
    return (Runner if may_hold_holes(model) else RowByRow)(model, is_draft=is_draft)


class Runner:
    """Feeds tokens to a model, row by row ragged, and takes them back again."""

    def __init__(self, model: Any, *, is_draft: bool = False) -> None:
        self.model, self.is_draft, self.head = model, is_draft, Head.of(model)
        self.hidden = torch.zeros(0)  # [row, last, width]: what entered the head in the latest feed
        self.cache = new_cache(model)
        refuse_unfit_cache(model, self.cache)
        self.mask = torch.zeros(0, 0, dtype=torch.bool)  # [row, cached column], True for real tokens
        self._limit = rotary_limit(model)
        self._takes_positions = takes_positions(model)

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
        self._refuse_beyond_limit(int(positions.max()))
        known = readable(self.model, ids) if self.is_draft else refuse_unknown(self.model, ids)
        self.mask = torch.cat([self.mask, new], dim=1)
        whole = bool(self.mask.all())  # then the model's own causal path, faster than a mask
        output = body(self.model)(
            input_ids=known.to(self.device),
            attention_mask=None if whole else self.mask.long().to(self.device),
            past_key_values=self.cache,
            use_cache=True,
            **({"position_ids": positions.to(self.device)} if self._takes_positions else {}),
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

    def join(self, other: Any) -> None:
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

    def _refuse_beyond_limit(self, position: int) -> None:
        if self._limit is not None and position >= self._limit:
            raise DraftbenchError(
                f"a text of more than {self._limit} tokens, and {type(self.model).__name__} changes its rotary "
                "frequencies there",
                "beyond that its logits depend on the other rows and on how many tokens are read at once, so "
                "speculative decoding is not exact",
                f"keep prompts and answers below {self._limit} tokens together (prompts.max_prompt_tokens, "
                "max_new_tokens)",
            )


class RowByRow:
    """A cache for each row, for models that would read the holes of a common one; forwards are one row each."""

    def __init__(self, model: Any, *, is_draft: bool = False) -> None:
        self.model, self.is_draft, self.head = model, is_draft, Head.of(model)
        self.hidden = torch.zeros(0)  # [row, last, width]: what entered the head in the latest feed
        self.rows: list[Runner] = []

    def feed(self, pending: list[list[int]], *, last: int) -> torch.Tensor:
        """As `Runner.feed`; each row has at least `last` pending tokens."""
        if not self.rows:
            self.rows = [Runner(self.model, is_draft=self.is_draft) for _ in pending]
        logits = torch.cat([row.feed([ids], last=last) for row, ids in zip(self.rows, pending, strict=True)])
        self.hidden = torch.cat([row.hidden for row in self.rows])
        return logits

    def take_back(self, counts: list[int]) -> None:
        """Forget the last `counts[row]` tokens of each row."""
        for row, count in zip(self.rows, counts, strict=True):
            row.take_back([count])

    def keep_rows(self, rows: list[int]) -> None:
        """Drop all other rows."""
        if self.rows:
            self.rows = [self.rows[i] for i in rows]

    def join(self, other: Any) -> None:
        """Take over the rows of another runner of the same model, below one's own."""
        self.rows += other.rows


def _pad_left(states: torch.Tensor, width: int) -> torch.Tensor:
    """states: [row, head, column, size], zeros put before the columns up to `width`."""
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[2], 0))


AnyRunner = Runner | RowByRow
