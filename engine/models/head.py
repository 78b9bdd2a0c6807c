"""Splitting a causal model at its output head: hidden states first, logits later.

The exact signal stores hidden states, and losses are computed a chunk of positions at a time;
both need `logits = head(hidden)` outside the model's own forward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from engine.errors import DraftbenchError

# The buffer in which a draft of a trimmed vocabulary keeps the target's id of each row of its head.
DRAFT_IDS = "draft_token_ids"


@dataclass(frozen=True)
class Head:
    """A model's output projection with the scalings some families put behind it."""

    weight: torch.Tensor  # [rows, width]
    bias: torch.Tensor | None  # [rows]
    scale: float = 1.0
    softcap: float | None = None
    ids: torch.Tensor | None = None  # [rows], the target's id of each row; None: row i is id i

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
        return Head(
            weight, bias, scale, getattr(config, "final_logit_softcapping", None), getattr(model, DRAFT_IDS, None)
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [..., width] -> logits: [..., rows], in the head's dtype."""
        logits = F.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def of_ids(self, ids: torch.Tensor) -> Head:
        """The rows of those ids alone: what a draft of a trimmed vocabulary has of its target's head."""
        return replace(self, weight=self.weight[ids], bias=None if self.bias is None else self.bias[ids], ids=ids)


def readable(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The same ids, those that the model has no embedding for as its last one; any shape.

    A target with padding rows may write such an id, and a draft that cannot read it may still guess on.
    """
    return ids.clamp_max(model.get_input_embeddings().weight.shape[0] - 1)


def hidden_states(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """What enters the head: [batch, position, width] for ids [batch, position].

    `mask`: [batch, position], 1 for real tokens; padding stands on the right.
    """
    output = model.base_model(input_ids=readable(model, ids), attention_mask=mask, use_cache=False)
    states: torch.Tensor = output.last_hidden_state
    return states


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
