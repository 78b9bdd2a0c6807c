"""What a target wrote to a prompt. Apart from the code that decodes: whoever reads answers needs no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Answer:
    """The target's answer to a prompt, with its signal: [token, bytes_per_token] uint8.

    `beside`: other values that the capture it was copied from stores beside it.
    """

    index: int
    token_ids: list[int]
    finish_reason: str
    signal: torch.Tensor
    beside: Mapping[str, Any] = field(default_factory=dict)
