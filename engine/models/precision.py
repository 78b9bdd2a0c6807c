"""A model in another precision, as it would be had it been loaded in that one."""

from __future__ import annotations

import copy
from typing import Any

import torch


def cast(model: Any, dtype: torch.dtype) -> Any:
    """Convert the weights of a model to `dtype`, in place; returns the model.

    What is saved with a model is converted, as when it is loaded. What it computes by itself stays as it is: `model.to`
    would round the frequencies of rotary positions to bfloat16 as well, and with them the angles of all far tokens.
    """
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and name not in module._non_persistent_buffers_set:
                setattr(module, name, buffer.to(dtype))
    model.config.dtype = dtype
    return model


def copy_in(model: Any, dtype: torch.dtype) -> Any:
    """A copy of a model in another precision, with the same marks of what is trained."""
    return cast(copy.deepcopy(model), dtype)


@torch.no_grad()
def renew(copied: Any, model: Any) -> None:
    """Give a copy of a model, perhaps in another precision, the model's present weights: those that training changes.

    Frozen parameters are the same as when it was copied.
    """
    for mine, theirs in zip(copied.parameters(), model.parameters(), strict=True):
        if theirs.requires_grad:
            mine.copy_(theirs)
    for mine, theirs in zip(copied.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
