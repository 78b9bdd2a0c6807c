"""The forward pass of a draft over a batch, up to what enters its head."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.capture.batches import Batch
from engine.models.head import hidden_states

# Positions that a piece of a batch is worth: its operations cost as much as so many positions of a small draft.
_PIECE_POSITIONS = 96


def draft_states(model: Any, batch: Batch, dtype: torch.dtype) -> torch.Tensor:
    """What enters the draft's head at the batch's response positions: [position, width].

    `dtype`: to compute in; by autocast if the model has another one. The model learns faster in a copy that has it.

    No mask is given: padding is on the right and no model here reads ahead, so what it holds reaches no position that
    is learnt from, and attention that is causal and nothing else takes half the time. On a CPU rows of similar length
    go through the model together, each piece of the batch no wider than its longest row.
    """
    device = batch.ids.device
    half = dtype == torch.bfloat16 != model.dtype
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half), _attention_of_any_shape(device):
        if device.type != "cpu":  # few shapes, and no wait for the lengths
            return hidden_states(model, batch.ids, is_draft=True).flatten(0, 1).index_select(0, batch.flat_places)
        parts = []
        for rows, width in pieces(batch.mask.sum(1).tolist()):
            states = hidden_states(model, batch.ids[rows, :width], is_draft=True)
            parts.append(states[batch.responds[rows, :width]])
        return torch.cat(parts)


def pieces(lengths: Sequence[int]) -> list[tuple[slice, int]]:
    """Cut rows of these lengths where the padding that it saves is worth another pass: rows and width of each piece.

    The rows of a batch come sorted by length; in another order there are only fewer cuts that save anything.
    """
    cuts: list[tuple[slice, int]] = []
    first, width = 0, 0
    for row, length in enumerate(lengths):
        if row > first and (row - first) * (length - width) > _PIECE_POSITIONS:
            cuts.append((slice(first, row), width))
            first, width = row, 0
        width = max(width, length)
    return [*cuts, (slice(first, len(lengths)), width)]


def _attention_of_any_shape(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On a GPU, attention without cuDNN, which plans anew for each shape: .16 to 2.3 s each where a step takes .03."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    kernels: contextlib.AbstractContextManager[None] = sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    )
    return kernels
