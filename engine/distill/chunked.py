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
from engine.distill.fused import (
    Scratch,
    expected_rows,
    has_fused_form,
    leaves_out,
    softmax_in_place,
    target_of,
    value_and_gradient,
)
from engine.distill.losses import LOSSES, Context, tvd_pp_rewards
from engine.distill.moments import Moments
from engine.models.head import Head, chunk_size

# Values of the logits of a chunk that the head multiplies at once, and of a block of them whose gradient is then worked
# out in float32. On a CPU the one pays with many rows, the other where a block stays in the cache of a core.
CPU_CHUNK_VALUES, CPU_BLOCK_VALUES = 2**24, 2**19
GPU_BLOCK_VALUES = 2**24
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
    read_moments: Callable[[slice], Moments | None] = lambda part: None  # in place of the signal, where they will do

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
    scratch: Scratch | None = None,
    reference: bool = False,
) -> torch.Tensor:
    """Weighted sum of the terms, summed over positions: a scalar with gradients to `hidden` and the head.

    hidden: [position, width]. The mean is the caller's to take, over all tokens of an optimiser
    step, so that accumulation does not change the result. For the same reason tvd_pp takes the
    mean and deviation of its rewards over the step (`reward_scale`); without, over these positions.
    Gradients have a closed form where all terms do (`fused`), else they come from autograd; `reference`: always. One
    `scratch` for all calls saves time.
    """
    if reward_scale is None and uses_rewards(terms):
        reward_scale = scale_of(rewards(hidden, head, positions, temperature=temperature, chunk=chunk))
    closed = has_fused_form(terms) and not reference
    loss = _Loss(head, positions, terms, temperature, reward_scale or (0.0, 1.0), scratch or Scratch(), closed)
    apply = _GradientInForward.apply
    size = closed_chunk_size if closed else chunk_size
    parts = _parts(hidden, chunk or size(len(head.weight), hidden.device))
    total: torch.Tensor = apply(hidden, head.weight, head.bias, loss, parts)  # type: ignore[no-untyped-call]
    return total


Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Hidden states of some positions, weight and bias of the head."""


@dataclass(frozen=True)
class _Loss:
    """A weighted sum of losses at a batch's positions, and its gradients in one of two ways."""

    head: Head
    positions: Positions
    terms: Sequence[LossTerm]
    temperature: float
    reward_scale: tuple[float, float]
    scratch: Scratch
    closed: bool  # by the closed forms

    def gradients(self, part: slice, inputs: Inputs, needed: Sequence[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The sum over some positions and its gradients with respect to the inputs of these numbers."""
        moments = self.positions.read_moments(part) if self.closed else None
        if moments is not None:
            return self._by_moments(part, moments, inputs, needed)
        signal = self.positions.read_signal(part)
        run = self._in_closed_form if self.closed else self._by_autograd
        return run(part, signal, inputs, needed)

    def _by_autograd(
        self, part: slice, signal: Signal | None, inputs: Inputs, needed: Sequence[int]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        leaves = [None if t is None else t.detach().requires_grad_(i in needed) for i, t in enumerate(inputs)]
        with torch.enable_grad():
            hidden, weight, bias = leaves
            assert hidden is not None
            assert weight is not None
            logits = replace(self.head, weight=weight, bias=bias).logits(hidden)
            loss = _weighted(logits, signal, self._context(part), self.terms, self._weights(part)).sum()
        wanted = [leaf for i, leaf in enumerate(leaves) if leaf is not None and i in needed]
        return loss.detach(), list(torch.autograd.grad(loss, wanted)) if wanted else []

    def _in_closed_form(
        self, part: slice, signal: Signal | None, inputs: Inputs, needed: Sequence[int]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The same without autograd: the gradient of the logits takes their place, block by block."""
        hidden, weight, bias = inputs
        states, head = hidden.to(weight.dtype), replace(self.head, weight=weight, bias=bias)
        logits, target = self.scratch.logits("draft", head, states), target_of(signal, self.terms, self.scratch)
        context, weights = self._context(part), self._weights(part)
        total = torch.zeros((), device=hidden.device)
        for block in _parts(logits, _block_size(logits.shape[-1], logits.device)):
            values, gradient = value_and_gradient(
                logits[block],
                None if target is None else target.at(block),
                context.at(block),
                self.terms,
                None if weights is None else weights[block],
            )
            total += values.sum()
            if needed:
                logits[block] = head.before_scaling(gradient, logits[block])
        ways = (lambda: logits @ weight, lambda: logits.t() @ states, lambda: logits.sum(0, dtype=torch.float32))
        return total, [ways[i]() for i in needed]

    def _by_moments(
        self, part: slice, moments: Moments, inputs: Inputs, needed: Sequence[int]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The same for forward KL and text, of a linear head that does not learn: see `moments`."""
        hidden, weight, _ = inputs
        assert set(needed) <= {0}
        states = hidden.to(weight.dtype)
        logits = self.scratch.logits("draft", self.head, states)
        own = moments.weighted(self.terms, self._weights(part), self.positions.token_ids[part], self.head)
        factor = self.head.scale / self.temperature
        values = own.log_mean - factor * torch.linalg.vecdot(states.float(), own.mean_row)
        largest = torch.zeros(len(weight)) if leaves_out(weight) else None
        for block in _parts(logits, _block_size(logits.shape[-1], logits.device)):
            values[block] += own.mass[block] * softmax_in_place(logits[block], self.temperature, largest)
        if not needed:
            return values.sum(), []
        expected = expected_rows(logits, weight, largest).float()
        return values.sum(), [(expected * own.mass.unsqueeze(-1) - own.mean_row) * factor]

    def _context(self, part: slice) -> Context:
        mean, deviation = self.reward_scale
        return replace(self.positions.context(part, self.temperature), reward_mean=mean, reward_std=deviation)

    def _weights(self, part: slice) -> torch.Tensor | None:
        return None if self.positions.weights is None else self.positions.weights[part]


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
    for part in _parts(hidden, chunk or chunk_size(len(head.weight), hidden.device)):
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


def closed_chunk_size(vocab: int, device: torch.device) -> int:
    """Positions per chunk where gradients have a closed form: more than with autograd, which keeps many tensors."""
    return chunk_size(vocab, device) if device.type == "cuda" else max(1, CPU_CHUNK_VALUES // vocab)


def _block_size(vocab: int, device: torch.device) -> int:
    return max(1, (GPU_BLOCK_VALUES if device.type == "cuda" else CPU_BLOCK_VALUES) // vocab)


def _parts(rows: torch.Tensor, size: int) -> list[slice]:
    """Slices of at most `size` rows that cover a tensor's first dimension."""
    return [slice(i, min(i + size, rows.shape[0])) for i in range(0, rows.shape[0], size)]


def uses_rewards(terms: Sequence[LossTerm]) -> bool:
    """Whether a loss is among the terms that needs a pass of its own for its rewards."""
    return any(term.name == "tvd_pp" for term in terms)


@torch.no_grad()
def rewards(
    hidden: torch.Tensor, head: Head, positions: Positions, *, temperature: float = 1.0, chunk: int | None = None
) -> torch.Tensor:
    """tvd_pp's rewards, 0 or 1: [position]."""
    values = []
    for part in _parts(hidden, chunk or chunk_size(len(head.weight), hidden.device)):
        signal = positions.read_signal(part)
        assert signal is not None
        values.append(tvd_pp_rewards(head.logits(hidden[part]), signal, positions.context(part, temperature)))
    return torch.cat(values)


def scale_of(values: torch.Tensor) -> tuple[float, float]:
    """Mean and deviation of rewards; the deviation is never quite zero."""
    return float(values.mean()), max(float(values.std(correction=0)), 1e-6)


class _GradientInForward(torch.autograd.Function):
    """Sums a loss over the parts and keeps the gradients instead of the graph."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: Any, loss: _Loss, parts: Sequence[slice]
    ) -> torch.Tensor:
        inputs: list[torch.Tensor | None] = [hidden.detach(), weight.detach(), None if bias is None else bias.detach()]
        needed = [i for i, t in enumerate(inputs) if t is not None and ctx.needs_input_grad[i]]
        grads = [  # the head's is a sum over all parts: in float32, or bfloat16 would round the later ones away
            torch.zeros_like(t, dtype=torch.float32) if t is not None and i in needed else None
            for i, t in enumerate(inputs)
        ]
        total = torch.zeros((), device=hidden.device)
        for part in parts:
            value, own = loss.gradients(part, (hidden.detach()[part], weight.detach(), inputs[2]), needed)
            total += value
            for i, grad in zip(needed, own, strict=True):
                kept = grads[i]
                assert kept is not None
                (kept[part] if i == 0 else kept).add_(grad)
        ctx.grads = [(g, t.dtype) for g, t in zip(grads, inputs, strict=True) if g is not None and t is not None]
        ctx.needed = needed
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[Any, ...]:
        scaled: list[torch.Tensor | None] = [None, None, None]
        for i, (grad, dtype) in zip(ctx.needed, ctx.grads, strict=True):
            scaled[i] = (grad * grad_output).to(dtype)
        return (*scaled, None, None)
