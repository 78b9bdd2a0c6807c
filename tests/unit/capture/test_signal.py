"""What the signal keeps of the target's distribution, in how many bytes, and how far what is read back is off."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.capture.signal import CompactSignal, ExactSignal, LogitsSignal, SignalFormat, signal_format
from engine.errors import DraftbenchError
from engine.models.head import Head
from tests.conftest import tiny_llama

WIDTH, VOCAB, ROWS = 16, 97, 40


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def head() -> Head:
    return Head(torch.randn(VOCAB, WIDTH, generator=generator()), torch.randn(VOCAB, generator=generator(1)))


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=generator(2))


def compact(logits: torch.Tensor, k: int = 8) -> CompactSignal:
    form = SignalFormat("compact", 0, logits.shape[-1], k)
    signal = form.decode(form.encode(torch.zeros(logits.shape[0], 0), logits), None)
    assert isinstance(signal, CompactSignal)
    return signal


def kl(target: torch.Tensor, draft: torch.Tensor) -> torch.Tensor:
    return (target.exp() * (target - draft)).sum(-1)


def test_exact_states_in_bfloat16_come_back_bit_for_bit(head: Head, hidden: torch.Tensor):
    states = hidden.bfloat16()
    form = SignalFormat("exact", WIDTH, VOCAB, 8)
    raw = form.encode(states, head.logits(states.float()))
    assert (raw.dtype, tuple(raw.shape)) == (torch.uint8, (ROWS, form.bytes_per_token))
    signal = form.decode(raw, head)
    assert isinstance(signal, ExactSignal)
    assert torch.equal(signal.hidden, states)


def test_an_exact_signal_is_the_targets_distribution(head: Head, hidden: torch.Tensor):
    states = hidden.bfloat16().float()
    form = SignalFormat("exact", WIDTH, VOCAB, 8)
    logits = head.logits(states)
    target, draft = form.decode(form.encode(states, logits), head).align(logits, 1.0)
    expected = torch.log_softmax(logits, -1)
    torch.testing.assert_close(target, expected)
    torch.testing.assert_close(draft, expected)
    softer, _ = form.decode(form.encode(states, logits), head).align(logits, 3.0)
    torch.testing.assert_close(softer, torch.log_softmax(logits / 3, -1))


def test_rounding_a_float32_state_to_bfloat16_costs_little(head: Head, hidden: torch.Tensor):
    form = SignalFormat("exact", WIDTH, VOCAB, 8)
    logits = head.logits(hidden)
    target, draft = form.decode(form.encode(hidden, logits), head).align(logits, 1.0)
    assert kl(draft, target).max() < 1e-3  # here draft holds the unrounded truth


def test_an_exact_signal_needs_its_head(hidden: torch.Tensor):
    form = SignalFormat("exact", WIDTH, VOCAB, 8)
    with pytest.raises(DraftbenchError, match="needs its target's head"):
        form.decode(form.encode(hidden, hidden), None)


def test_a_text_only_capture_has_no_bytes_and_no_signal():
    form = SignalFormat("none", WIDTH, VOCAB, 8)
    raw = form.encode(torch.zeros(3, WIDTH), torch.zeros(3, VOCAB))
    assert raw.shape == (3, 0) == (3, form.bytes_per_token)
    with pytest.raises(DraftbenchError, match="has no signal"):
        form.decode(raw, None)


@pytest.mark.parametrize("vocab", [VOCAB, 70_000])
def test_a_compact_signal_keeps_the_likeliest_ids_and_their_probabilities(vocab: int):
    """70,000 needs 32-bit ids: 16 bits would wrap."""
    logits = torch.randn(5, vocab, generator=generator()) * 3
    form = SignalFormat("compact", WIDTH, vocab, 8)
    raw = form.encode(torch.zeros(5, WIDTH), logits)
    assert tuple(raw.shape) == (5, form.bytes_per_token)
    signal = form.decode(raw, None)
    assert isinstance(signal, CompactSignal)
    expected = torch.log_softmax(logits, -1).topk(8)
    assert torch.equal(signal.token_ids, expected.indices)
    torch.testing.assert_close(signal.logprobs, expected.values, rtol=1e-3, atol=1e-3)
    tail = 1 - expected.values.exp().sum(-1)
    torch.testing.assert_close(signal.tail_mass, tail, rtol=0, atol=2e-3)


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 100.0])
def test_the_tail_is_kept_as_one_bucket_so_that_mass_sums_to_one(scale: float):
    logits = torch.randn(ROWS, VOCAB, generator=generator()) * scale
    target, draft = compact(logits).align(torch.randn(ROWS, VOCAB, generator=generator(1)), 1.0)
    assert target.shape == draft.shape == (ROWS, 9)
    torch.testing.assert_close(target.logsumexp(-1), torch.zeros(ROWS), rtol=0, atol=1e-6)
    torch.testing.assert_close(draft.logsumexp(-1), torch.zeros(ROWS), rtol=0, atol=1e-5)
    assert target.isfinite().all()
    if scale == 0:  # a flat distribution: nearly everything is tail
        torch.testing.assert_close(target[:, -1].exp(), torch.full((ROWS,), 1 - 8 / VOCAB), rtol=0, atol=1e-3)


def test_the_drafts_side_of_a_compact_signal_is_its_own_buckets():
    logits, draft_logits = (torch.randn(ROWS, VOCAB, generator=generator(i)) * 3 for i in (0, 1))
    signal = compact(logits)
    _, draft = signal.align(draft_logits, 1.0)
    probs = torch.softmax(draft_logits.double(), -1)
    kept = probs.gather(-1, signal.token_ids)
    expected = torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1)
    torch.testing.assert_close(draft.double().exp(), expected, rtol=1e-5, atol=1e-7)


def test_a_compact_signal_of_a_peaked_target_is_nearly_the_full_one():
    """Merging what is left into a bucket can only lose divergence; for a peaked target it is hardly any."""
    logits = torch.randn(ROWS, VOCAB, generator=generator()) * 6
    draft_logits = logits + torch.randn(ROWS, VOCAB, generator=generator(1))
    full = kl(torch.log_softmax(logits, -1), torch.log_softmax(draft_logits, -1))
    bucketed = kl(*compact(logits, k=16).align(draft_logits, 1.0))
    assert full.mean() > 0.05
    torch.testing.assert_close(bucketed.mean(), full.mean(), rtol=0.02, atol=0)
    assert (bucketed <= full + 5e-3).all()
    assert kl(*compact(logits).align(logits, 1.0)).mean() < 1e-5


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_compact_signal_refuses_any_other_temperature(temperature: float):
    logits = torch.randn(3, VOCAB)
    with pytest.raises(DraftbenchError, match=f"temperature {temperature}"):
        compact(logits).align(logits, temperature)


def test_bytes_per_token_of_the_default_target():
    """SmolLM2-135M: width 576, 49,152 tokens."""
    exact = SignalFormat("exact", 576, 49_152, 64)
    kept = SignalFormat("compact", 576, 49_152, 64)
    assert exact.bytes_per_token == 1152 <= 1300
    assert kept.bytes_per_token == 64 * (2 + 2) + 4 <= 400
    assert SignalFormat("compact", 576, 151_936, 64).bytes_per_token == 64 * (4 + 2) + 4


def test_the_format_follows_the_model_and_leaves_a_tail():
    assert signal_format("exact", tiny_llama(), 64) == SignalFormat("exact", 32, 258, 64)
    assert signal_format("compact", tiny_llama(), 4096).top_k == 257
    assert signal_format("compact", tiny_llama(vocab=264), 10).vocab == 264


@pytest.mark.parametrize(("target_rows", "draft_rows"), [(VOCAB + 7, VOCAB), (VOCAB, VOCAB + 7)])
@pytest.mark.parametrize("kind", ["logits", "exact"])
def test_rows_that_only_one_model_has_are_in_neither_distribution(kind: str, target_rows: int, draft_rows: int):
    """Padded embedding rows have meaningless, even large logits."""
    padded = torch.randn(ROWS, VOCAB + 7, generator=generator())
    padded[:, VOCAB:] = 30.0
    plain = torch.randn(ROWS, VOCAB, generator=generator(1))
    target_logits, draft_logits = (padded, plain) if target_rows > draft_rows else (plain, padded)
    if kind == "logits":
        signal: LogitsSignal | ExactSignal = LogitsSignal(target_logits)
    else:
        weight = torch.randn(target_rows, WIDTH, generator=generator(3))
        states = torch.randn(ROWS, WIDTH, generator=generator(4))
        signal = ExactSignal(states, Head(weight, None))
        target_logits = states @ weight.T
    target, draft = signal.align(draft_logits, 1.0)
    torch.testing.assert_close(target, torch.log_softmax(target_logits[:, :VOCAB], -1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(draft, torch.log_softmax(draft_logits[:, :VOCAB], -1))


def test_a_compact_signal_leaves_the_drafts_padded_rows_out():
    logits, draft_logits = (torch.randn(ROWS, VOCAB, generator=generator(i)) for i in (0, 1))
    padded = torch.cat([draft_logits, torch.full((ROWS, 7), 30.0)], -1)
    for mine, expected in zip(
        compact(logits).align(padded, 1.0), compact(logits).align(draft_logits, 1.0), strict=True
    ):
        torch.testing.assert_close(mine, expected)


def test_a_compact_signal_survives_a_padded_row_of_the_target_among_its_best():
    """A padding row of the target that crept into the top-k is no token of a narrower draft."""
    logits = torch.randn(ROWS, VOCAB, generator=generator()) * 2
    padded = torch.cat([logits, torch.full((ROWS, 7), 1.5)], -1)  # likely enough to be kept
    draft_logits = (logits + torch.randn(ROWS, VOCAB, generator=generator(1))).requires_grad_()
    signal = compact(padded, k=24)
    assert (signal.token_ids >= VOCAB).any()
    target, draft = signal.align(draft_logits, 1.0)
    assert target[:, :-1][signal.token_ids >= VOCAB].exp().max() < 1e-9
    torch.testing.assert_close(target.logsumexp(-1), torch.zeros(ROWS), rtol=0, atol=1e-5)
    torch.testing.assert_close(draft.logsumexp(-1), torch.zeros(ROWS), rtol=0, atol=1e-5)
    divergence = kl(target, draft)
    assert divergence.isfinite().all()
    divergence.sum().backward()
    assert draft_logits.grad is not None
    assert draft_logits.grad.isfinite().all()


def test_no_gradient_reaches_the_target(head: Head, hidden: torch.Tensor):
    states = hidden.clone().requires_grad_()
    for signal in (ExactSignal(states, head), LogitsSignal(head.logits(states))):
        target, draft = signal.align(torch.randn(ROWS, VOCAB, requires_grad=True), 1.0)
        assert not target.requires_grad
        assert draft.requires_grad


def test_bytes_on_disk_are_the_tensors_and_nothing_between(tmp_path: Path):
    """A row can be found by its offset alone: rows written one after another are rows written together."""
    logits = torch.randn(6, VOCAB, generator=generator())
    form = SignalFormat("compact", WIDTH, VOCAB, 8)
    together = form.encode(torch.zeros(6, WIDTH), logits)
    for row in range(6):
        assert torch.equal(form.encode(torch.zeros(1, WIDTH), logits[row : row + 1])[0], together[row])
