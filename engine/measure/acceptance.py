"""`exact` acceptance: sum_v min(p, q) at every position of the target's own text.

Nothing is sampled, so it is the metric with the least noise for comparing drafts. Two others come
with it. `argmax`, p(argmax q), is what is expected where the draft proposes its likeliest token
whatever the temperature, as most servers have it. Greedy agreement: the target's choice = argmax q.
Of text written at temperature 0 the target's choice is the token it wrote, and all three are one;
elsewhere it is the argmax of the signal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.capture.answered import AnsweredPrompt
from engine.capture.batches import collate, sequence_tokens
from engine.capture.grouping import FORWARD_TOKENS, group_by_length
from engine.capture.signal import ExactSignal
from engine.capture.store import Capture
from engine.decode.sampling import Sampling, distribution, overlap
from engine.errors import DraftbenchError
from engine.models.head import Head, chunk_size, hidden_states
from engine.models.vocabulary import align_logits, known_rows


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
    argmax_prob: torch.Tensor  # p(argmax q)
    hit: torch.Tensor  # the token written == argmax q, bool
    positions: list[int] | None = None  # of these tokens in the answer, if they are not all of it
    prompt_tokens: int | None = field(default=None, kw_only=True)  # length of the prompt
    # of the target at temperature 1, in nats: how open its choice was; None unless asked for
    entropy: torch.Tensor | None = field(default=None, kw_only=True)


def exact_acceptance(
    draft_model: Any,
    target_head: Head,
    capture: Capture,
    sampling: Sampling,
    answers: Sequence[AnsweredPrompt] | None = None,
) -> list[PromptAcceptance]:
    """Acceptance of one draft: see `exact_of_drafts`."""
    return exact_of_drafts({"draft": draft_model}, target_head, capture, sampling, answers)["draft"]


@torch.no_grad()
def exact_of_drafts(
    draft_models: Mapping[str, Any],
    target_head: Head,
    capture: Capture,
    sampling: Sampling,
    answers: Sequence[AnsweredPrompt] | None = None,
    *,
    with_entropy: bool = False,
) -> dict[str, list[PromptAcceptance]]:
    """Acceptance of some drafts, by name, on a capture with exact signal, in the order of `answers` (default: all).

    p and q pass through `sampling`. The target's logits, most of the work, are computed once for all drafts. Each draft
    runs in its own dtype; all are on one device. `with_entropy`: the target's entropy too, which at temperature 0 is
    the only figure of greedy text that needs its logits.
    """
    answers = list(capture.answers if answers is None else answers)
    heads = {name: Head.of(model) for name, model in draft_models.items()}
    device = next(iter(draft_models.values())).device
    target_head = target_head.to(device)
    by_row: dict[str, dict[int, PromptAcceptance]] = {name: {} for name in draft_models}
    for group in group_by_length([sequence_tokens(a) for a in answers], FORWARD_TOKENS):
        batch = collate(capture, [answers[i] for i in group], device)
        signal = capture.format.decode(batch.raw_signal, target_head, device)
        if not isinstance(signal, ExactSignal):
            raise DraftbenchError(
                "exact acceptance needs an exact signal",
                f"this capture is {capture.format.kind}",
                "capture with signal: exact",
            )
        sides = {
            name: (heads[name], hidden_states(model, batch.ids, batch.mask, is_draft=True)[batch.responds])
            for name, model in draft_models.items()
        }
        compared = _compare(sides, signal, batch.token_ids, sampling, greedy_text=capture.greedy)
        entropies = torch.split(target_entropy(signal).cpu(), batch.lengths) if with_entropy else [None] * len(group)
        for name, columns in compared.items():
            pieces_of_columns = [torch.split(column.cpu(), batch.lengths) for column in columns]
            for row, entropy, pieces in zip(group, entropies, zip(*pieces_of_columns, strict=True), strict=True):
                answer = answers[row]
                by_row[name][row] = PromptAcceptance(
                    answer.prompt_id,
                    answer.group,
                    answer.token_ids,
                    *pieces,
                    prompt_tokens=len(answer.prompt_ids),
                    entropy=entropy,
                )
    return {name: [rows[i] for i in range(len(answers))] for name, rows in by_row.items()}


def target_choice(target_logits: torch.Tensor, token_ids: torch.Tensor, *, greedy_text: bool) -> torch.Tensor:
    """The token that the target prefers at each position. [position, vocab], [position] -> [position]

    Of greedy text it is the token written: the stored states are rounded to bfloat16, and near a tie their argmax
    is another one (1 of 391 tokens on the shipped pair).
    """
    return token_ids if greedy_text else target_logits.argmax(-1)


def target_entropy(signal: ExactSignal) -> torch.Tensor:
    """Entropy of the target at each position, in nats: [position], float32.

    Of its distribution at temperature 1 with nothing cut off, whatever the text was written with, so that positions of
    texts at different temperatures are sorted by one measure.
    """
    rows = signal.head.weight.shape[0]
    parts = []
    for hidden in torch.split(signal.hidden, chunk_size(rows, signal.hidden.device)):
        log_probs = signal.head.logits(hidden).float().log_softmax(-1)
        parts.append(-(log_probs.exp() * log_probs).sum(-1))
    return torch.cat(parts)


def _compare(
    sides: Mapping[str, tuple[Head, torch.Tensor]],
    signal: ExactSignal,
    token_ids: torch.Tensor,
    sampling: Sampling,
    *,
    greedy_text: bool,
) -> dict[str, tuple[torch.Tensor, ...]]:
    """The columns of `PromptAcceptance` from `overlap` on, by draft, a chunk of positions at a time.

    `sides`: each draft's head and its hidden states [position, width].
    """
    size = chunk_size(signal.head.weight.shape[0], token_ids.device)
    parts: dict[str, list[tuple[torch.Tensor, ...]]] = {name: [] for name in sides}
    for start in range(0, token_ids.shape[0], size):
        part = slice(start, start + size)
        target = _target_side(signal, part, token_ids[part], sampling, greedy_text=greedy_text)
        for name, (head, hidden) in sides.items():
            draft = draft_side(head, hidden[part], sampling, target.rows)
            parts[name].append(
                (
                    draft.overlap(target),
                    target.choice == draft.likeliest,
                    target.written,
                    draft.of(token_ids[part]),
                    target.of(draft.likeliest),
                    token_ids[part] == draft.likeliest,
                )
            )
    return {name: tuple(torch.cat(column) for column in zip(*rows, strict=True)) for name, rows in parts.items()}


@dataclass(frozen=True)
class _TargetSide:
    """p at some positions. `probs` is None at temperature 0, where p is all on `choice`."""

    rows: int
    choice: torch.Tensor  # [position], int64: the token that the target prefers
    probs: torch.Tensor | None  # [position, rows]
    written: torch.Tensor  # [position], p of the token written

    def of(self, ids: torch.Tensor) -> torch.Tensor:
        """p of an id at each position: [position] -> [position], float32."""
        if self.probs is None:
            return (self.choice == ids).float()
        return self.probs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _target_side(
    signal: ExactSignal, part: slice, token_ids: torch.Tensor, sampling: Sampling, *, greedy_text: bool
) -> _TargetSide:
    """p at a chunk of positions, whose written tokens are `token_ids`. Of greedy text at temperature 0 all is known."""
    rows = signal.head.weight.shape[0]
    if sampling.greedy and greedy_text:
        return _TargetSide(rows, token_ids, None, torch.ones(token_ids.shape, device=token_ids.device))
    target_logits = signal.head.logits(signal.hidden[part]).float()
    choice = target_choice(target_logits, token_ids, greedy_text=greedy_text)
    if sampling.greedy:
        return _TargetSide(rows, choice, None, (choice == token_ids).float())
    probs = distribution(target_logits, sampling)
    return _TargetSide(rows, choice, probs, probs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1))


@dataclass(frozen=True)
class DraftSide:
    """q at some positions. `probs` is None at temperature 0, where q is all on `likeliest`."""

    likeliest: torch.Tensor  # [position], int64, the target's ids
    probs: torch.Tensor | None  # [position, column]
    ids: torch.Tensor | None  # [column], the target's id of each column; None: column i is id i
    rows: int  # ids of the target

    def of(self, token_ids: torch.Tensor) -> torch.Tensor:
        """q of a token at each position: [position] ids of the target -> [position], float32."""
        if self.probs is None:
            return (self.likeliest == token_ids).float()
        column = known_rows(token_ids, self.probs.shape[-1], self.ids, self.rows)
        return self.probs.gather(-1, column.clamp_min(0).unsqueeze(-1)).squeeze(-1) * (column >= 0)

    def overlap(self, target: _TargetSide) -> torch.Tensor:
        """sum_v min(p, q): [position]. Ids that the draft does not have add nothing, so they are not looked at."""
        if self.probs is None or target.probs is None:
            return (self.likeliest == target.choice).float()
        return overlap(target.probs if self.ids is None else target.probs.index_select(-1, self.ids), self.probs)


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


def draft_side(head: Head, hidden: torch.Tensor, sampling: Sampling, rows: int) -> DraftSide:
    """q where a draft's head reads `hidden` [position, width], for a target of `rows` ids."""
    logits = head.logits(hidden).float()
    if head.ids is None:
        logits = align_logits(logits, rows)
    likeliest = logits.argmax(-1) if head.ids is None else head.ids[logits.argmax(-1)]
    return DraftSide(likeliest, None if sampling.greedy else distribution(logits, sampling), head.ids, rows)


def mean_overlap(results: Sequence[PromptAcceptance]) -> float:
    """Acceptance over all positions of all prompts."""
    return float(torch.cat([r.overlap for r in results]).double().mean())
