"""`exact` acceptance: sum_v min(p, q) at every position of the target's own text.

Nothing is sampled, so it is the metric with the least noise for comparing drafts. Greedy
agreement (the target's choice = argmax q) comes with it. Of text written at temperature 0 the
target's choice is the token it wrote; elsewhere it is the argmax of the signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.capture.batches import collate, sequence_tokens
from engine.capture.grouping import FORWARD_TOKENS, group_by_length
from engine.capture.signal import ExactSignal
from engine.capture.store import AnsweredPrompt, Capture
from engine.decode.sampling import Sampling, distribution, one_hot, overlap
from engine.errors import DraftbenchError
from engine.models.head import Head, chunk_size, hidden_states
from engine.models.vocabulary import align_logits, spread


@dataclass(frozen=True)
class PromptAcceptance:
    """Acceptance at each token of one answer, or at some of them; all tensors are [token], on the CPU."""

    prompt_id: str
    group: str
    token_ids: list[int]
    overlap: torch.Tensor  # sum_v min(p, q)
    agree: torch.Tensor | None  # the target's choice == argmax q, bool; None where the choice is not known
    target_prob: torch.Tensor  # p(x) of the token written
    draft_prob: torch.Tensor  # q(x)
    positions: list[int] | None = None  # of these tokens in the answer, if they are not all of it


@torch.no_grad()
def exact_acceptance(
    draft_model: Any,
    target_head: Head,
    capture: Capture,
    sampling: Sampling,
    answers: Sequence[AnsweredPrompt] | None = None,
) -> list[PromptAcceptance]:
    """Acceptance of a draft on a capture with exact signal, in the order of `answers` (default: all).

    Both distributions pass through `sampling`. The draft runs in its own dtype.
    """
    answers = list(capture.answers if answers is None else answers)
    head = Head.of(draft_model)
    by_row: dict[int, PromptAcceptance] = {}
    for group in group_by_length([sequence_tokens(a) for a in answers], FORWARD_TOKENS):
        batch = collate(capture, [answers[i] for i in group], draft_model.device)
        hidden = hidden_states(draft_model, batch.ids, batch.mask, is_draft=True)[batch.responds]
        signal = capture.format.decode(batch.raw_signal, target_head, draft_model.device)
        if not isinstance(signal, ExactSignal):
            raise DraftbenchError(
                "exact acceptance needs an exact signal",
                f"this capture is {capture.format.kind}",
                "capture with signal: exact",
            )
        columns = _compare(hidden, head, signal, batch.token_ids, sampling, greedy_text=capture.greedy)
        pieces_of_columns = [torch.split(column.cpu(), batch.lengths) for column in columns]
        for row, pieces in zip(group, zip(*pieces_of_columns, strict=True), strict=True):
            answer = answers[row]
            by_row[row] = PromptAcceptance(answer.prompt_id, answer.group, answer.token_ids, *pieces)
    return [by_row[i] for i in range(len(answers))]


def target_choice(target_logits: torch.Tensor, token_ids: torch.Tensor, *, greedy_text: bool) -> torch.Tensor:
    """The token that the target prefers at each position. [position, vocab], [position] -> [position]

    Of greedy text it is the token written: the stored states are rounded to bfloat16, and near a tie their argmax
    is another one (1 of 391 tokens on the shipped pair).
    """
    return token_ids if greedy_text else target_logits.argmax(-1)


def _compare(
    hidden: torch.Tensor,
    head: Head,
    signal: ExactSignal,
    token_ids: torch.Tensor,
    sampling: Sampling,
    *,
    greedy_text: bool,
) -> tuple[torch.Tensor, ...]:
    """overlap, agree, p(x), q(x) at each position, a chunk of positions at a time."""
    rows = signal.head.weight.shape[0]
    size = chunk_size(rows)
    parts = []
    for start in range(0, hidden.shape[0], size):
        part = slice(start, start + size)
        ids, target_logits = token_ids[part], signal.head.logits(signal.hidden[part]).float()
        q, draft_best = draft_side(head, hidden[part], sampling, rows)
        choice = target_choice(target_logits, ids, greedy_text=greedy_text)
        p = one_hot(choice, rows) if sampling.greedy else distribution(target_logits, sampling)
        ids = ids.unsqueeze(-1)
        parts.append(
            (overlap(p, q), choice == draft_best, p.gather(-1, ids).squeeze(-1), q.gather(-1, ids).squeeze(-1))
        )
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


@torch.no_grad()
def draft_states(draft_model: Any, capture: Capture, *, most_tokens: int) -> torch.Tensor:
    """What enters the draft's head where it predicts the capture's first answers: [position, width]."""
    states: list[torch.Tensor] = []
    for answer in capture.answers:
        if sum(map(len, states)) >= most_tokens:
            break
        batch = collate(capture, [answer], draft_model.device)
        states.append(hidden_states(draft_model, batch.ids, batch.mask, is_draft=True)[batch.responds])
    return torch.cat(states)[:most_tokens]


def draft_side(head: Head, hidden: torch.Tensor, sampling: Sampling, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """q over the target's ids [position, rows], and the id the draft thinks likeliest [position]."""
    logits = head.logits(hidden).float()
    if head.ids is None:
        logits = align_logits(logits, rows)
        return distribution(logits, sampling), logits.argmax(-1)
    return spread(distribution(logits, sampling), head.ids, rows), head.ids[logits.argmax(-1)]


def mean_overlap(results: Sequence[PromptAcceptance]) -> float:
    """Acceptance over all positions of all prompts."""
    return float(torch.cat([r.overlap for r in results]).double().mean())
