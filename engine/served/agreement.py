"""Acceptance of a draft where nothing of the target is at hand but its greedy text.

At temperature 0 the target's distribution is all on the token it wrote, so sum_v min(p, q) of a
greedy draft is 1 where its likeliest token is that one, and 0 elsewhere: exact acceptance, from
text alone. Text that was split into tokens anew (engine.served.capture) may count a token as
missed that was only spelt otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from engine.capture.batches import collate, sequence_tokens
from engine.capture.grouping import group_by_length
from engine.capture.store import Capture
from engine.models.head import Head, hidden_states

_FORWARD_TOKENS = 4096
_POSITIONS = 256  # whose logits are held at once


@torch.no_grad()
def text_agreement(draft_model: Any, capture: Capture) -> list[torch.Tensor]:
    """Whether the draft's likeliest token is the one that was written: [token] bool for each answer, in their order."""
    head, answers = Head.of(draft_model), capture.answers
    found: dict[int, torch.Tensor] = {}
    for group in group_by_length([sequence_tokens(a) for a in answers], _FORWARD_TOKENS):
        batch = collate(capture, [answers[i] for i in group], draft_model.device)
        hidden = hidden_states(draft_model, batch.ids, batch.mask, is_draft=True)[batch.responds]
        agree = torch.cat([_likeliest(head, part) for part in torch.split(hidden, _POSITIONS)]) == batch.token_ids
        for index, piece in zip(group, torch.split(agree.cpu(), batch.lengths), strict=True):
            found[index] = piece
    return [found[i] for i in range(len(answers))]


def mean_agreement(answers: Sequence[torch.Tensor]) -> float:
    """Share of all tokens of all answers."""
    return float(torch.cat(list(answers)).double().mean())


def _likeliest(head: Head, hidden: torch.Tensor) -> torch.Tensor:
    """The target's id of the draft's likeliest token. hidden: [position, width] -> [position]."""
    best = head.logits(hidden).argmax(-1)
    return best if head.ids is None else head.ids[best]
