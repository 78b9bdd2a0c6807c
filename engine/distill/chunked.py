"""Losses over many positions without a [positions, vocabulary] tensor.

Hidden states are small, logits are not: 4,096 positions of a 49,152-word vocabulary are 805 MB in
float32, and a divergence holds several such tensors. So the head and the loss run over a few
dozen positions at a time, and each chunk's gradient with respect to its hidden states is
taken at once, while its logits exist; backward then only scales what was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.capture.signal import Signal
from engine.config.schema import LossTerm
from engine.distill.losses import LOSSES, Context, tvd_pp_rewards
from engine.models.head import Head, chunk_size

ReadSignal = Callable[[slice], Signal | None]


@dataclass(frozen=True)
class Positions:
    """Everything about a batch's response positions but the draft's hidden states.

    `read_signal(slice)` gives the signal of some positions; tensors are [position].
    """

    token_ids: torch.Tensor
    uniforms: torch.Tensor
    read_signal: ReadSignal
    weights: torch.Tensor | None = None  # [position, term]: factor on each term's loss at each position

    def context(self, part: slice, temperature: float) -> Context:
        return Context(self.token_ids[part], self.uniforms[part], temperature)


def chunked_loss(
    hidden: torch.Tensor,
    head: Head,
    positions: Positions,
    terms: Sequence[LossTerm],
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
    reward_scale: tuple[float, float] | None = None,
) -> torch.Tensor:
    """Weighted sum of the terms, summed over positions: a scalar with gradients to `hidden` and the head.

    hidden: [position, width]. The mean is the caller's to take, over all tokens of an optimiser
    step, so that accumulation does not change the result. For the same reason tvd_pp takes the
    mean and deviation of its rewards over the step (`reward_scale`); without, over these positions.
    """
    parts = _parts(hidden, head, chunk)
    if reward_scale is None and uses_rewards(terms):
        reward_scale = scale_of(rewards(hidden, head, positions, temperature=temperature, chunk=chunk))
    mean, deviation = reward_scale or (0.0, 1.0)

    def loss_of(part: slice, hidden_part: torch.Tensor, own_head: Head) -> torch.Tensor:
        logits = own_head.logits(hidden_part)
        signal = positions.read_signal(part)
        context = replace(positions.context(part, temperature), reward_mean=mean, reward_std=deviation)
        weights = None if positions.weights is None else positions.weights[part]
        return _weighted(logits, signal, context, terms, weights).sum()

    apply = _GradientInForward.apply
    loss: torch.Tensor = apply(hidden, head.weight, head.bias, head, loss_of, parts)  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def position_losses(
    hidden: torch.Tensor,
    head: Head,
    positions: Positions,
    terms: Sequence[LossTerm],
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> torch.Tensor:
    """The loss at each position, without gradients: [position]; summed it is `chunked_loss`.

    tvd_pp has no value, only a gradient: tvd, whose gradient it estimates, stands in for it.
    """
    terms = [term.model_copy(update={"name": "tvd"}) if term.name == "tvd_pp" else term for term in terms]
    losses = [hidden.new_zeros(0, dtype=torch.float32)]
    for part in _parts(hidden, head, chunk):
        logits, weights = head.logits(hidden[part]), None if positions.weights is None else positions.weights[part]
        losses.append(
            _weighted(logits, positions.read_signal(part), positions.context(part, temperature), terms, weights)
        )
    return torch.cat(losses)


def _weighted(
    logits: torch.Tensor,
    signal: Signal | None,
    base: Context,
    terms: Sequence[LossTerm],
    weights: torch.Tensor | None,
) -> torch.Tensor:
    """The weighted sum of the terms: [position]. `weights`: [position, term], 1 if None."""
    total = logits.new_zeros(logits.shape[0], dtype=torch.float32)
    for number, term in enumerate(terms):
        values = LOSSES[term.name](logits, signal, replace(base, **term.parameters))  # type: ignore[arg-type]
        total = total + term.weight * (values if weights is None else weights[:, number] * values)
    return total


def _parts(hidden: torch.Tensor, head: Head, chunk: int | None) -> list[slice]:
    size = chunk or chunk_size(head.weight.shape[0])
    return [slice(i, min(i + size, hidden.shape[0])) for i in range(0, hidden.shape[0], size)]


def uses_rewards(terms: Sequence[LossTerm]) -> bool:
    """Whether a loss is among the terms that needs a pass of its own for its rewards."""
    return any(term.name == "tvd_pp" for term in terms)


@torch.no_grad()
def rewards(
    hidden: torch.Tensor, head: Head, positions: Positions, *, temperature: float = 1.0, chunk: int | None = None
) -> torch.Tensor:
    """tvd_pp's rewards, 0 or 1: [position]."""
    values = []
    for part in _parts(hidden, head, chunk):
        signal = positions.read_signal(part)
        assert signal is not None
        values.append(tvd_pp_rewards(head.logits(hidden[part]), signal, positions.context(part, temperature)))
    return torch.cat(values)


def scale_of(values: torch.Tensor) -> tuple[float, float]:
    """Mean and deviation of rewards; the deviation is never quite zero."""
    return float(values.mean()), max(float(values.std(correction=0)), 1e-6)


class _GradientInForward(torch.autograd.Function):
    """Sums loss_of over the parts and keeps the gradients instead of the graph."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: Any, head: Head, loss_of: Any, parts: Any
    ) -> torch.Tensor:
        inputs: list[torch.Tensor | None] = [hidden.detach(), weight.detach(), None if bias is None else bias.detach()]
        needed = [i for i in range(3) if ctx.needs_input_grad[i]]
        grads = [  # the head's is a sum over all parts: in float32, or bfloat16 would round the later ones away
            torch.zeros_like(t, dtype=torch.float32 if i else t.dtype) if t is not None and i in needed else None
            for i, t in enumerate(inputs)
        ]
        total = torch.zeros((), device=hidden.device)
        for part in parts:
            leaves = [None if t is None else t[part] if i == 0 else t for i, t in enumerate(inputs)]
            leaves = [None if t is None else t.detach().requires_grad_(i in needed) for i, t in enumerate(leaves)]
            with torch.enable_grad():
                own_head = replace(head, weight=leaves[1], bias=leaves[2])  # type: ignore[arg-type]
                loss = loss_of(part, leaves[0], own_head)
            total += loss.detach()
            if needed:
                wanted = [t for i, t in enumerate(leaves) if t is not None and i in needed]
                for i, grad in zip(needed, torch.autograd.grad(loss, wanted), strict=True):
                    kept = grads[i]
                    assert kept is not None
                    (kept[part] if i == 0 else kept).add_(grad)
        ctx.grads = [None if g is None or t is None else g.to(t.dtype) for g, t in zip(grads, inputs, strict=True)]
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[Any, ...]:
        return (*(None if g is None else g * grad_output for g in ctx.grads), None, None, None)
