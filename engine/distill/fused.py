"""The losses and their gradients in closed form, in few passes; `losses` is the reference they are tested against.

Every loss here depends on the draft through log q alone. So it has a value and a derivative with respect to log q,
`slope`, and the softmax turns the weighted sum of all slopes into the gradient of the logits at once: slope - q * (sum
of slope), over the temperature. A constant times q adds nothing to that, so reverse_kl and jsd leave it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from engine.capture.signal import ExactSignal, LogitsSignal, Signal, TrimmedSignal
from engine.config.schema import LossTerm
from engine.distill.losses import LEAST_ACCEPTANCE, Context


@dataclass(frozen=True)
class Both:
    """Target (p) and draft (q) on one support: tensors [position, support], float32. p may sum to less than one."""

    log_p: torch.Tensor
    log_q: torch.Tensor
    p: torch.Tensor
    q: torch.Tensor


FusedLoss = Callable[[Both, Context], tuple[torch.Tensor, torch.Tensor]]
"""Value [position] and slope [position, support], a tensor of its own. The formulas are those of `losses`."""


def forward_kl(both: Both, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.linalg.vecdot(both.p, both.log_p - both.log_q), -both.p


def reverse_kl(both: Both, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    slope = (both.log_q - both.log_p).mul_(both.q)
    return slope.sum(-1), slope


def jsd(both: Both, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.tensor([context.beta, 1 - context.beta]).log().tolist()
    log_m = torch.logaddexp(both.log_p + weights[0], both.log_q + weights[1])
    target_part = torch.linalg.vecdot(both.p, both.log_p - log_m)
    slope = (both.log_q - log_m).mul_(both.q).mul_(1 - context.beta)
    return context.beta * target_part + slope.sum(-1), slope


def tvd(both: Both, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    acceptance, slope = _acceptance(both)
    return 1 - acceptance, slope.neg_()


def neg_log_acceptance(both: Both, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    acceptance, slope = _acceptance(both)
    kept = acceptance.clamp_min(LEAST_ACCEPTANCE)
    factor = torch.where(acceptance < LEAST_ACCEPTANCE, torch.zeros_like(kept), -1 / kept)
    return -kept.log(), slope.mul_(factor.unsqueeze(-1))


def lk_hybrid(both: Both, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    acceptance, slope = _acceptance(both)
    weight = torch.exp(-context.eta * acceptance)
    divergence, target_slope = forward_kl(both, context)
    slope.mul_((weight - 1).unsqueeze(-1)).add_(target_slope.mul_(weight.unsqueeze(-1)))
    return weight * divergence + (1 - weight) * (1 - acceptance), slope


def _acceptance(both: Both) -> tuple[torch.Tensor, torch.Tensor]:
    """sum min(p, q), whose derivative is q where q < p, and half of it where they are equal."""
    slope = (both.p - both.q).sign_().add_(1).mul_(both.q).div_(2)
    return torch.minimum(both.p, both.q).sum(-1), slope


DIVERGENCES: dict[str, FusedLoss] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "tvd": tvd,
    "neg_log_acceptance": neg_log_acceptance,
    "lk_hybrid": lk_hybrid,
}
_TEXT = "sft"  # looks at the token alone, at temperature 1, over all rows of the draft


@dataclass(frozen=True)
class TargetLogits:
    """What an exact signal says at some positions, multiplied out: logits [position, rows] in the head's dtype.

    `log_totals`: [position], the normaliser at the temperature of the loss where `logits` are some ids' alone.
    """

    logits: torch.Tensor
    log_totals: torch.Tensor | None = None

    def __getitem__(self, part: slice) -> TargetLogits:
        return TargetLogits(self.logits[part], None if self.log_totals is None else self.log_totals[part])

    def log_p(self, rows: int, temperature: float) -> torch.Tensor:
        """Log-probabilities of the first `rows` ids: [position, rows], float32."""
        scores = _scores(self.logits[..., :rows], temperature)
        if self.log_totals is None:
            return torch.log_softmax(scores, dim=-1)
        return scores.sub_(self.log_totals.unsqueeze(-1))


def has_fused_form(terms: Sequence[LossTerm], signal: Signal | None) -> bool:
    """Whether `value_and_gradient` knows all these losses on such a signal."""
    if all(term.name == _TEXT for term in terms):
        return True
    known = all(term.name == _TEXT or term.name in DIVERGENCES for term in terms)
    return known and isinstance(signal, (ExactSignal, LogitsSignal, TrimmedSignal))


@torch.no_grad()
def target_logits(signal: Signal | None, terms: Sequence[LossTerm]) -> TargetLogits | None:
    """A signal multiplied out, if one of the terms looks at it."""
    if all(term.name == _TEXT for term in terms):
        return None
    if isinstance(signal, TrimmedSignal):
        return TargetLogits(signal.head.logits(signal.hidden), signal.log_totals)
    if isinstance(signal, ExactSignal):
        return TargetLogits(signal.head.logits(signal.hidden))
    assert isinstance(signal, LogitsSignal)
    return TargetLogits(signal.target_logits.detach())


@torch.no_grad()
def value_and_gradient(
    draft_logits: torch.Tensor,
    target: TargetLogits | None,
    base: Context,
    terms: Sequence[LossTerm],
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of the terms [position] and its gradient with respect to the draft's logits, both float32.

    draft_logits: [position, rows]. weights: [position, term], factors at each position; 1 if None.
    """
    values = draft_logits.new_zeros(draft_logits.shape[0], dtype=torch.float32)
    gradient = None
    factors = [values + term.weight if weights is None else term.weight * weights[:, i] for i, term in enumerate(terms)]
    divergences = [(t, f) for t, f in zip(terms, factors, strict=True) if t.name != _TEXT]
    if divergences:
        assert target is not None
        common = min(draft_logits.shape[-1], target.logits.shape[-1])
        log_p = target.log_p(common, base.temperature)
        log_q = torch.log_softmax(_scores(draft_logits[..., :common], base.temperature), dim=-1)
        both = Both(log_p, log_q, log_p.exp(), log_q.exp())
        slope = None
        for term, factor in divergences:
            value, own = DIVERGENCES[term.name](both, replace(base, **term.parameters))
            values += factor * value
            own.mul_(factor.unsqueeze(-1))
            slope = own if slope is None else slope.add_(own)
        assert slope is not None
        gradient = _through_softmax(slope, both.q).div_(base.temperature)
        if common < draft_logits.shape[-1]:
            gradient = torch.nn.functional.pad(gradient, (0, draft_logits.shape[-1] - common))
    text = sum((f for t, f in zip(terms, factors, strict=True) if t.name == _TEXT), torch.zeros_like(values))
    if len(divergences) < len(terms):
        value, own = _text(draft_logits, base.token_ids, text)
        values += value
        gradient = own if gradient is None else gradient.add_(own)
    assert gradient is not None
    return values, gradient


def _text(
    draft_logits: torch.Tensor, token_ids: torch.Tensor, factor: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """factor * -log q(x) and its gradient; nothing at a position without a token (-1)."""
    log_q = torch.log_softmax(draft_logits.float(), dim=-1)
    tokens = token_ids.clamp_min(0).unsqueeze(-1)
    factor = torch.where(token_ids < 0, torch.zeros_like(factor), factor).unsqueeze(-1)
    value = -factor * log_q.gather(-1, tokens)
    gradient = log_q.exp_().mul_(factor).scatter_add_(-1, tokens, -factor)
    return value.squeeze(-1), gradient


def _through_softmax(slope: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The gradient of the scores from that of their log-softmax."""
    return torch.addcmul(slope, q, slope.sum(-1, keepdim=True), value=-1)


def _scores(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """A float32 copy of logits, over the temperature."""
    return logits.float() / temperature if temperature != 1 else logits.to(torch.float32, copy=True)
