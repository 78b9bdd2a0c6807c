"""The rule of speculative sampling: what is kept of a proposal, and the token after it.

`judge` is the plain mathematics of one row [Leviathan et al. 2023; Chen et al. 2023]. `judge_rows` does the same for
all rows of a batch at once on the device, and `judge_greedy_rows` on the host at temperature 0, where p and q are
one-hot and nothing is drawn; tests hold them to the same verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.decode.sampling import NOT_NUMBERS, are_numbers, draw, likeliest, overlap, residual

Column = list[list[Any]]
"""Values of every row on the host: [row, any]."""


@dataclass(frozen=True)
class Verdict:
    """The target's judgement of one row's proposal: how many were kept, and the token after them."""

    accepted: int
    next_token: int
    refused: bool


def accepted_tokens(target_prob: torch.Tensor, draft_prob: torch.Tensor, uniforms: torch.Tensor) -> int:
    """Count the tokens of a block that are kept before the first refusal.

    p and q of each proposed token and the draws that judge them: [token] each.
    """
    return int(kept_before_refusal(target_prob.cpu(), draft_prob.cpu(), uniforms.cpu()))


def judge(
    target_probs: torch.Tensor, draft_probs: torch.Tensor, proposed: torch.Tensor, uniforms: torch.Tensor
) -> Verdict:
    """Accept or refuse a proposal; the mathematics of speculative sampling, nothing else.

    target_probs: [gamma + 1, vocab], draft_probs: [gamma, vocab], proposed: [gamma] ids,
    uniforms: [gamma + 1] in [0, 1), the last one for the token that follows.
    """
    gamma = proposed.shape[0]
    index = torch.arange(gamma, device=proposed.device)
    accepted = accepted_tokens(target_probs[index, proposed], draft_probs[index, proposed], uniforms[:gamma])
    refused = accepted < gamma
    source = residual(target_probs[accepted], draft_probs[accepted]) if refused else target_probs[gamma]
    return Verdict(accepted, int(draw(source, uniforms[gamma])), refused)


@dataclass(frozen=True)
class Verdicts:
    """The target's judgement of every row's proposal, on the device.

    Probabilities are p and q of what was proposed [row, gamma], of the token that follows [row], and sum_v min(p, q)
    [row, gamma]. What lies behind a row's first refusal, or behind its own gamma, says nothing.
    """

    accepted: torch.Tensor  # [row]
    next_tokens: torch.Tensor  # [row]
    target_prob: torch.Tensor
    draft_prob: torch.Tensor
    overlaps: torch.Tensor
    next_target_prob: torch.Tensor
    next_draft_prob: torch.Tensor  # 0 where nothing was refused

    def columns(self) -> tuple[torch.Tensor, ...]:
        """All of it as columns [row, any], in the order of the fields."""
        single = self.accepted, self.next_tokens, self.next_target_prob, self.next_draft_prob
        accepted, next_tokens, next_p, next_q = (values.unsqueeze(1) for values in single)
        return accepted, next_tokens, self.target_prob, self.draft_prob, self.overlaps, next_p, next_q


def judge_rows(
    target_probs: torch.Tensor,
    draft_probs: torch.Tensor,
    proposed: torch.Tensor,
    uniforms: torch.Tensor,
    gammas: torch.Tensor,
) -> Verdicts:
    """Judge the first `gammas[row]` proposed tokens of every row, as `judge` does one row's.

    target_probs: [row, gamma + 1, vocab], draft_probs: [row, gamma, vocab], proposed: [row, gamma] ids,
    uniforms: [row, gamma + 1] in [0, 1), the last one for the token that follows, gammas: [row].
    """
    index, gamma = proposed.unsqueeze(-1), proposed.shape[1]
    p = target_probs[:, :gamma].gather(-1, index).squeeze(-1)
    q = draft_probs.gather(-1, index).squeeze(-1)
    accepted = kept_before_refusal(p, q, uniforms[:, :gamma], gammas)
    refused = accepted < gammas
    rows = torch.arange(len(proposed), device=proposed.device)
    source = next_probs = target_probs[rows, accepted]
    next_q = torch.zeros_like(next_probs)
    if gamma:
        next_q = torch.where(refused.unsqueeze(-1), draft_probs[rows, accepted.clamp_max(gamma - 1)], next_q)
        source = torch.where(refused.unsqueeze(-1), residual(next_probs, next_q), next_probs)
    drawn = draw(source, uniforms[:, gamma])
    overlaps = overlap(target_probs[:, :gamma], draft_probs)
    at_drawn = drawn.unsqueeze(-1)
    return Verdicts(
        accepted, drawn, p, q, overlaps, next_probs.gather(-1, at_drawn)[:, 0], next_q.gather(-1, at_drawn)[:, 0]
    )


def judge_greedy_rows(
    choices: Sequence[Sequence[int]], proposed: Sequence[Sequence[int]], gammas: Sequence[int]
) -> tuple[Column, ...]:
    """`judge_rows` at temperature 0, as the columns of its verdicts: a token is kept where it is the target's choice.

    choices: [row, gamma + 1] ids of the target (`choices_of`), proposed: [row, gamma] ids of the draft, gammas: [row].
    All is on the host, which waits for the ids anyway: on a GPU this would be two dozen kernels for a few numbers.
    """
    rows = list(zip(choices, proposed, gammas, strict=True))
    kept = [kept_choices(*row) for row in rows]
    same = [[float(a == b) for a, b in zip(chosen, ids, strict=False)] for chosen, ids, _ in rows]
    next_tokens = [[chosen[count]] for count, (chosen, _, _) in zip(kept, rows, strict=True)]
    ones = [[1.0] * len(ids) for ids in proposed]
    return [[count] for count in kept], next_tokens, same, ones, same, [[1.0] for _ in rows], [[0.0] for _ in rows]


def kept_choices(choices: Sequence[int], proposed: Sequence[int], gamma: int) -> int:
    """Of one row's first `gamma` proposed tokens, those before the first that is not the target's choice."""
    return next((i for i in range(gamma) if proposed[i] != choices[i]), gamma)


def choices_of(logits: torch.Tensor) -> torch.Tensor:
    """The target's choices at temperature 0, with a mark where logits are no numbers: [..., vocab] -> [...]."""
    return likeliest(logits).masked_fill(~are_numbers(logits), NOT_NUMBERS)


def marked(verdicts: Verdicts, logits: torch.Tensor) -> Verdicts:
    """The verdicts with a mark in place of a token, where the logits that decided were no numbers: it travels with what
    the host waits for anyway. logits: [row, gamma + 1, vocab]."""
    read = torch.arange(logits.shape[1], device=logits.device) <= verdicts.accepted.unsqueeze(1)
    unusable = (read & ~are_numbers(logits)).any(-1)
    return replace(verdicts, next_tokens=verdicts.next_tokens.masked_fill(unusable, NOT_NUMBERS))


def kept_before_refusal(
    p: torch.Tensor, q: torch.Tensor, uniforms: torch.Tensor, gammas: torch.Tensor | None = None
) -> torch.Tensor:
    """Tokens before the first refusal, of each row's first `gammas` tokens if they are given: [..., token] -> [...]."""
    # u < p / q without dividing. In double, or u would round to 1 and refuse p = q; strict, so that p = 0 is refused.
    wide = torch.float32 if p.device.type == "mps" else torch.float64  # MPS has no other
    kept = uniforms.to(p.device, wide) * q.to(wide) < p.to(wide)
    if gammas is not None:
        kept = kept & (torch.arange(p.shape[-1], device=p.device) < gammas.unsqueeze(-1))
    return kept.long().cumprod(-1).sum(-1)
