"""The reference of decoding ragged rows: a plain cache for each row, and forwards of one row each.

Slow and right for every model that can be decoded at all. Models that do not fit a common cache are decoded so, and
`engine.decode.slot_runner` is compared with it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from engine.decode.positions import refuse_beyond, rotary_limit, takes_positions
from engine.decode.slots import plain_cache
from engine.models.head import Head, body, readable, refuse_unknown
from engine.models.team import mirrored


class RowByRow:
    """Feeds tokens to a model, row by row, and takes them back again."""

    def __init__(self, model: Any, *, is_draft: bool = False) -> None:
        self.model, self.is_draft, self.head = model, is_draft, Head.of(model)
        self.device = model.device
        self.hidden = torch.zeros(0)  # [row, last, width]: what entered the head in the latest feed
        self.caches: list[Any] = []
        self.lengths: list[int] = []  # tokens cached in each row
        self._limit = rotary_limit(model)
        self._takes_positions = takes_positions(model)

    @mirrored
    @torch.no_grad()
    def feed(self, pending: Sequence[Sequence[int]], *, last: int, tail: torch.Tensor | None = None) -> torch.Tensor:
        """Run the pending tokens of each row and what follows them; logits of each row's last `last` tokens.

        `tail`: ids [row, token]. Each row has at least `last` tokens to read. Returns [row, last, vocab].
        """
        if not self.caches:
            self.caches, self.lengths = [plain_cache(self.model) for _ in pending], [0] * len(pending)
        tails: list[list[int]] = [[] for _ in pending] if tail is None else tail.tolist()
        texts = [[*ids, *more] for ids, more in zip(pending, tails, strict=True)]
        self.hidden = torch.cat([self._attend(row, ids)[:, -last:] for row, ids in enumerate(texts)])
        return self.head.logits(self.hidden)

    @mirrored
    def feed_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Run as many tokens of each row, ids [row, token]; logits [row, token, vocab]."""
        return self.feed(ids.tolist(), last=ids.shape[1])

    def _attend(self, row: int, ids: list[int]) -> torch.Tensor:
        """Run the model's body on a row's next tokens: [1, token, width]."""
        start, end = self.lengths[row], self.lengths[row] + len(ids)
        refuse_beyond(self._limit, end, self.model)
        known = (readable if self.is_draft else refuse_unknown)(self.model, torch.tensor([ids]))
        places = torch.arange(start, end, device=self.device).unsqueeze(0)
        output = body(self.model)(
            input_ids=known.to(self.device),
            past_key_values=self.caches[row],
            use_cache=True,
            **({"position_ids": places} if self._takes_positions else {}),
        )
        self.lengths[row] = end
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    @mirrored
    def take_back(self, counts: Sequence[int]) -> None:
        """Forget the last `counts[row]` tokens of each row."""
        for cache, count in zip(self.caches, counts, strict=True):
            cache.crop(-count)
        self.lengths = [length - count for length, count in zip(self.lengths, counts, strict=True)]

    @mirrored
    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all other rows. A row may be kept several times."""
        if self.caches:  # something was fed
            first_of = {row: place for place, row in reversed(list(enumerate(rows)))}
            self.caches = [  # each row has a cache of its own
                self.caches[row] if first_of[row] == place else copy.deepcopy(self.caches[row])
                for place, row in enumerate(rows)
            ]
            self.lengths = [self.lengths[row] for row in rows]

    @mirrored
    def replace(self, rows: Sequence[int], other: RowByRow) -> None:
        """Let the rows of another runner of the same model, in their order, take the place of these rows."""
        for row, cache, length in zip(rows, other.caches, other.lengths, strict=True):
            self.caches[row], self.lengths[row] = cache, length

    @mirrored
    def close(self) -> None:
        """Nothing is left to a next runner."""
