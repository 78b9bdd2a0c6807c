"""The losses and their gradients in closed form, in few passes; `losses` is the reference they are tested against.

Every loss here depends on the draft through log q alone. So it has a value and a derivative with respect to log q,
`slope`, and the softmax turns the weighted sum of all slopes into the gradient of the logits at once: slope - q * (sum
of slope), over the temperature. A constant times q adds nothing to that, so reverse_kl and jsd leave it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from engine.capture.signal import CompactSignal, ExactSignal, LogitsSignal, Signal, TrimmedSignal
from engine.config.schema import LossTerm
from engine.distill.losses import LEAST_ACCEPTANCE, Context
from engine.models.head import Head


@dataclass(frozen=True)
class Scores:
    """One side's distribution at some positions: log-probabilities are `scores` less `total`. Tensors are float32."""

    scores: torch.Tensor  # [position, support]
    total: torch.Tensor  # [position, 1]
    probs: torch.Tensor  # [position, support]; a target's may sum to less than one

    @staticmethod
    def of(scores: torch.Tensor) -> Scores:
        """The softmax of some scores."""
        probs = scores.softmax(-1)  # the likeliest id's probability is never tiny, so its log gives the total
        return Scores(scores, scores.amax(-1, keepdim=True) - probs.amax(-1, keepdim=True).log(), probs)

    @staticmethod
    def of_logs(log_probs: torch.Tensor) -> Scores:
        """Log-probabilities as they are."""
        return Scores(log_probs, torch.zeros_like(log_probs[..., :1]), log_probs.exp())

    @property
    def log_probs(self) -> torch.Tensor:
        return self.scores - self.total


@dataclass(frozen=True)
class Both:
    """Target (p) and draft (q) on one support. `bucket`: its last outcome is all other tokens together."""

    target: Scores
    draft: Scores
    bucket: bool = False

    @property
    def p(self) -> torch.Tensor:
        return self.target.probs

    @property
    def q(self) -> torch.Tensor:
        return self.draft.probs

    def target_choice(self) -> torch.Tensor:
        """The target's likeliest token on the support: [position, 1]."""
        scores = self.target.scores[..., :-1] if self.bucket else self.target.scores
        return scores.argmax(-1, keepdim=True)

    def gap(self) -> torch.Tensor:
        """log p - log q: [position, support], its own tensor."""
        return (self.target.scores - self.draft.scores).sub_(self.target.total - self.draft.total)


SlopeAt = Callable[[Both], torch.Tensor]
FusedLoss = Callable[[Both, Context], tuple[torch.Tensor, torch.Tensor]]
"""Value [position] and slope [position, support], a tensor of its own. The formulas are those of `losses`."""


def forward_kl(both: Both, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.linalg.vecdot(both.p, both.gap()), -both.p


def reverse_kl(both: Both, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    slope = both.gap().neg_().mul_(both.q)
    return slope.sum(-1), slope


def jsd(both: Both, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.tensor([context.beta, 1 - context.beta]).log().tolist()
    log_p, log_q = both.target.log_probs, both.draft.log_probs
    log_m = torch.logaddexp(log_p + weights[0], log_q + weights[1])
    target_part = torch.linalg.vecdot(both.p, log_p - log_m)
    slope = (log_q - log_m).mul_(both.q).mul_(1 - context.beta)
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


def argmax_ce(both: Both, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    hard, choice = context.hard_weight, both.target_choice()
    value = -hard * (both.draft.scores.gather(-1, choice) - both.draft.total).squeeze(-1)
    if hard == 1:
        slope = torch.zeros_like(both.q)
    else:
        divergence, slope = forward_kl(both, context)
        value.add_(divergence, alpha=1 - hard)
        slope.mul_(1 - hard)
    return value, slope.scatter_add_(-1, choice, torch.full_like(choice, -hard, dtype=slope.dtype))


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
    "argmax_ce": argmax_ce,
}
_ROUNDED_OFF = 2.0**-9  # the largest relative error of a number in bfloat16
_TEXT = "sft"  # looks at the token alone, at temperature 1, over all rows of the draft


class Scratch:
    """Memory for logits, kept from one chunk to the next: on a CPU fresh pages cost a fifth of the multiplication."""

    def __init__(self) -> None:
        self._kept: dict[str, torch.Tensor] = {}

    def logits(self, owner: str, head: Head, hidden: torch.Tensor) -> torch.Tensor:
        """`head.logits(hidden)`, where the last one of this owner was. hidden: [position, width]."""
        shape, like = (len(hidden), len(head.weight)), head.weight
        kept = self._kept.get(owner)
        if kept is None or (kept.dtype, kept.device) != (like.dtype, like.device) or kept.numel() < shape[0] * shape[1]:
            kept = self._kept[owner] = torch.empty(shape[0] * shape[1], dtype=like.dtype, device=like.device)
        return head.logits(hidden, kept[: shape[0] * shape[1]].view(shape))


@dataclass(frozen=True)
class TargetLogits:
    """What an exact signal says at some positions, multiplied out: logits [position, rows] in the head's dtype.

    `log_totals`: [position], the normaliser at the temperature of the loss where `logits` are some ids' alone.
    """

    logits: torch.Tensor
    log_totals: torch.Tensor | None = None

    def at(self, part: slice) -> TargetLogits:
        """The same at some of the positions."""
        return TargetLogits(self.logits[part], None if self.log_totals is None else self.log_totals[part])

    def scores(self, rows: int, temperature: float) -> Scores:
        """The distribution over the first `rows` ids."""
        scores = _scores(self.logits[..., :rows], temperature)
        return Scores.of(scores) if self.log_totals is None else Scores.of_logs(scores - self.log_totals.unsqueeze(-1))

    def gradient(self, draft_logits: torch.Tensor, temperature: float, slope_at: SlopeAt) -> torch.Tensor:
        """The gradient of the draft's logits: [position, rows], float32, its own tensor."""
        common = min(draft_logits.shape[-1], self.logits.shape[-1])
        draft = Scores.of(_scores(draft_logits[..., :common], temperature))
        both = Both(self.scores(common, temperature), draft)
        slope = slope_at(both)
        gradient = torch.addcmul(slope, both.q, slope.sum(-1, keepdim=True), value=-1)
        return _widened(gradient if temperature == 1 else gradient.div_(temperature), draft_logits.shape[-1])


@dataclass(frozen=True)
class TargetSupport:
    """What a compact signal says at some positions: the likeliest ids and one bucket for all others."""

    signal: CompactSignal

    def at(self, part: slice) -> TargetSupport:
        """The same at some of the positions."""
        own = self.signal
        return TargetSupport(
            replace(own, token_ids=own.token_ids[part], logprobs=own.logprobs[part], tail_mass=own.tail_mass[part])
        )

    def gradient(self, draft_logits: torch.Tensor, temperature: float, slope_at: SlopeAt) -> torch.Tensor:
        """As of `TargetLogits`. The bucket's slope is shared by what is in it, each id by its part of the mass."""
        rows = draft_logits.shape[-1]
        log_q = _scores(draft_logits[..., : self.signal.vocab], temperature).log_softmax(-1)
        log_p, log_support, ids = self.signal.on_support(log_q)
        both = Both(Scores.of_logs(log_p), Scores.of_logs(log_support), bucket=True)
        slope = slope_at(both)
        known = slope[..., :-1].masked_fill(ids == log_q.shape[-1], 0)
        bucket, total = slope[..., -1:], known.sum(-1, keepdim=True) + slope[..., -1:]
        gradient = (log_q - log_support[..., -1:]).exp_().mul_(bucket).sub_(log_q.exp_().mul_(total))
        columns = log_q.shape[-1]
        inside = _widened(gradient, columns + self.signal.pads(columns))
        inside.scatter_(-1, ids, torch.addcmul(known, both.q[..., :-1], total, value=-1))
        return _widened(inside[..., :columns], rows)


Target = TargetLogits | TargetSupport


def has_fused_form(terms: Sequence[LossTerm]) -> bool:
    """Whether `value_and_gradient` knows all these losses."""
    return all(term.name == _TEXT or term.name in DIVERGENCES for term in terms)


@torch.no_grad()
def target_of(signal: Signal | None, terms: Sequence[LossTerm], scratch: Scratch | None = None) -> Target | None:
    """What a signal says, multiplied out if it is exact; None if none of the terms looks at it."""
    if all(term.name == _TEXT for term in terms):
        return None
    if isinstance(signal, CompactSignal):
        return TargetSupport(signal)
    if isinstance(signal, LogitsSignal):
        return TargetLogits(signal.target_logits.detach())
    assert isinstance(signal, (ExactSignal, TrimmedSignal))
    logits = (scratch or Scratch()).logits("target", signal.head, signal.hidden)
    return TargetLogits(logits, signal.log_totals if isinstance(signal, TrimmedSignal) else None)


@torch.no_grad()
def value_and_gradient(
    draft_logits: torch.Tensor,
    target: Target | None,
    base: Context,
    terms: Sequence[LossTerm],
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of the terms [position] and its gradient with respect to the draft's logits, both float32.

    draft_logits: [position, rows]. weights: [position, term], factors at each position; 1 if None.
    """
    values = torch.zeros(len(draft_logits), device=draft_logits.device)
    factors = [values + term.weight if weights is None else term.weight * weights[:, i] for i, term in enumerate(terms)]
    divergences = [(term, factor) for term, factor in zip(terms, factors, strict=True) if term.name != _TEXT]
    texts = [factor for term, factor in zip(terms, factors, strict=True) if term.name == _TEXT]

    def slope_at(both: Both) -> torch.Tensor:
        """The weighted sum of the slopes; adds the values to `values` on the way."""
        slope = None
        for term, factor in divergences:
            value, own = DIVERGENCES[term.name](both, replace(base, **term.parameters))  # type: ignore[arg-type]
            values.add_(factor * value)
            own.mul_(factor.unsqueeze(-1))
            slope = own if slope is None else slope.add_(own)
        assert slope is not None
        return slope

    gradient = None
    if divergences:
        assert target is not None
        gradient = target.gradient(draft_logits, base.temperature, slope_at)
    if texts:
        value, own = _text(draft_logits, base.token_ids, torch.stack(texts).sum(0))
        values.add_(value)
        gradient = own if gradient is None else gradient.add_(own)
    assert gradient is not None
    return values, gradient


@torch.no_grad()
def softmax_in_place(logits: torch.Tensor, temperature: float, largest: torch.Tensor | None = None) -> torch.Tensor:
    """Put the probabilities where the logits were, [position, rows]; returns the log of what they were divided by.

    `largest`: [rows] float32, raised to each id's largest probability.
    """
    own = Scores.of(_scores(logits, temperature))
    logits.copy_(own.probs)
    if largest is not None:
        torch.maximum(largest, own.probs.amax(0), out=largest)
    return own.total.squeeze(-1)


def leaves_out(weight: torch.Tensor) -> bool:
    """Whether a product with such a head leaves out what is rounded off. A GPU would wait for which ids these are."""
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu"


def expected_rows(probs: torch.Tensor, weight: torch.Tensor, largest: torch.Tensor | None) -> torch.Tensor:
    """probs @ weight: [position, width].

    largest: [rows], each id's largest probability. Given that, ids are left out that have together less than half
    precision rounds off, 2**-9, at every position; of a trained draft these are four in five [cf. arXiv 2411.09009].
    """
    if largest is None:
        return probs @ weight
    kept = (largest > _ROUNDED_OFF / len(largest)).nonzero().squeeze(-1)
    if 2 * len(kept) > len(largest):
        return probs @ weight
    return probs.index_select(1, kept) @ weight.index_select(0, kept)


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


def _widened(gradient: torch.Tensor, rows: int) -> torch.Tensor:
    """With columns of zeros, of what the other model has no id for."""
    missing = rows - gradient.shape[-1]
    return F.pad(gradient, (0, missing)) if missing else gradient


def _scores(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """A float32 copy of logits, over the temperature."""
    return logits.float() / temperature if temperature != 1 else logits.to(torch.float32, copy=True)
