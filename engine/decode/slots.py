"""A key-value cache in which the token of position t lies in slot t of its row.

The buffers are allocated once, `[row, slot, head, size]` for each layer, and never cropped, squeezed or concatenated:
tokens are taken back by counting fewer, and a row is given to another prompt by counting from zero. What lies beyond a
row's length is overwritten later and hidden by the mask until then, so rows are ragged by nature. The mask compares
slots with positions, and so do the windows and chunks of the families that have them: `slot > position - window`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer

from engine.decode.attention import PACKED, PLAIN
from engine.decode.device import on_device
from engine.decode.layer_kinds import CHUNKED, FULL, SLIDING, WITHOUT, LayerKind, layer_kinds
from engine.models.head import text_config

_GROWTH = 64  # slots: buffers grow in multiples of it, and by half at least


@dataclass
class Slots:
    """The rows of a cache, and where the tokens of the step under way go; one object for all layers.

    `where` is a range of slots, the same in all rows, or an index into all slots of all rows: [row * width].
    """

    rows: int = 0  # in use, from the first
    row_capacity: int = 0
    capacity: int = 0  # slots in each row
    longest: int = 0  # tokens in the longest row before the step, or more
    view: int = 0  # slots that the step attends to; 0: nothing is cached, so it attends to itself
    where: slice | torch.Tensor = field(default_factory=lambda: slice(0, 0))


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # Transformers is not followed
    """Keys and values of one layer, [row, slot, head, size]."""

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self.slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the buffers for states [row, head, token, size]."""
        self.keys, self.values = (
            states.new_zeros(self.slots.row_capacity, self.slots.capacity, states.shape[1], states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the states [row, head, token, size] and return what the step attends to, [row, head, slot, size]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        _write(self.keys, key_states, self.slots)
        _write(self.values, value_states, self.slots)
        if self.slots.view == 0:
            return key_states, value_states
        rows, view = self.slots.rows, self.slots.view
        return self.keys[:rows, :view].transpose(1, 2), self.values[:rows, :view].transpose(1, 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Slots that a step attends to, and the first of them."""
        return self.slots.view or query_length, 0

    def get_seq_length(self) -> int:
        """Tokens in the longest row."""
        return self.slots.longest

    def get_max_length(self) -> int:
        """No end: buffers grow."""
        return -1

    def resize(self) -> None:
        """Move what is cached into buffers of the capacity that the slots now have."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(self.slots.row_capacity, self.slots.capacity, *old.shape[2:])
            new[: old.shape[0], : old.shape[1]] = old
            setattr(self, name, new)


def _write(buffer: torch.Tensor, states: torch.Tensor, slots: Slots) -> None:
    """buffer: [row, slot, head, size], states: [row, head, token, size]."""
    by_token = states.transpose(1, 2)
    if isinstance(slots.where, slice):
        buffer[: slots.rows, slots.where] = by_token
    else:
        where = slots.where.to(buffer.device)  # a layer of a model that is spread may lie on another device
        buffer.flatten(0, 1).index_copy_(0, where, by_token.flatten(0, 1))


class SlotCache(Cache):  # type: ignore[misc]
    """The cache of a model for ragged rows. `lengths` are the tokens of each row; they are always known on the host."""

    def __init__(self, model: Any, *, capacity: int = 0) -> None:
        """An empty cache. `capacity`: slots to allocate for each row, where it is known how many will be needed."""
        self.kinds = layer_kinds(model)
        self.slots, self.lengths = Slots(), list[int]()
        self.moves = 0  # how often the buffers were allocated anew
        self._wanted = capacity
        super().__init__(layers=[SlotLayer(self.slots) for _ in self.kinds])

    @property
    def bytes(self) -> int:
        """Size of the buffers."""
        return sum(buffer.nbytes for buffer in self._buffers())

    def begin_step(self, rows: int, width: int, device: torch.device) -> torch.Tensor:
        """Say where `width` tokens of each row go; returns their positions [row, width], or [1, width] if all agree."""
        slots, longest = self.slots, max(self.lengths)
        slots.rows = rows
        self.reserve(rows, longest + width)
        view = longest + width if longest else 0
        if min(self.lengths) < longest:
            return self.begin_ragged_step(on_device(torch.tensor(self.lengths), device), width, view)
        slots.longest, slots.view, slots.where = longest, view, slice(longest, longest + width)
        return torch.arange(longest, longest + width, device=device).unsqueeze(0)

    def begin_ragged_step(self, starts: torch.Tensor, width: int, view: int) -> torch.Tensor:
        """Say that `width` tokens follow the first `starts` [row] of each row; returns their positions [row, width].

        The step attends to `view` slots. Nothing but `starts` says which of them are filled.
        """
        slots, rows = self.slots, len(starts)
        positions = starts.unsqueeze(1) + torch.arange(width, device=starts.device)
        first = torch.arange(0, rows * slots.capacity, slots.capacity, device=starts.device).unsqueeze(1)
        slots.rows, slots.longest, slots.view, slots.where = rows, view - width, view, (first + positions).flatten()
        return positions

    def reserve(self, rows: int, slots: int) -> None:
        """Make room for so many rows and slots in each."""
        mine = self.slots
        if rows <= mine.row_capacity and slots <= mine.capacity:
            return
        if slots > mine.capacity:
            most = max(slots, self._wanted, mine.capacity + mine.capacity // 2)
            mine.capacity = -(-most // _GROWTH) * _GROWTH
        mine.row_capacity = max(rows, mine.row_capacity)
        self.moves += 1
        for layer in self.layers:
            if layer.is_initialized:
                layer.resize()

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows; the kept ones move to the front, in this order. A row may be kept several times."""
        self.reserve(len(rows), 0)
        if list(rows) != list(range(len(rows))):
            used = max((self.lengths[row] for row in rows), default=0)
            buffers = self._buffers()
            index = on_device(torch.tensor(rows), buffers[0].device)  # once: a list would be copied for every buffer
            for buffer in buffers:
                buffer[: len(rows), :used] = buffer[:, :used].index_select(0, index.to(buffer.device))
        self.lengths = [self.lengths[row] for row in rows]
        self.slots.rows = len(rows)

    def put(self, rows: Sequence[int], other: SlotCache) -> None:
        """Let the rows of another cache of the same model, in their order, take the place of these rows."""
        used = max(other.lengths)
        self.reserve(self.slots.rows, used)
        index = on_device(torch.tensor(rows), self._buffers()[0].device)
        for mine, theirs in zip(self._buffers(), other._buffers(), strict=True):
            mine[:, :used].index_copy_(0, index.to(mine.device), theirs[: len(rows), :used])
        self.lengths = list(self.lengths)
        for row, length in zip(rows, other.lengths, strict=True):
            self.lengths[row] = length

    def _buffers(self) -> list[torch.Tensor]:
        return [states for layer in self.layers if layer.is_initialized for states in (layer.keys, layer.values)]


def step_mask(model: Any, kinds: Sequence[LayerKind], positions: torch.Tensor, view: int) -> Any:
    """The mask of a step for the first `view` slots: [row, 1, token, slot], or one for each kind of layer by its name.

    positions: [row, token]. It is True where a token sees a slot or, for a model that adds its mask to the scores, 0
    there and the lowest number elsewhere.
    """
    at, slot = positions[:, None, :, None], torch.arange(view, device=positions.device)
    seen = {FULL: slot <= at}
    for kind in dict.fromkeys(kinds):
        if kind.name == SLIDING:
            seen[SLIDING] = seen[FULL] & (slot > at - kind.width)
        elif kind.name == CHUNKED:
            seen[CHUNKED] = seen[FULL] & (slot // kind.width == at // kind.width)
    if text_config(model)._attn_implementation not in (PLAIN, PACKED):
        lowest = torch.finfo(model.dtype).min
        seen = {name: torch.zeros((), dtype=model.dtype, device=at.device).where(s, lowest) for name, s in seen.items()}
    named = {kind.name for kind in kinds} - {WITHOUT}
    return seen[named.pop()] if len(named) == 1 else seen


def plain_cache(model: Any) -> DynamicCache:
    """Transformers' own growing cache, which keeps all of a text, also what has left a window."""
    layer_kinds(model)
    cache = DynamicCache(config=model.config)
    cache.layers = [DynamicLayer() if isinstance(layer, DynamicLayer) else layer for layer in cache.layers]
    return cache
