"""The forward pass of a draft over a batch, up to what enters its head, without what no loss asks for.

`draft_states` without shortcuts is the plain pass. Padding is cut off piece by piece; the two shortcuts leave out
equal work for each row of a batch, and work for positions from which nothing is learnt. They change no result but by
rounding, and are taken only with models on which that was tried (`shortcuts_of`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.capture.batches import Batch
from engine.models.head import body, hidden_states, text_config

# Positions that a piece of a batch is worth: its operations cost as much as so many positions of a small draft.
_PIECE_POSITIONS = 48
_SHORT = 160  # positions up to which attention as plain products takes less time on a CPU than in blocks
_TRIED = 12  # positions on which a shortcut is tried


@dataclass(frozen=True)
class Shortcuts:
    """prefix: what all rows begin with goes through the model once. last_mlp: the last layer's MLP sees the response
    positions alone, since it moves nothing between positions."""

    prefix: bool = False
    last_mlp: bool = False


NONE = Shortcuts()
Passes = Callable[[Any, Batch, Shortcuts], torch.Tensor]
"""How a batch goes through a model."""


def draft_states(
    model: Any, batch: Batch, dtype: torch.dtype, shortcuts: Shortcuts = NONE, passes: Passes | None = None
) -> torch.Tensor:
    """What enters the draft's head at the batch's response positions: [position, width].

    `dtype`: to compute in; by autocast if the model has another one. The model learns faster in a copy that has it.

    No mask is given: padding is on the right and no model here reads ahead, so what it holds reaches no position that
    is learnt from, and attention that is causal and nothing else takes half the time. On a CPU rows of similar length
    go through the model together, each piece of the batch no wider than its longest row. `passes`: `at_once` or
    `in_pieces`; None: what suits the device.
    """
    device = batch.ids.device
    half = dtype == torch.bfloat16 != model.dtype
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
        return (passes or (in_pieces if device.type == "cpu" else at_once))(model, batch, shortcuts)


def at_once(model: Any, batch: Batch, shortcuts: Shortcuts) -> torch.Tensor:
    """All rows together, as a GPU likes it: few shapes, and no wait for the lengths of rows. As `draft_states`."""
    with _kernel(batch.ids.device, batch.ids.shape[1]), _last_mlp(model, batch.flat_places, shortcuts.last_mlp):
        return hidden_states(model, batch.ids, is_draft=True).flatten(0, 1).index_select(0, batch.flat_places)


def in_pieces(model: Any, batch: Batch, shortcuts: Shortcuts) -> torch.Tensor:
    """Rows of similar length together, on a CPU. As `draft_states`."""
    device = batch.ids.device
    first = shared_positions(batch) if shortcuts.prefix else 0
    cache_for: Callable[[int], Any] = lambda rows: None  # noqa: E731
    if first:
        with _kernel(device, first), _last_mlp(model, torch.zeros(0, dtype=torch.long), shortcuts.last_mlp):
            cache_for = _prefix_cache(model, batch.ids[:1, :first])
    parts = []
    for rows, width in pieces(batch.mask.sum(1).tolist()):
        ids, places = batch.ids[rows, first:width], batch.responds[rows, first:width].flatten().nonzero().squeeze(-1)
        with _kernel(device, width), _last_mlp(model, places, shortcuts.last_mlp):
            states = hidden_states(model, ids, is_draft=True, cache=cache_for(len(ids)))
        parts.append(states.flatten(0, 1).index_select(0, places))
    return torch.cat(parts)


def pieces(lengths: Sequence[int]) -> list[tuple[slice, int]]:
    """Cut rows of these lengths, in their order, where that costs least: rows and width of each piece.

    The cost counts padded positions, and `_PIECE_POSITIONS` more for each piece. Rows come sorted by length.
    """
    least, begins = [0], [0]  # cost of the first so many rows, and where their last piece begins
    for end in range(1, len(lengths) + 1):
        width, best = 0, (math.inf, 0)
        for begin in range(end - 1, -1, -1):
            width = max(width, lengths[begin])
            best = min(best, (least[begin] + (end - begin) * width + _PIECE_POSITIONS, begin))
        least.append(int(best[0]))
        begins.append(best[1])
    cuts: list[tuple[slice, int]] = []
    end = len(lengths)
    while end:
        cuts.append((slice(begins[end], end), max(lengths[begins[end] : end])))
        end = begins[end]
    return cuts[::-1]


def shared_positions(batch: Batch) -> int:
    """The number of positions with which all rows begin alike and from which none learns; 0 if it saves nothing."""
    alike = (batch.ids == batch.ids[:1]).all(0) & ~batch.responds.any(0)
    count = int(alike.long().cumprod(0).sum())
    return count if count * (len(batch.ids) - 1) > 4 * _PIECE_POSITIONS else 0


def _prefix_cache(model: Any, ids: torch.Tensor) -> Callable[[int], Any]:
    """Run one row, and give caches that hold it so many times. ids: [1, position]. Gradients go back through them."""
    from transformers import DynamicCache

    kept = DynamicCache()
    hidden_states(model, ids, is_draft=True, cache=kept)

    def repeated(rows: int) -> Any:
        cache = DynamicCache()
        for number, layer in enumerate(kept.layers):
            cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), number)
        return cache

    return repeated


@contextlib.contextmanager
def _last_mlp(model: Any, places: torch.Tensor, only: bool) -> Iterator[None]:
    """Let the last layer's MLP compute at these places of the flattened rows alone; elsewhere it gives zeros."""
    mlp = _mlp_of(model) if only else None
    if mlp is None:
        yield
        return
    whole = mlp.forward

    def there(states: torch.Tensor) -> torch.Tensor:
        flat = states.flatten(0, -2)
        values: torch.Tensor = whole(flat.index_select(0, places))
        return values.new_zeros(flat.shape).index_copy(0, places, values).view(states.shape)

    mlp.forward = there
    try:
        yield
    finally:
        del mlp.forward


def _mlp_of(model: Any) -> Any:
    layers = getattr(body(model), "layers", None)
    return getattr(layers[-1], "mlp", None) if isinstance(layers, torch.nn.ModuleList) and len(layers) else None


@torch.no_grad()
def shortcuts_of(model: Any) -> Shortcuts:
    """The shortcuts that give what the plain pass gives, tried on a few tokens. `model`: in float32."""
    ids = torch.arange(2, 2 + 3 * _TRIED, device=model.device).view(3, _TRIED) % text_config(model).vocab_size
    ids[:, : _TRIED // 2] = ids[0, : _TRIED // 2]
    places = torch.tensor([_TRIED - 1, 2 * _TRIED - 2, 3 * _TRIED - 1], device=model.device)
    plain = hidden_states(model, ids, is_draft=True).flatten(0, 1)[places]

    def last_mlp() -> torch.Tensor:
        with _last_mlp(model, places, True):
            return hidden_states(model, ids, is_draft=True).flatten(0, 1)[places]

    def prefix() -> torch.Tensor:
        cache = _prefix_cache(model, ids[:1, : _TRIED // 2])(len(ids))
        tail = hidden_states(model, ids[:, _TRIED // 2 :], is_draft=True, cache=cache)
        return torch.cat([ids.new_zeros(3, _TRIED // 2, tail.shape[-1]), tail], 1).flatten(0, 1)[places]

    return Shortcuts(
        prefix=_keeps_all(model) and _same(prefix, plain),
        last_mlp=_mlp_of(model) is not None and _same(last_mlp, plain),
    )


def _keeps_all(model: Any) -> bool:
    """Whether each layer keeps keys and values of all positions, and nothing else."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=text_config(model)).layers)


def _same(shortcut: Callable[[], torch.Tensor], plain: torch.Tensor) -> bool:
    """Whether a shortcut runs and gives the same but for rounding."""
    try:
        states = shortcut()
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError):
        return False  # of a family that is built in another way
    return bool((states - plain).norm() < 1e-4 * plain.norm())


def _kernel(device: torch.device, width: int) -> contextlib.AbstractContextManager[None]:
    """Attention's kernel. On a GPU not cuDNN's, which plans anew for each shape: up to 2 s where a step takes .03 s."""
    if device.type == "cuda":
        chosen = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    elif device.type == "cpu" and width <= _SHORT:
        chosen = [SDPBackend.MATH]
    else:
        return contextlib.nullcontext()
    kernels: contextlib.AbstractContextManager[None] = sdpa_kernel(chosen)
    return kernels
