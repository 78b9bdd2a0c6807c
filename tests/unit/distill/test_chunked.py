"""Losses a chunk at a time: the same value and gradients as all at once, and no large tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine.capture.signal import CompactSignal, ExactSignal, Signal, SignalFormat
from engine.config.schema import LossTerm
from engine.distill.chunked import Positions, chunked_loss, closed_chunk_size
from engine.distill.losses import LOSSES, Context, tvd_pp_rewards
from engine.models.head import CHUNK_VALUES, GPU_CHUNK_VALUES, Head, chunk_size

POSITIONS, WIDTH, VOCAB = 10, 8, 23
TERMS: dict[str, list[LossTerm]] = {
    **{name: [LossTerm(name=name, beta=0.3, eta=2.0)] for name in LOSSES},
    "weighted sum": [LossTerm(name="forward_kl", weight=0.25), LossTerm(name="sft"), LossTerm(name="jsd", beta=0.9)],
    "two of one kind": [LossTerm(name="jsd", beta=0.1, weight=2.0), LossTerm(name="jsd", beta=0.8)],
}


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Problem:
    """Hidden states of a draft, its head, and the signal of a target with a head of its own."""

    def __init__(
        self, kind: str = "exact", *, positions: int = POSITIONS, vocab: int = VOCAB, bias: bool = False
    ) -> None:
        target_head = Head(normal(vocab, WIDTH, seed=0), None)
        states = normal(positions, WIDTH, seed=1)
        form = SignalFormat(kind, WIDTH, vocab, 4)
        raw = form.encode(states, target_head.logits(states))
        self.hidden = normal(positions, WIDTH, seed=2)
        self.weight, self.bias = normal(vocab, WIDTH, seed=3), normal(vocab, seed=4) if bias else None
        self.asked: list[slice] = []

        def read(part: slice) -> Signal:
            self.asked.append(part)
            return form.decode(raw[part], target_head)

        draws = torch.Generator().manual_seed(5)
        tokens = torch.randint(vocab, (positions,), generator=draws)
        uniforms = torch.rand(positions, generator=draws, dtype=torch.float64)
        self.positions = Positions(tokens, uniforms, read)

    def leaves(self, trainable_head: bool) -> list[torch.Tensor]:
        parameters = [self.weight, *([self.bias] if self.bias is not None else [])]
        return [self.hidden.clone().requires_grad_(), *(t.clone().requires_grad_(trainable_head) for t in parameters)]

    @staticmethod
    def head(leaves: list[torch.Tensor]) -> Head:
        return Head(leaves[1], leaves[2] if len(leaves) > 2 else None, scale=0.5, softcap=20.0)


def gradients(loss: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad]))


def all_at_once(
    problem: Problem, leaves: list[torch.Tensor], terms: list[LossTerm], temperature: float
) -> torch.Tensor:
    logits = problem.head(leaves).logits(leaves[0])
    signal = problem.positions.read_signal(slice(0, None))
    assert signal is not None
    base = Context(problem.positions.token_ids, problem.positions.uniforms, temperature)
    rewards = tvd_pp_rewards(logits.detach(), signal, base)
    total = torch.zeros(())
    for term in terms:
        context = Context(
            base.token_ids,
            base.uniforms,
            temperature,
            term.beta,
            term.eta,
            float(rewards.mean()),
            max(float(rewards.std(correction=0)), 1e-6),
        )
        total = total + term.weight * LOSSES[term.name](logits, signal, context).sum()
    return total


@pytest.mark.parametrize("head", ["frozen", "trainable", "trainable with bias"])
@pytest.mark.parametrize("kind", ["exact", "compact"])
@pytest.mark.parametrize("name", TERMS)
def test_chunks_change_neither_value_nor_gradient(name: str, kind: str, head: str):
    problem = Problem(kind, bias=head.endswith("bias"))
    leaves = problem.leaves(head != "frozen")
    temperature = 2.0 if kind == "exact" else 1.0
    whole = all_at_once(problem, leaves, TERMS[name], temperature)
    expected = gradients(whole, leaves)
    assert len(expected) == {"frozen": 1, "trainable": 2, "trainable with bias": 3}[head]
    for chunk in (1, 3, 7, POSITIONS, 1000, None):
        found = chunked_loss(
            leaves[0], problem.head(leaves), problem.positions, TERMS[name], temperature=temperature, chunk=chunk
        )
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
        for mine, theirs in zip(gradients(found, leaves), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_what_follows_the_loss_scales_the_gradient():
    problem = Problem()
    leaves = problem.leaves(True)
    once = gradients(chunked_loss(leaves[0], problem.head(leaves), problem.positions, TERMS["tvd"], chunk=3), leaves)
    loss = chunked_loss(leaves[0], problem.head(leaves), problem.positions, TERMS["tvd"], chunk=3) * -0.25
    for mine, theirs in zip(gradients(loss, leaves), once, strict=True):
        torch.testing.assert_close(mine, theirs * -0.25)


def test_gradients_reach_what_made_the_hidden_states():
    problem = Problem()
    layer = torch.nn.Linear(WIDTH, WIDTH)
    hidden = layer(problem.hidden)
    head = Head(problem.weight, None)
    chunked_loss(hidden, head, problem.positions, TERMS["forward_kl"], chunk=3).backward()
    found = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
    layer.zero_grad()
    signal = problem.positions.read_signal(slice(0, None))
    assert signal is not None
    context = Context(problem.positions.token_ids, problem.positions.uniforms)
    LOSSES["forward_kl"](head.logits(layer(problem.hidden)), signal, context).sum().backward()
    for mine, parameter in zip(found, layer.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-5)


def test_without_gradients_the_value_is_the_same():
    problem = Problem()
    leaves = problem.leaves(False)
    with torch.no_grad():
        quiet = chunked_loss(problem.hidden, problem.head(leaves), problem.positions, TERMS["jsd"], chunk=3)
    loud = chunked_loss(leaves[0], problem.head(leaves), problem.positions, TERMS["jsd"], chunk=3)
    assert torch.equal(quiet, loud.detach())


def test_a_half_precision_head_gathers_its_gradient_without_losing_small_parts():
    """Many chunks add to one gradient: in bfloat16 sums the later ones would be rounded away."""
    problem = Problem(positions=512)
    weight = problem.weight.bfloat16().requires_grad_()
    one, many = (
        torch.autograd.grad(
            chunked_loss(problem.hidden, Head(weight, None), problem.positions, TERMS["sft"], chunk=chunk), weight
        )[0].float()
        for chunk in (512, 1)
    )
    assert weight.dtype == torch.bfloat16
    assert ((many - one).norm() / one.norm()) < 0.01


def test_each_position_is_read_once_in_order():
    problem = Problem()
    leaves = problem.leaves(False)
    chunked_loss(leaves[0], problem.head(leaves), problem.positions, TERMS["forward_kl"], chunk=4)
    assert problem.asked == [slice(0, 4), slice(4, 8), slice(8, 10)]


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned, backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for item in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(item, torch.Tensor):
                self.values = max(self.values, item.numel())
        return result


@pytest.mark.slow
@pytest.mark.parametrize("head", ["frozen", "trainable"])
@pytest.mark.parametrize("kind", ["exact", "compact"])
@pytest.mark.parametrize("name", TERMS)
def test_no_tensor_of_all_positions_by_vocabulary_is_made(name: str, kind: str, head: str):
    positions, vocab, chunk = 200, 300, 5
    problem = Problem(kind, positions=positions, vocab=vocab)
    leaves = problem.leaves(head == "trainable")
    with LargestTensor() as largest:
        loss = chunked_loss(leaves[0], problem.head(leaves), problem.positions, TERMS[name], chunk=chunk)
        loss.backward()
    inputs = max(positions * WIDTH, vocab * WIDTH)
    assert largest.values <= max(inputs, 2 * chunk * vocab) < positions * vocab / 10  # jsd stacks two of a chunk
    with LargestTensor() as largest:
        all_at_once(problem, leaves, TERMS[name], 1.0)
    assert largest.values >= positions * vocab, "the measurement must see such a tensor where there is one"


def test_a_chunk_holds_as_many_positions_as_its_budget_allows():
    assert chunk_size(49_152) * 49_152 <= CHUNK_VALUES < (chunk_size(49_152) + 1) * 49_152
    assert chunk_size(10 * CHUNK_VALUES) == 1


def test_a_compact_signal_is_what_the_compact_tests_really_use():
    signal = Problem("compact").positions.read_signal(slice(0, 2))
    assert isinstance(signal, CompactSignal)
    assert isinstance(Problem().positions.read_signal(slice(0, 2)), ExactSignal)


def test_a_gpu_multiplies_more_at_once():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert chunk_size(49_152, gpu) == GPU_CHUNK_VALUES // 49_152 > chunk_size(49_152, cpu) == chunk_size(49_152)
    assert closed_chunk_size(49_152, gpu) > closed_chunk_size(49_152, cpu) > chunk_size(49_152, cpu)
    assert closed_chunk_size(10**9, cpu) == 1
