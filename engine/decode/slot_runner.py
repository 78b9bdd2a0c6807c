"""A causal model with one cache of slots for a batch of ragged rows.

Rows of a batch accept different numbers of tokens, so after a round their texts end at different places. Each row
counts its own tokens; a step writes behind them and sees what lies before them (`engine.decode.slots`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from engine.decode.attention import packed
from engine.decode.device import on_device
from engine.decode.layer_kinds import within_windows
from engine.decode.positions import refuse_beyond, rotary_limit, takes_positions
from engine.decode.slots import SlotCache, step_mask
from engine.decode.step_graphs import (
    WIDEST,
    StepGraphs,
    leave,
    planless_attention,
    rounded,
    rounded_slots,
    taken_over,
)
from engine.models.context import context_of
from engine.models.head import Head, body, readable, refuse_unknown
from engine.models.placement import is_spread
from engine.models.team import is_split, mirrored


class SlotRunner:
    """Feeds tokens to a model, row by row ragged, and takes them back again."""

    def __init__(self, model: Any, *, is_draft: bool = False, slots: int = 0, recorded: bool | None = None) -> None:
        """An empty runner. `slots`: how many tokens the longest row will have, where that is known.

        `recorded`: whether steps are recorded and replayed (`engine.decode.step_graphs`); by default on a CUDA device,
        unless the model is spread or split over several.
        """
        self.model, self.is_draft, self.head = model, is_draft, Head.of(model)
        self.device = (
            model.device
        )  # asked once: a model looks for its first weight each time, longer than a kernel runs
        self.hidden = torch.zeros(0)  # [row, last, width]: what entered the head in the latest feed
        self._limit = rotary_limit(model)
        self._takes_positions = takes_positions(model)
        self._reads_what_it_writes = _reads_what_it_writes(model)
        self._positions = context_of(model.config) or sys.maxsize
        self.graphs: StepGraphs | None = None
        if _recordable(model) if recorded is None else recorded:
            left = taken_over(model)
            self.cache, self.graphs = left or (SlotCache(model, capacity=rounded_slots(slots)), StepGraphs(model))
        else:
            self.cache = SlotCache(model, capacity=slots)

    @property
    def lengths(self) -> list[int]:
        """Tokens cached in each row."""
        return self.cache.lengths

    @mirrored
    def feed(self, pending: Sequence[Sequence[int]], *, last: int, tail: torch.Tensor | None = None) -> torch.Tensor:
        """Run the pending tokens of each row, then what follows them; logits of each row's last `last` tokens.

        `tail`: ids [row, token] on the device. Each row has at least `last` tokens to read. The host does not wait for
        the device. Returns [row, last, vocab].
        """
        known = (readable if self.is_draft else refuse_unknown)(self.model, padded(pending))
        ids, counts = on_device(known, self.device), [len(row) for row in pending]
        if tail is not None and tail.shape[1]:
            ids = appended(ids, counts, self._known(tail))
            counts = [count + tail.shape[1] for count in counts]
        return self._run(ids, counts, last)

    @mirrored
    def feed_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Run as many tokens of each row, ids [row, token] on the device; logits [row, token, vocab]."""
        return self._run(self._known(ids), [ids.shape[1]] * len(ids), ids.shape[1])

    @mirrored
    def take_back(self, counts: Sequence[int]) -> None:
        """Forget the last `counts[row]` tokens of each row."""
        self.cache.lengths = [length - count for length, count in zip(self.lengths, counts, strict=True)]

    @mirrored
    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all other rows. A row may be kept several times."""
        if self.lengths:  # something was fed
            self.cache.keep(rows)

    @mirrored
    def replace(self, rows: Sequence[int], other: SlotRunner) -> None:
        """Let the rows of another runner of the same model, in their order, take the place of these rows."""
        self.cache.put(rows, other.cache)

    def _known(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids on the device that the model can read. A target writes none that it cannot, unless its head is larger."""
        if self.is_draft:
            return readable(self.model, ids)
        return ids if self._reads_what_it_writes else refuse_unknown(self.model, ids)

    @torch.no_grad()
    def _run(self, ids: torch.Tensor, counts: Sequence[int], last: int) -> torch.Tensor:
        """ids: [row, width], of which each row has its first `counts[row]` tokens."""
        cache = self.cache
        if not cache.lengths:
            cache.lengths = [0] * len(ids)
        ends = [length + count for length, count in zip(cache.lengths, counts, strict=True)]
        refuse_beyond(self._limit, max(ends), self.model)
        # The head is applied here to contiguous rows: the model's own forward hands it a strided slice, for which
        # torch copies the whole head once a row.
        self.hidden = last_of_each(self._attend(ids), counts, last).contiguous()
        cache.lengths = ends
        return self.head.logits(self.hidden)

    def _attend(self, ids: torch.Tensor) -> torch.Tensor:
        """Run the model's body on ids [row, width] that follow what is cached: [row, width, size]."""
        rows, width = ids.shape
        if self.graphs is None:
            return self._forward(ids, self.cache.begin_step(rows, width, ids.device))
        longest = max(self.lengths)
        all_rows, view = rounded(rows), max(longest + width, min(rounded_slots(longest + width), self._positions))
        self.cache.reserve(all_rows, view)
        if longest == 0 or width > WIDEST:
            return self._forward(ids, self.cache.begin_step(rows, width, ids.device))
        starts = on_device(torch.tensor([*self.lengths, *[0] * (all_rows - rows)]), ids.device)
        whole = ids if all_rows == rows else torch.nn.functional.pad(ids, (0, 0, 0, all_rows - rows))
        # The further rows only fill the shape: nothing reads them.
        return self.graphs.run(partial(self._ragged_step, view), whole, starts, view, self.cache.moves)[:rows]

    def _ragged_step(self, view: int, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """A step of the same shape whatever the rows hold, from device tensors alone."""
        return self._forward(ids, self.cache.begin_ragged_step(starts, ids.shape[1], view))

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """ids: [row, width], positions: the same or [1, width] -> hidden states [row, width, size]."""
        cache, view, (rows, width) = self.cache, self.cache.slots.view, ids.shape
        # From nothing the model's own causal path is right, and faster. One token of one row of a target takes it too:
        # it is slower there, but computes the bits of Transformers' `generate`.
        alone = rows == 1 and self.graphs is None
        plain = alone and width == 1 and not self.is_draft and within_windows(cache.kinds, view)
        mask = None if view == 0 or plain else step_mask(self.model, cache.kinds, positions, view)
        with planless_attention(ids.device), nullcontext() if mask is None or alone else packed(self.model):
            output = body(self.model)(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                **({"position_ids": positions.expand(rows, width)} if self._takes_positions else {}),
            )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    @mirrored
    def close(self) -> None:
        """Leave the cache and what was recorded to the next runner of the model; this one is used no more."""
        if self.graphs is not None:
            leave(self.model, self.cache, self.graphs)


def _recordable(model: Any) -> bool:
    """Whether a step is one stream of kernels: others wait for copies between devices, or for other processes."""
    return model.device.type == "cuda" and not (is_spread(model) or is_split(model))


def padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Ids [row, width] on the host, with zeros behind the shorter rows."""
    width = max(map(len, rows))
    return torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in rows])


def appended(ids: torch.Tensor, counts: Sequence[int], tail: torch.Tensor) -> torch.Tensor:
    """ids: [row, width] of which each row has its first `counts[row]`, tail: [row, token] -> [row, width + token]."""
    if min(counts) == max(counts):
        return torch.cat([ids, tail], dim=1)
    behind = on_device(torch.tensor(counts), ids.device).unsqueeze(1)
    places = behind + torch.arange(tail.shape[1], device=ids.device)
    return torch.nn.functional.pad(ids, (0, tail.shape[1])).scatter_(1, places, tail)


def last_of_each(hidden: torch.Tensor, counts: Sequence[int], last: int) -> torch.Tensor:
    """hidden: [row, width, size] -> [row, last, size], the last of each row's `counts[row]` tokens."""
    if min(counts) == hidden.shape[1]:
        return hidden[:, -last:]
    ends = on_device(torch.tensor(counts), hidden.device).unsqueeze(1)
    places = ends + torch.arange(-last, 0, device=hidden.device)
    return hidden.gather(1, places.unsqueeze(-1).expand(-1, -1, hidden.shape[2]))


def _reads_what_it_writes(model: Any) -> bool:
    """Whether the model has an embedding for every id that its head can write."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    return int(head.weight.shape[0]) <= int(embeddings.weight.shape[0])
