"""Splitting a causal model at its output head: hidden states first, logits later.

The exact signal stores hidden states, and losses are computed a chunk of positions at a time;
both need `logits = head(hidden)` outside the model's own forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from engine.errors import DraftbenchError


@dataclass(frozen=True)
class Head:
    """A model's output projection with the scalings some families put behind it."""

    weight: torch.Tensor  # [vocab, width]
    bias: torch.Tensor | None  # [vocab]
    scale: float = 1.0
    softcap: float | None = None

    @staticmethod
    def of(model: Any, dtype: torch.dtype | None = None) -> Head:
        """The head of a Transformers causal model, cast to `dtype` if given."""
        projection, config = model.get_output_embeddings(), model.config
        weight, bias = projection.weight, getattr(projection, "bias", None)
        if dtype is not None:
            weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )
        return Head(weight, bias, scale, getattr(config, "final_logit_softcapping", None))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [..., width] -> logits: [..., vocab], in the head's dtype."""
        logits = F.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


def hidden_states(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """What enters the head: [batch, position, width] for ids [batch, position].

    `mask`: [batch, position], 1 for real tokens; padding stands on the right.
    """
    output: torch.Tensor = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return output


@torch.no_grad()
def check_head(model: Any) -> None:
    """Refuse a model whose logits are not `head(hidden)`, rather than store a wrong signal."""
    ids = torch.arange(1, 9, device=model.device).unsqueeze(0)
    expected = model(input_ids=ids, use_cache=False).logits.float()
    found = Head.of(model).logits(hidden_states(model, ids)).float()
    if expected.shape != found.shape or not torch.allclose(expected, found, rtol=1e-2, atol=1e-2):
        raise DraftbenchError(
            f"the logits of {type(model).__name__} are not its head applied to its last hidden state",
            "the exact signal and training rely on that split",
            "use capture.signal: none with the loss sft, or tell us the architecture",
        )
