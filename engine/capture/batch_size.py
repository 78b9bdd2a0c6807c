"""How many prompts are answered together: as many as the memory holds, up to where more rows stop paying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psutil
import torch

from engine.capture.grouping import FORWARD_TOKENS
from engine.models.head import text_config
from engine.models.placement import computing_shares

_MOST_ROWS = {"cuda": 256}  # measured; on other devices:
_MOST_ROWS_ELSEWHERE = 64
_SHARE = {"cuda": 0.8}  # of the free memory that a batch may take; elsewhere other programs live in it too:
_SHARE_ELSEWHERE = 0.4
_LOGIT_BYTES = (
    32  # for each id of the vocabulary: logits, probabilities and what is sorted and summed to draw from them
)
_GROWTH = 2  # buffers of keys and values hold more slots than tokens, and lie there twice while they grow


def most_rows(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> int:
    """The batch size for answers of up to `max_new_tokens` to these prompts on the model's device."""
    longest = max((len(ids) for ids in prompts), default=0) + max_new_tokens
    shares = computing_shares(model)  # of the layers by device, the first of which also has the logits
    return min(
        rows_that_fit(
            int(free_bytes(str(device)) * _SHARE.get(device.type, _SHARE_ELSEWHERE)) - prefill_bytes(model),
            row_bytes(model, longest, share, with_logits=number == 0),
            _MOST_ROWS.get(device.type, _MOST_ROWS_ELSEWHERE),
        )
        for number, (device, share) in enumerate(shares.items())
    )


def rows_that_fit(memory_bytes: int, bytes_per_row: int, most: int) -> int:
    """`most` rows, or the largest half, quarter, ... of it that fits; so a little more memory changes nothing."""
    rows = most
    while rows > 1 and rows * bytes_per_row > memory_bytes:
        rows //= 2
    return rows


def row_bytes(model: Any, tokens: int, share: float = 1.0, *, with_logits: bool = True) -> int:
    """Bytes that a row of so many tokens takes: keys and values, and what is computed from its logits.

    `share` of the layers: of a device on which no more of them compute.
    """
    vocab: int = model.get_output_embeddings().weight.shape[0]
    return int(_GROWTH * tokens * key_value_bytes(model) * share) + (vocab * _LOGIT_BYTES if with_logits else 0)


def key_value_bytes(model: Any) -> int:
    """Bytes of the keys and values of one token in all layers."""
    config = text_config(model)
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    return 2 * int(config.num_hidden_layers) * heads * size * int(model.dtype.itemsize)


def prefill_bytes(model: Any) -> int:
    """Bytes that the forward pass over new prompts takes beside their rows, about."""
    config = text_config(model)
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    return FORWARD_TOKENS * (8 * width + 3 * inner) * int(model.dtype.itemsize)


def free_bytes(device: str) -> int:
    """Bytes that can still be allocated on a device by its name, on the accelerator if it has a memory of its own."""
    if device.startswith("cuda"):
        place = torch.device(device)
        unused = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)  # what torch holds back
        return int(torch.cuda.mem_get_info(place)[0]) + unused
    return int(psutil.virtual_memory().available)
