"""What a model makes of positions: whether it is told them, and up to where its rotary angles are their own."""

from __future__ import annotations

import inspect
from typing import Any

from engine.errors import DraftbenchError
from engine.models.context import context_of, least_context
from engine.models.head import body, text_config


def takes_positions(model: Any) -> bool:
    """Return whether the model's forward takes the position of each token."""
    return "position_ids" in inspect.signature(body(model).forward).parameters


def rotary_limit(model: Any) -> int | None:
    """Positions up to which each token's rotary angles are its own; None without end.

    The rope types `dynamic` and `longrope` choose their frequencies by the longest text of a forward. Beyond the
    limit a row's logits depend on the rows beside it, and on how many tokens are read at once.
    """
    config = text_config(model)
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    limits = [
        kind.get("original_max_position_embeddings") or context_of(config)
        for kind in kinds
        if kind.get("rope_type") in ("dynamic", "longrope")
    ]
    return least_context(*limits)


def refuse_beyond(limit: int | None, tokens: int, model: Any) -> None:
    """Raise DraftbenchError for a text of so many tokens if it passes the model's `rotary_limit`."""
    if limit is not None and tokens > limit:
        raise DraftbenchError(
            f"a text of more than {limit} tokens, and {type(model).__name__} changes its rotary frequencies there",
            "beyond that its logits depend on the other rows and on how many tokens are read at once, so speculative "
            "decoding is not exact",
            f"keep prompts and answers below {limit} tokens together (prompts.max_prompt_tokens, max_new_tokens)",
        )
