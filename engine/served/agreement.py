"""Acceptance of a draft where nothing of the target is at hand but its greedy text.

At temperature 0 the target's distribution is all on the token it wrote, so sum_v min(p, q) of a greedy draft is 1
where its likeliest token is that one, and 0 elsewhere: exact acceptance, from text alone. Text that had to be
tokenised again (engine.served.capture) may count a token as missed that was only split differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from engine.capture.batches import collate, sequence_tokens
from engine.capture.grouping import FORWARD_TOKENS, group_by_length
from engine.capture.store import Capture
from engine.models.head import Head, hidden_states

_CHUNK_POSITIONS = 256  # whose logits are in memory at once


@torch.no_grad()
def text_agreement(draft_model: Any, capture: Capture) -> list[torch.Tensor]:
    """Whether the draft's likeliest token is the one that was written: [token] bool per answer, in their order."""
    head, answers = Head.of(draft_model), capture.answers
    agreement: dict[int, torch.Tensor] = {}
    for group in group_by_length([sequence_tokens(a) for a in answers], FORWARD_TOKENS):
        batch = collate(capture, [answers[i] for i in group], draft_model.device)
        hidden = hidden_states(draft_model, batch.ids, batch.mask, is_draft=True)[batch.responds]
        likeliest = torch.cat([head.logits(part).argmax(-1) for part in torch.split(hidden, _CHUNK_POSITIONS)])
        agree = (likeliest if head.ids is None else head.ids[likeliest]) == batch.token_ids
        agreement |= dict(zip(group, torch.split(agree.cpu(), batch.lengths), strict=True))
    return [agreement[i] for i in range(len(answers))]


def mean_agreement(answers: Sequence[torch.Tensor]) -> float:
    """The share of all tokens of all answers on which draft and text agree."""
    return float(torch.cat(list(answers)).double().mean())
