"""The closed forms against float64 and against the reference run by autograd, in the regimes where such code breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.capture.signal import ExactSignal, LogitsSignal, Signal, SignalFormat, TrimmedSignal, log_totals
from engine.config.schema import LossTerm
from engine.distill import chunked
from engine.distill.chunked import Positions, chunked_loss
from engine.distill.fused import (
    DIVERGENCES,
    expected_rows,
    has_fused_form,
    softmax_in_place,
    target_of,
    value_and_gradient,
)
from engine.distill.losses import LOSSES
from engine.models.head import Head
from tests.unit.distill import test_losses as plain

SUMS = {
    **{name: [LossTerm(name=name, beta=0.3, eta=2.0, hard_weight=0.6)] for name in [*DIVERGENCES, "sft"]},
    "hard": [LossTerm(name="argmax_ce")],
    "text and divergence": [LossTerm(name="sft", weight=0.25), LossTerm(name="reverse_kl")],
    "all": [LossTerm(name=name, weight=0.1 + i) for i, name in enumerate([*DIVERGENCES, "sft"])],
}
POSITIONS, WIDTH, VOCAB = 11, 8, 37


@pytest.mark.parametrize("regime", [*plain.REGIMES, "disjoint", "flat"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_value_and_gradient_are_those_of_float64(name: str, temperature: float, regime: str):
    hidden, logits = {"disjoint": disjoint, "flat": flat, **plain.REGIMES}[regime]()
    signal, terms = plain.exact(hidden), [LossTerm(name=name, beta=plain.BETA, eta=plain.ETA, hard_weight=plain.HARD)]
    values, gradient = value_and_gradient(logits, target_of(signal, terms), plain.context(temperature), terms)

    def wide(leaf: torch.Tensor) -> torch.Tensor:
        return plain.PLAIN[name](*plain.supports(signal, leaf, temperature))

    expected, slope = plain.value_and_gradient(wide, logits.double())
    scale = max(1.0, float(expected.abs().max()))  # float32 has 7 digits; a sum over logs of size s is off by s * 1e-6
    torch.testing.assert_close(values.double(), expected, rtol=1e-4, atol=2e-6 * scale)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-3, atol=2e-6 * scale)


def disjoint() -> tuple[torch.Tensor, torch.Tensor]:
    """The draft is sure of what the target would hardly say."""
    hidden = plain.normal(plain.ROWS, plain.WIDTH, seed=0) * 8
    return hidden, -3 * plain.head().logits(hidden)


def flat() -> tuple[torch.Tensor, torch.Tensor]:
    """Both say nothing."""
    return plain.normal(plain.ROWS, plain.WIDTH, seed=0) / 1e3, plain.normal(plain.ROWS, plain.VOCAB, seed=1) / 1e3


class Problem:
    """Positions of a batch with a signal of some kind, and leaves to learn."""

    def __init__(self, kind: str, *, weighted: bool, terms: int, rows: int = VOCAB) -> None:
        normal, self.rows = plain.normal, rows
        head = Head(normal(VOCAB, WIDTH, seed=0), None)
        states = normal(POSITIONS, WIDTH, seed=1)
        draws = torch.Generator().manual_seed(5)
        tokens = torch.randint(-1, rows, (POSITIONS,), generator=draws)
        weights = torch.rand(POSITIONS, terms, generator=draws).round(decimals=1) if weighted else None
        ids = torch.arange(0, VOCAB, max(1, VOCAB // rows))[:rows]

        def read(part: slice) -> Signal:
            if kind == "trimmed":
                return TrimmedSignal(states[part], head.of_ids(ids), log_totals(states[part], head, 1.0))
            if kind == "compact":
                form = SignalFormat("compact", WIDTH, VOCAB, 5)
                return form.decode(form.encode(states[part], head.logits(states[part])), None)
            return {"exact": ExactSignal(states[part], head), "logits": LogitsSignal(head.logits(states[part]))}[kind]

        self.positions = Positions(tokens, torch.zeros(POSITIONS), read, weights)
        self.leaves = [
            normal(*s, seed=i + 2).requires_grad_() for i, s in enumerate([(POSITIONS, WIDTH), (rows, WIDTH)])
        ]

    def gradients(self, terms: list[LossTerm], head: dict[str, Any], **how: Any) -> list[torch.Tensor]:
        """The loss, then the gradients of hidden states and head."""
        loss = chunked_loss(self.leaves[0], Head(self.leaves[1], None, **head), self.positions, terms, chunk=4, **how)
        return [loss.detach(), *torch.autograd.grad(loss, self.leaves)]


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("head", [{}, {"scale": 0.4, "softcap": 5.0}], ids=["plain head", "scaled and capped head"])
@pytest.mark.parametrize(
    ("kind", "rows", "temperature"),
    [
        pytest.param("exact", 37, 1.0, id="exact"),
        pytest.param("exact", 29, 1.5, id="fewer rows than the target"),
        pytest.param("exact", 40, 1.0, id="more rows than the target"),
        pytest.param("logits", 37, 2.0, id="logits"),
        pytest.param("trimmed", 12, 1.0, id="trimmed vocabulary"),
        pytest.param("compact", 37, 1.0, id="compact"),
        pytest.param("compact", 29, 1.0, id="compact, fewer rows"),
        pytest.param("compact", 40, 1.0, id="compact, more rows"),
    ],
)
@pytest.mark.parametrize("name", SUMS)
def test_the_gradients_are_those_of_autograd_over_the_reference(
    name: str, kind: str, rows: int, temperature: float, head: dict[str, Any], weighted: bool
):
    terms = SUMS[name]
    problem = Problem(kind, weighted=weighted, terms=len(terms), rows=rows)
    assert has_fused_form(terms)
    fused = problem.gradients(terms, head, temperature=temperature)
    expected = problem.gradients(terms, head, temperature=temperature, reference=True)
    for mine, theirs in zip(fused, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SUMS)
def test_blocks_change_neither_value_nor_gradient(name: str, monkeypatch: pytest.MonkeyPatch):
    terms = SUMS[name]
    problem = Problem("exact", weighted=False, terms=len(terms))
    whole = problem.gradients(terms, {})
    monkeypatch.setattr(chunked, "CPU_BLOCK_VALUES", 1)
    for mine, theirs in zip(problem.gradients(terms, {}), whole, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [*DIVERGENCES, "sft"])
def test_half_precision_differs_by_what_its_logits_are_rounded_by(name: str):
    """The gradient is worked out in float32 and rounded once: no further from float32 than autograd's own."""
    terms = SUMS[name]
    problem = Problem("exact", weighted=False, terms=1)
    exact = problem.gradients(terms, {})
    problem.leaves[1] = problem.leaves[1].detach().bfloat16().requires_grad_()
    fused, autograd = (problem.gradients(terms, {}, reference=reference) for reference in (False, True))
    for mine, theirs, right in zip(fused, autograd, exact, strict=True):
        assert mine.dtype == theirs.dtype
        assert float((mine.float() - right).norm()) <= 1.05 * float((theirs.float() - right).norm()) + 1e-6


def test_what_has_no_closed_form_is_left_to_the_reference():
    assert set(LOSSES) - set(DIVERGENCES) >= {"sft", "tvd_pp"}
    assert not has_fused_form([LossTerm(name="tvd_pp")])
    assert not has_fused_form([LossTerm(name="forward_kl"), LossTerm(name="tvd_pp")])


def test_nothing_is_learnt_where_no_token_is_known():
    problem = Problem("exact", weighted=False, terms=1)
    problem.positions = replace(problem.positions, token_ids=torch.full((POSITIONS,), -1))
    loss, hidden, head = problem.gradients(SUMS["sft"], {})
    assert float(loss) == 0.0
    assert not hidden.any()
    assert not head.any()


@pytest.mark.parametrize("sharpness", [0.1, 6.0], ids=["flat", "sharp"])
def test_ids_without_weight_are_left_out_of_a_product_in_half_precision(sharpness: float):
    """What is left out is bounded by what bfloat16 rounds off; a flat distribution leaves out nothing."""
    logits, weight = plain.normal(6, 4096, seed=0) * sharpness, plain.normal(4096, 32, seed=1)
    probs, largest = logits.clone(), torch.zeros(4096)
    totals = torch.cat([softmax_in_place(probs[part], 1.0, largest) for part in (slice(0, 2), slice(2, 6))])
    torch.testing.assert_close(totals, logits.logsumexp(-1))
    torch.testing.assert_close(probs, logits.softmax(-1))
    assert torch.equal(largest, probs.amax(0))
    kept = largest > 2.0**-9 / 4096
    assert bool(kept.all()) == (sharpness < 1)
    assert float((probs * ~kept).sum(-1).max()) <= 2.0**-9
    narrow, whole = expected_rows(probs, weight, largest), expected_rows(probs, weight, None)
    assert float((narrow - whole).norm() / whole.norm()) < 1e-3
    assert torch.equal(narrow, whole) == (sharpness < 1)
