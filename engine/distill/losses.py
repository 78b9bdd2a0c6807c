"""Distillation losses, the reference mathematics: one plain function each.

p is the target, q the draft. Every function maps draft logits [position, vocab] and a signal to
one loss per position, [position], in nats unless said otherwise. Nothing here is chunked or fast;
engine.distill.chunked runs the same functions piece by piece. A loss is a function here, and a card
of the same name in `engine.catalogue.LOSSES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from engine.capture.signal import CompactSignal, Signal
from engine.decode.sampling import draw

LEAST_ACCEPTANCE = 1e-5  # where -log of the acceptance stops growing


@dataclass(frozen=True)
class Context:
    """What a loss may need besides the two distributions. Tensors are [position]."""

    token_ids: torch.Tensor  # the target's token at each position, as a row of the draft's head; -1: it has none
    uniforms: torch.Tensor  # in [0, 1): the draws of losses that sample
    temperature: float = 1.0
    beta: float = 0.5
    eta: float = 3.0
    reward_mean: float = 0.0  # of tvd_pp's rewards over the whole batch
    reward_std: float = 1.0
    hard_weight: float = 1.0

    def at(self, part: slice) -> Context:
        """The same at some of the positions."""
        return replace(self, token_ids=self.token_ids[part], uniforms=self.uniforms[part])


LossFunction = Callable[[torch.Tensor, Signal, Context], torch.Tensor]


def forward_kl(draft_logits: torch.Tensor, signal: Signal, context: Context) -> torch.Tensor:
    """KL(p || q): the draft must cover all the target may say."""
    target, draft = signal.align(draft_logits, context.temperature)
    return (target.exp() * (target - draft)).sum(-1)


def reverse_kl(draft_logits: torch.Tensor, signal: Signal, context: Context) -> torch.Tensor:
    """KL(q || p): the draft must say nothing the target would not."""
    target, draft = signal.align(draft_logits, context.temperature)
    return (draft.exp() * (draft - target)).sum(-1)


def jsd(draft_logits: torch.Tensor, signal: Signal, context: Context) -> torch.Tensor:
    """Generalised Jensen-Shannon divergence with mixture m = beta p + (1 - beta) q."""
    target, draft = signal.align(draft_logits, context.temperature)
    weights = torch.tensor([context.beta, 1 - context.beta], device=target.device).log()
    mixture = torch.logsumexp(torch.stack([target + weights[0], draft + weights[1]]), dim=0)
    target_part = (target.exp() * (target - mixture)).sum(-1)
    draft_part = (draft.exp() * (draft - mixture)).sum(-1)
    return context.beta * target_part + (1 - context.beta) * draft_part


def tvd(draft_logits: torch.Tensor, signal: Signal, context: Context) -> torch.Tensor:
    """Total variation distance: one minus the acceptance."""
    target, draft = signal.align(draft_logits, context.temperature)
    # Not sum |p - q| / 2: the two are one where p sums to one, and only this is right for a trimmed vocabulary.
    return 1 - _acceptance(target, draft)


def tvd_pp(draft_logits: torch.Tensor, signal: Signal, context: Context) -> torch.Tensor:
    """Policy-gradient form of tvd: tokens drawn from q, rewarded where p(x) > q(x).

    The value is a surrogate: only its gradient means something. Rewards are normalised over the
    batch (Context.reward_mean, reward_std), which makes it another objective than tvd only
    because the tokens are sampled: over the full vocabulary the baseline would cancel.
    """
    target, draft = signal.align(draft_logits, context.temperature)
    sampled, rewards = _sampled_rewards(target, draft, context)
    advantage = (rewards - context.reward_mean) / context.reward_std
    return -advantage * draft.gather(-1, sampled).squeeze(-1)


def tvd_pp_rewards(draft_logits: torch.Tensor, signal: Signal, context: Context) -> torch.Tensor:
    """The rewards, 0 or 1, that tvd_pp normalises: [position]."""
    with torch.no_grad():
        target, draft = signal.align(draft_logits, context.temperature)
        return _sampled_rewards(target, draft, context)[1]


def _sampled_rewards(target: torch.Tensor, draft: torch.Tensor, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    sampled = draw(draft.detach().exp(), context.uniforms).unsqueeze(-1)
    better = target.gather(-1, sampled) > draft.detach().gather(-1, sampled)
    return sampled, better.squeeze(-1).float()


def neg_log_acceptance(draft_logits: torch.Tensor, signal: Signal, context: Context) -> torch.Tensor:
    """-log sum_v min(p, q): the likelihood of acceptance itself."""
    target, draft = signal.align(draft_logits, context.temperature)
    return -_acceptance(target, draft).clamp_min(LEAST_ACCEPTANCE).log()


def lk_hybrid(draft_logits: torch.Tensor, signal: Signal, context: Context) -> torch.Tensor:
    """Forward KL while acceptance is low, total variation once it is high.

    The weight of the KL, exp(-eta * acceptance), is taken per position and carries no gradient.
    """
    target, draft = signal.align(draft_logits, context.temperature)
    acceptance = _acceptance(target, draft)
    weight = torch.exp(-context.eta * acceptance.detach())
    divergence = (target.exp() * (target - draft)).sum(-1)
    return weight * divergence + (1 - weight) * (1 - acceptance)


def _acceptance(target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
    return torch.minimum(target.exp(), draft.exp()).sum(-1)


def argmax_ce(draft_logits: torch.Tensor, signal: Signal, context: Context) -> torch.Tensor:
    """Cross-entropy to the target's likeliest token, blended with forward KL where hard_weight is below one.

    Of a trimmed vocabulary it is the likeliest of the draft's ids: the best that the draft can propose.
    """
    target, draft = signal.align(draft_logits, context.temperature)
    tokens = target[..., :-1] if isinstance(signal, CompactSignal) else target  # the bucket of the others is no token
    hard = -draft.gather(-1, tokens.argmax(-1, keepdim=True)).squeeze(-1)
    if context.hard_weight == 1:
        return hard
    divergence = (target.exp() * (target - draft)).sum(-1)
    return context.hard_weight * hard + (1 - context.hard_weight) * divergence


def sft(draft_logits: torch.Tensor, signal: Signal | None, context: Context) -> torch.Tensor:
    """-log q(x) of the target's token x: supervised fine-tuning, the black-box loss.

    It looks at the tokens alone, never at the signal. Temperature 1 always: the token is what
    the target wrote, not a distribution that could be softened. A token the draft has no id for
    (-1) teaches it nothing.
    """
    logprobs = torch.log_softmax(draft_logits.float(), dim=-1)
    losses = -logprobs.gather(-1, context.token_ids.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return torch.where(context.token_ids < 0, torch.zeros_like(losses), losses)


LOSSES: dict[str, LossFunction] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "tvd": tvd,
    "tvd_pp": tvd_pp,
    "neg_log_acceptance": neg_log_acceptance,
    "lk_hybrid": lk_hybrid,
    "argmax_ce": argmax_ce,
    "sft": sft,
}
