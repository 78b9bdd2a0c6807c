"""Attention of a few tokens a row to the slots of a cache, without copying its keys and values.

Where several query heads share a head of keys, Transformers repeats keys and values for each of them as soon as there
is a mask and more than one token: for a few tokens and a long cache that is most of the work. In batches and recorded
steps the queries that share a head are laid behind each other instead, which gives the same sums up to the order of
their terms. Plain decoding of a single row never gets here: one token without a mask keeps the bits of `generate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from engine.models.head import body, text_config

PACKED, PLAIN = "packed_sdpa", "sdpa"
# Masks of the forward under way, made ready for attention, by the mask that they were made from: all layers share it.
_ready: ContextVar[dict[Any, tuple[torch.Tensor, torch.Tensor]] | None] = ContextVar("ready_masks", default=None)


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """What attention by torch returns in Transformers, [row, token, head, size].

    query: [row, head, token, size], key and value: [row, fewer heads, slot, size], attention_mask: [row or 1, 1, token,
    slot], True where a token sees a slot.
    """
    shared = int(getattr(module, "num_key_value_groups", 1))
    rows, heads, width, size = query.shape
    ours = attention_mask is not None and attention_mask.shape[1] == 1 and not any(_unusual(more))
    if ours:
        packs = shared if width > 1 else 1
        attention_mask = _made_ready(attention_mask, packs, query.dtype)  # type: ignore[arg-type]
    if shared == 1 or width == 1 or not ours:
        usual: tuple[torch.Tensor, None] = ALL_ATTENTION_FUNCTIONS[PLAIN](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return usual
    output = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, heads // shared, shared * width, size),
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scaling,
    )
    return output.reshape(rows, heads, width, -1).transpose(1, 2).contiguous(), None


def _made_ready(mask: torch.Tensor, shared: int, dtype: torch.dtype) -> torch.Tensor:
    """The mask as it is added to the scores, once for each query head that shares a key head: [row, 1, token, slot].

    torch would make the same of it in every layer, by three kernels; for a recorded step that is one kernel in twelve.
    """
    known, key = _ready.get(), (id(mask), shared, dtype)
    if known is not None and key in known:
        return known[key][1]
    added = mask
    if mask.dtype == torch.bool:
        added = torch.zeros((), dtype=dtype, device=mask.device).where(mask, float("-inf"))
    ready = added.repeat(1, 1, shared, 1) if shared > 1 else added
    if known is not None:
        known[key] = mask, ready  # the mask, too: of another one the id would be the same
    return ready


def _unusual(more: dict[str, Any]) -> Iterator[bool]:
    """Whether each argument that changes the scores is given."""
    return (more.get(name) is not None for name in ("position_bias", "softcap", "cache", "s_aux"))


ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED, ALL_MASK_ATTENTION_FUNCTIONS[PLAIN])  # or it would make no masks


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """The model with that attention, if it uses torch's and takes another by name.

    A forward in another thread computes meanwhile what it always does: masks are made as for torch's attention.
    """
    config = text_config(model)
    if config._attn_implementation != PLAIN or not getattr(body(model), "_supports_attention_backend", False):
        yield
        return
    config._attn_implementation, ready = PACKED, _ready.set({})
    try:
        yield
    finally:
        config._attn_implementation = PLAIN
        _ready.reset(ready)
