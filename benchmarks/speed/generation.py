"""Transformers' own `generate`, as somebody would call it for speed: one batch, a static cache, or an assistant.

Nothing but lengths and stop ids ends a text, no setting that ships with a model changes it (engine.decode.bare), and
every layer computes as Transformers has it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from engine.decode.bare import bare_generation, bare_settings, proposing


def generate(
    target: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    temperature: float = 0.0,
    assistant: Any = None,
    num_draft_tokens: int = 0,
    static_cache: bool = False,
) -> list[list[int]]:
    """The ids written after each prompt, all prompts in one batch, padded on the left.

    `static_cache`: Transformers then compiles the decoding step where it can. An assistant takes a batch of one.
    """
    from engine.models.fused_linears import as_loaded  # here, since an earlier checkout may lack it (decode_rounds.py)

    width = max(map(len, prompts))
    settings = bare_settings(target, stop_ids)
    settings.update(max_new_tokens=max_new_tokens, do_sample=temperature > 0)
    if temperature > 0:
        settings.update(temperature=temperature, top_k=0, top_p=1.0)
    if static_cache:
        settings.update(cache_implementation="static")
    ids = torch.tensor([[settings.pad_token_id] * (width - len(row)) + list(row) for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    models = [target] if assistant is None else [target, assistant]
    with bare_generation(*models, stop_ids=stop_ids), as_loaded():
        more: dict[str, Any] = {}
        if assistant is not None:
            assistant.generation_config.update(**proposing(num_draft_tokens))
            more["assistant_model"] = assistant
        written = target.generate(
            ids.to(target.device), attention_mask=mask.to(target.device), generation_config=settings, **more
        )
    return [_until_stop(row, stop_ids) for row in written[:, width:].tolist()]


def _until_stop(ids: list[int], stop_ids: Collection[int]) -> list[int]:
    """The row's own text, without what pads it to the length of the longest."""
    end = next((place + 1 for place, token in enumerate(ids) if token in stop_ids), len(ids))
    return ids[:end]
