"""The forward pass: pieces and shortcuts give the plain pass's states and gradients, and are taken where they hold."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from engine.capture.batches import Batch, Sample, collate_samples, padded_tokens
from engine.distill import forward
from engine.distill.forward import (
    NONE,
    Shortcuts,
    at_once,
    draft_states,
    in_pieces,
    pieces,
    shared_positions,
    shortcuts_of,
)
from engine.models.head import hidden_states
from tests.conftest import tiny_llama
from tests.tiny_families import random_model, small_config

CPU = torch.device("cpu")
# What each family's layers allow: a window keeps only the last keys, an MLP may have another name or give two things.
FAMILIES: dict[str, tuple[dict[str, Any], Shortcuts]] = {
    "llama": ({}, Shortcuts(prefix=True, last_mlp=True)),
    "deepseek_v3": ({}, Shortcuts(prefix=True, last_mlp=True)),
    "gemma3_text": ({"sliding_window": 8}, Shortcuts(prefix=False, last_mlp=True)),
    "gpt_neo": ({"attention_types": [[["global", "local"], 3]], "window_size": 8}, Shortcuts(prefix=True)),
    "bloom": ({}, Shortcuts(prefix=True)),
    "mixtral": ({}, Shortcuts()),
    "mamba": ({}, Shortcuts()),
}


def batch(lengths: Sequence[tuple[int, int]], shared: int = 0) -> Batch:
    """Rows of a prompt and an answer of these lengths, that begin with the same `shared` tokens."""
    draws = torch.Generator().manual_seed(0)
    samples = []
    for number, (prompt, answer) in enumerate(lengths):
        ids = [*range(2, 2 + shared), *torch.randint(60, 250, (prompt - shared + answer,), generator=draws).tolist()]
        raw, places = torch.zeros(answer, 0, dtype=torch.uint8), torch.arange(answer)
        samples.append(Sample(str(number), ids[:prompt], ids[prompt:], raw, places))
    return collate_samples(samples, CPU)


ROWS = [(30, 3), (31, 9), (40, 8), (33, 20), (60, 12)]


@pytest.fixture(params=["one piece", "many"])
def cuts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "_PIECE_POSITIONS", 10**6 if request.param == "one piece" else 1)


@pytest.mark.usefixtures("cuts")
@pytest.mark.parametrize("shared", [0, 24])
@pytest.mark.parametrize("shortcuts", [NONE, Shortcuts(prefix=True, last_mlp=True)], ids=["plain", "shortcuts"])
def test_states_and_gradients_are_those_of_one_masked_pass(shortcuts: Shortcuts, shared: int, monkeypatch):
    monkeypatch.setattr(forward, "shared_positions", lambda batch: shared)
    model, made = tiny_llama(layers=3).requires_grad_(True), batch(ROWS, shared)
    slope = torch.randn(made.tokens, model.config.hidden_size, generator=torch.Generator().manual_seed(1))

    def gradients(states: torch.Tensor) -> list[torch.Tensor]:
        wanted = [p for n, p in model.named_parameters() if "lm_head" not in n]
        return list(torch.autograd.grad((states * slope).sum(), wanted))

    masked = hidden_states(model, made.ids, made.mask, is_draft=True)[made.responds]
    states = draft_states(model, made, torch.float32, shortcuts)
    torch.testing.assert_close(states, masked, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(gradients(states), gradients(masked), strict=True):
        assert float((mine - theirs).norm()) < 1e-5 * float(theirs.norm())


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_takes_the_shortcuts_that_hold_for_it(kind: str, monkeypatch: pytest.MonkeyPatch):
    changes, expected = FAMILIES[kind]
    model, made = random_model(small_config(kind, **changes)), batch(ROWS, 24)
    assert shortcuts_of(model) == expected
    monkeypatch.setattr(forward, "_PIECE_POSITIONS", 4)
    with torch.no_grad():
        masked = hidden_states(model, made.ids, made.mask, is_draft=True)[made.responds]
        states = draft_states(model, made, torch.float32, expected)
    assert shared_positions(made) == 24
    torch.testing.assert_close(states, masked, rtol=1e-3, atol=1e-4)


def test_a_shortcut_that_changes_the_result_is_not_taken():
    model = tiny_llama(layers=2)
    mlp = model.model.layers[-1].mlp

    class Mixing(type(mlp)):  # type: ignore[misc]
        """Looks at more than one position."""

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return super().forward(states) + states.mean()

    mlp.__class__ = Mixing
    assert shortcuts_of(model) == Shortcuts(prefix=False, last_mlp=False)


@pytest.mark.parametrize("shortcuts", [NONE, Shortcuts(prefix=True, last_mlp=True)], ids=["plain", "shortcuts"])
def test_all_rows_at_once_as_on_a_gpu_give_the_same(shortcuts: Shortcuts):
    model, made = tiny_llama(layers=3), batch(ROWS, 24)
    with torch.no_grad():
        torch.testing.assert_close(at_once(model, made, shortcuts), in_pieces(model, made, NONE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_attention_gives_the_same_with_each_devices_kernels(device: str):
    model, ids = tiny_llama(layers=2), torch.randint(250, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = hidden_states(model, ids)
        with forward._kernel(torch.device(device), ids.shape[1]):
            torch.testing.assert_close(hidden_states(model, ids), plain, rtol=1e-4, atol=1e-5)


def test_batches_on_a_gpu_have_few_widths():
    gpu = torch.device("cuda")
    assert [padded_tokens(n, CPU) for n in (1, 64, 65)] == [1, 64, 65]
    assert [padded_tokens(n, gpu) for n in (1, 64, 65, 200)] == [64, 64, 128, 256]


def test_the_model_is_as_it_was_after_a_shortcut():
    model, made = tiny_llama(layers=2), batch(ROWS)
    draft_states(model, made, torch.float32, Shortcuts(last_mlp=True))
    assert "forward" not in model.model.layers[-1].mlp.__dict__


def cost(cuts: Sequence[tuple[slice, int]]) -> int:
    return sum((rows.stop - rows.start) * width + forward._PIECE_POSITIONS for rows, width in cuts)


@pytest.mark.parametrize(
    "lengths", [[5], [5, 5, 5], [10, 11, 90, 91, 92, 300], [300, 10, 10, 10, 280], list(range(20, 90, 8))]
)
def test_rows_are_cut_where_it_costs_least(lengths: list[int]):
    cuts = pieces(lengths)
    covered = [(row, width) for rows, width in cuts for row in range(rows.start, rows.stop)]
    assert [row for row, _ in covered] == list(range(len(lengths)))
    assert all(lengths[row] <= width for row, width in covered)
    ends = range(1, len(lengths))
    every = itertools.chain.from_iterable(itertools.combinations(ends, n) for n in range(len(lengths)))
    for between in every:
        edges = [0, *between, len(lengths)]
        other = [(slice(a, b), max(lengths[a:b])) for a, b in itertools.pairwise(edges)]
        assert cost(cuts) <= cost(other)


def test_only_positions_from_which_nothing_is_learnt_are_shared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forward, "_PIECE_POSITIONS", 1)
    assert shared_positions(batch([(20, 5), (30, 5)], shared=12)) == 12
    assert shared_positions(batch([(12, 5), (30, 5)], shared=12)) == 11  # the last of the prompt predicts a token
    assert shared_positions(batch([(20, 5), (30, 5)])) == 0
    assert shared_positions(batch([(20, 5)], shared=12)) == 0  # nobody to share with
    monkeypatch.setattr(forward, "_PIECE_POSITIONS", 48)
    assert shared_positions(batch([(20, 5), (30, 5)], shared=12)) == 0  # not worth another pass
