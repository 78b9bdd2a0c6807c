"""Attention on a CPU where several query heads share keys: a group's heads as rows of one query.

Where there is a mask and more than one token, as in every verification, Transformers repeats the keys and values for
each query head before it calls torch: copies several times as large as the cache, in every layer. For a single token it
reads the heads of a group as rows of one query instead. Here this is done for a few tokens too, where the results are
the same bit for bit: they are compared, for each number of tokens, when a model of another shape is loaded. torch
multiplies blocks of 32 rows, and on some processors the last one, two or three rows of a block by another kernel.

Where there is no mask, Transformers repeats keys for a single token too (`enable_gqa`), which takes five times as long
as a query of the group's heads, and rounds some values differently. So single tokens stay as they are, except in a
model that was asked to compute differently anyway: one with int8 weights.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from engine.models.fused_linears import MOST_ROWS, in_use, packs
from engine.models.head import text_config

_SDPA = "sdpa"  # Transformers' name of torch's attention
_TOKENS = range(2, 10)
_COMPARED = ((1, 200), (3, 900), (5, 1100))  # rows, slots
# Query heads, groups and size of a head -> the numbers of tokens for which no bit differs.
_folded: dict[tuple[int, int, int], frozenset[int]] = {}
_EVERY_STEP = "folds_every_step"  # on an attention module whose bits need not be those of Transformers


@torch.no_grad()
def fold_attention(model: Any, *, every_step: bool = False) -> None:
    """Let Transformers read grouped heads as rows of one query for models of this one's shape.

    Without effect for a dtype or device that is not packed, and where a bit would differ; with `every_step`, for any
    number of tokens in this model, whatever the bits.
    """
    if not packs(torch.device(model.device), model.dtype):
        return
    shape = _shape(text_config(model))
    if shape is None:
        return
    for module in model.modules():
        if every_step and getattr(module, "num_key_value_groups", 1) > 1:
            setattr(module, _EVERY_STEP, True)
    if shape in _folded:
        return
    _folded[shape] = frozenset(tokens for tokens in _TOKENS if _same_bits(*shape, tokens))
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS[_SDPA] = _attention


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention by torch. query: [row, head, token, size] -> [row, token, head, size]."""
    if dropout or not _fits(module, query, key, attention_mask, settings):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **settings
        )
        return result
    return _by_groups(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None


def _fits(
    module: Any, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, settings: dict[str, Any]
) -> bool:
    """Whether this is an attention that was compared: a few tokens, one mask for all heads, nothing special."""
    special = (settings.get(name) is not None for name in ("softcap", "position_bias", "cache", "output_attentions"))
    rows, heads, tokens, size = query.shape
    every_step = getattr(module, _EVERY_STEP, False) and heads != key.shape[1]
    one_mask = tokens == 1 if mask is None else mask.dim() == 4 and mask.shape[1] == 1
    return (
        one_mask
        and (every_step or tokens in _folded.get((heads, key.shape[1], size), ()))
        and rows * tokens <= MOST_ROWS
        and query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and in_use()
        and not any(special)
    )


def _by_groups(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """[row, head, token, size], keys and values [row, group, slot, size], mask [row, 1, token, slot] or None."""
    rows, heads, tokens, size = query.shape
    in_group = heads // key.shape[1]
    folded = query.reshape(rows, key.shape[1], in_group * tokens, size)
    seen = None if mask is None else mask.repeat(1, 1, in_group, 1)
    result = F.scaled_dot_product_attention(folded, key, value, attn_mask=seen, scale=scaling)
    return result.reshape(rows, heads, tokens, value.shape[-1])


def _shape(config: Any) -> tuple[int, int, int] | None:
    """Query heads, groups and size of a head; None where heads are not grouped or attention is not torch's."""
    heads, groups = getattr(config, "num_attention_heads", 0), getattr(config, "num_key_value_heads", None)
    if config._attn_implementation != _SDPA or not isinstance(heads, int) or not isinstance(groups, int):
        return None
    if groups < 1 or heads % groups or heads == groups:
        return None
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return (heads, groups, size) if isinstance(size, int) else None


def _same_bits(heads: int, groups: int, size: int, tokens: int) -> bool:
    """Whether attention of so many tokens by groups equals that with repeated keys in every bit, for a few shapes."""
    generator = torch.Generator().manual_seed(0)

    def states(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, size, generator=generator).to(torch.bfloat16)

    for rows, slots in _COMPARED:
        query, key, value = states(rows, heads, tokens), states(rows, groups, slots), states(rows, groups, slots)
        mask = torch.ones(tokens, slots, dtype=torch.bool).tril(slots - tokens).expand(rows, 1, tokens, slots)
        keys, values = (part.repeat_interleave(heads // groups, dim=1) for part in (key, value))
        plain = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        if not torch.equal(plain, _by_groups(query, key, value, mask, None)):
            return False
    return True
