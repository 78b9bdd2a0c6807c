"""The texts that parity is about, read by our own target and draft in float32: fates, margins, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.capture.answered import AnsweredPrompt
from engine.capture.store import Capture
from engine.catalogue import Proposals
from engine.decode.sampling import Sampling
from engine.deploy.server_rounds import ServerRule
from engine.measure.acceptance import draft_side, exact_acceptance
from engine.measure.statistics import calibration_z
from engine.measure.text_rounds import TextRounds, acceptance_chances
from engine.models.draft import Draft
from engine.models.head import Head, hidden_states
from engine.models.load import LoadedModel
from engine.records.parity import PartedText


@dataclass(frozen=True)
class Walk:
    """What every walk over a text needs: gamma, the tokens asked for, and the server's rule."""

    gamma: int
    limit: int
    rule: ServerRule

    def over(self, chances: Sequence[float]) -> TextRounds:
        """The rounds over one text."""
        return self.rule.over(chances, self.gamma, limit=self.limit)


def predicted(
    draft: Draft,
    target: LoadedModel,
    capture: Capture,
    answers: Sequence[AnsweredPrompt],
    temperature: float,
    proposals: Proposals,
    walk: Walk,
) -> list[TextRounds]:
    """The rounds over captured answers, in their order. The draft computes in its own dtype."""
    results = exact_acceptance(draft.model, Head.of(target.model), capture, Sampling(temperature), answers)
    chances = acceptance_chances(results, "argmax" if temperature == 0 else proposals)
    return [walk.over(chances[answer.prompt_id]) for answer in answers]


@torch.no_grad()
def hits(draft: Draft, prompt_ids: Sequence[int], token_ids: Sequence[int], vocab_rows: int) -> list[float]:
    """1.0 where a token of the answer is the draft's likeliest one, else 0.0: [token]."""
    ids = torch.tensor([[*prompt_ids, *token_ids]], device=draft.model.device)
    states = hidden_states(draft.model, ids, is_draft=True)[0, len(prompt_ids) - 1 : -1]
    likeliest = draft_side(Head.of(draft.model), states, Sampling(0.0), vocab_rows).likeliest.tolist()
    return [float(own == token) for own, token in zip(likeliest, token_ids, strict=True)]


@torch.no_grad()
def target_logits(target: LoadedModel, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
    """The target's logits at each token of an answer: [token, vocab], float32 for a target in float32."""
    ids = torch.tensor([[*prompt_ids, *token_ids]], device=target.device)
    states = hidden_states(target.model, ids)[0, len(prompt_ids) - 1 : -1]
    return Head.of(target.model).logits(states).float()


def parted(
    target_float32: LoadedModel, prompt_id: str, prompt_ids: Sequence[int], ours: Sequence[int], theirs: Sequence[int]
) -> PartedText | None:
    """Where two greedy answers part, and how far the two tokens are from each other there; None if they do not.

    Both were asked for the same number of tokens, so one that ends where the other goes on has parted too: its last
    token, which ends an answer, is another.
    """
    pairs = enumerate(zip(ours, theirs, strict=False))
    place = next((place for place, (own, other) in pairs if own != other), None)
    if place is None:
        return None
    logits = target_logits(target_float32, prompt_ids, ours[: place + 1])[-1]
    one, other = float(logits[ours[place]]), float(logits[theirs[place]])
    return PartedText(
        prompt_id=prompt_id,
        position=place,
        margin=abs(one - other),
        largest=float(logits.max()) - min(one, other),
    )


def drawn_from_target(
    target: LoadedModel, texts: Sequence[tuple[Sequence[int], Sequence[int]]], temperature: float
) -> float:
    """Standard deviations by which the target's likeliest token came more often than the target's probabilities say.

    `texts`: prompt and answer as ids. Over answers that were drawn from the target it is standard normal.
    """
    came: list[bool] = []
    chances: list[float] = []
    for prompt_ids, token_ids in texts:
        if not token_ids:
            continue
        probabilities = (target_logits(target, prompt_ids, token_ids) / temperature).softmax(-1)
        top = probabilities.max(-1)
        came += (top.indices == torch.tensor(token_ids, device=top.indices.device)).tolist()
        chances += top.values.tolist()
    return calibration_z(came, chances).z if came else math.nan
