"""The key-value cache after every way of taking tokens back equals a cache that never held them."""

import random

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, MistralConfig, MistralForCausalLM, StaticCache

from engine.decode import runner as runner_module
from engine.decode.runner import RowByRow, Runner, refuse_unfit_cache
from engine.errors import DraftbenchError
from tests.conftest import tiny_llama

torch.set_num_threads(1)
MODEL = tiny_llama()


class Checked:
    """A runner beside the plain lists of what each row should hold; every feed is compared with a fresh forward."""

    def __init__(self, model=MODEL):
        self.model, self.runner, self.rows = model, Runner(model), []

    def feed(self, *pending, last=1):
        if not self.rows:
            self.rows = [[] for _ in pending]
        logits = self.runner.feed([list(ids) for ids in pending], last=last)
        for row, ids, found in zip(self.rows, pending, logits, strict=True):
            row += ids
            with torch.no_grad():
                fresh = self.model(input_ids=torch.tensor([row])).logits[0, -last:]
            torch.testing.assert_close(found, fresh, rtol=1e-4, atol=1e-4)  # kernels of other shapes round otherwise
        assert self.runner.lengths.tolist() == [len(row) for row in self.rows]
        return self

    def take_back(self, *counts):
        self.runner.take_back(list(counts))
        for row, count in zip(self.rows, counts, strict=True):
            del row[len(row) - count :]
        return self

    def keep_rows(self, *rows):
        self.runner.keep_rows(list(rows))
        self.rows = [self.rows[i] for i in rows]
        return self

    def squeeze(self):
        self.runner.squeeze()
        return self

    def join(self, other):
        self.runner.join(other.runner)
        self.rows += other.rows
        return self

    @property
    def columns(self):
        held = {layer.keys.shape[2] for layer in self.runner.cache.layers}
        assert held == {self.runner.mask.shape[1]}
        return held.pop()


def ragged():
    return Checked().feed([5, 6, 7], [8] * 9, [9, 10, 11, 12, 13])


def test_ragged_rows_see_only_themselves():
    ragged().feed([20], [21], [22]).feed([30, 31, 32], [33], [34, 35], last=1)


def test_logits_of_the_last_columns_are_each_rows_own():
    ragged().feed([20, 21, 22], [23, 24, 25], [26, 27, 28], last=3)


def test_after_all_rows_take_back_alike():
    checked = ragged().feed([20, 21, 22], [23, 24, 25], [26, 27, 28], last=3)
    checked.take_back(2, 2, 2).feed([40], [41], [42])
    assert checked.columns == 9 + 1 + 1


def test_after_rows_take_back_differently():
    checked = ragged().feed([20, 21, 22], [23, 24, 25], [26, 27, 28], last=3)
    checked.take_back(3, 0, 1).feed([40], [41], [42, 43]).feed([50], [51], [52])


def test_after_taking_back_twice_across_a_hole():
    # The last column of row 0 is a hole already: its last real token lies before it.
    ragged().take_back(2, 0, 1).take_back(1, 1, 0).feed([40], [41], [42]).take_back(1, 3, 2).feed([43], [44], [45])


def test_columns_that_no_row_needs_are_given_back():
    checked = ragged().take_back(2, 0, 1)
    assert checked.columns == 9
    assert checked.take_back(0, 2, 1).feed([40], [41], [42]).columns == 7 + 1


def test_after_rows_left():
    ragged().take_back(1, 2, 0).keep_rows(2, 0).feed([40], [41, 42]).take_back(0, 1).feed([50], [51])


def test_after_holes_were_squeezed_out():
    checked = ragged().feed([20], [21], [22]).take_back(1, 4, 0).feed([30], [31], [32]).squeeze()
    assert checked.columns == max(map(len, checked.rows))
    checked.feed([40], [41], [42]).take_back(1, 0, 1).feed([50], [51], [52])


def test_holes_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(runner_module, "_MOST_HOLES", 4)
    checked = Checked().feed([5, 6], [7, 8])
    for step in range(12):
        checked.feed([20 + step] * 3, [30 + step] * 3, last=3).take_back(2, 0)
        checked.feed([40 + step], [50 + step]).take_back(0, 3)
    assert checked.columns <= max(map(len, checked.rows)) + 4 + 4


def test_holes_left_by_a_row_that_ended_are_squeezed_out_too(monkeypatch):
    monkeypatch.setattr(runner_module, "_MOST_HOLES", 4)
    checked = ragged().keep_rows(0)
    assert checked.columns == 3
    checked.feed([20])


@pytest.mark.parametrize("first_is_longer", [True, False])
def test_after_other_rows_joined(first_is_longer):
    checked, short = ragged().take_back(1, 2, 0), Checked().feed([60, 61], [62])
    pair = (checked, short) if first_is_longer else (short, checked)
    joined = pair[0].join(pair[1])
    joined.feed(*[[70 + i] for i in range(5)]).take_back(0, 1, 0, 1, 0).feed(*[[80 + i] for i in range(5)])


def test_joining_an_empty_runner_takes_the_other_over():
    Checked().join(ragged()).feed([40], [41], [42])


def test_keeping_rows_before_anything_was_fed_does_nothing():
    checked = Checked()
    checked.runner.keep_rows([0])
    checked.feed([5, 6], [7])


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_these_keeps_the_cache_right(seed, monkeypatch):
    monkeypatch.setattr(runner_module, "_MOST_HOLES", 6)
    rng = random.Random(seed)

    def ids(most):
        return [rng.randrange(2, 258) for _ in range(rng.randint(1, most))]

    checked = Checked().feed(ids(6), ids(6), ids(6))
    for _ in range(25):
        action = rng.choice(["feed", "feed", "take_back", "keep_rows", "squeeze", "join"])
        if action == "feed":
            checked.feed(*[ids(4) for _ in checked.rows])
        elif action == "take_back":
            checked.take_back(*[rng.randint(0, min(3, len(row) - 1)) for row in checked.rows])
        elif action == "keep_rows" and len(checked.rows) > 2:
            checked.keep_rows(*rng.sample(range(len(checked.rows)), len(checked.rows) - 1))
        elif action == "squeeze":
            checked.squeeze()
        elif action == "join" and len(checked.rows) < 5:
            checked.join(Checked().feed(ids(8), ids(3)))
    checked.feed(*[ids(2) for _ in checked.rows])


def test_a_sliding_window_is_refused():
    config = MistralConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=8,
        bos_token_id=0,
        eos_token_id=1,
    )
    with pytest.raises(DraftbenchError, match="DynamicSlidingWindowLayer") as refused:
        Runner(MistralForCausalLM(config))
    assert "full attention" in refused.value.fix


def test_a_static_cache_is_refused():
    config = LlamaConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, vocab_size=20)
    with pytest.raises(DraftbenchError, match="StaticLayer"):
        refuse_unfit_cache(MODEL, StaticCache(config=config, max_cache_len=8))


def test_a_model_that_takes_no_positions_decodes_ragged_rows_if_it_reads_the_mask():
    config = BloomConfig(vocab_size=258, hidden_size=32, n_layer=2, n_head=2, initializer_range=0.2)
    checked = Checked(BloomForCausalLM(config).eval())
    checked.feed([5, 6, 7], [8] * 9).feed([20, 21], [22, 23], last=2).take_back(1, 2).feed([30], [31])


def test_rows_with_a_cache_each_have_no_holes():
    runner = RowByRow(MODEL)
    runner.keep_rows([0])  # before anything was fed
    logits = runner.feed([[5, 6, 7], [8] * 9], last=1)
    assert (logits.shape, runner.hidden.shape) == ((2, 1, 258), (2, 1, 32))
    runner.feed([[20, 21, 22], [23, 24, 25]], last=3)
    runner.take_back([2, 0])
    other = RowByRow(MODEL)
    other.feed([[60, 61]], last=1)
    runner.join(other)
    runner.keep_rows([2, 0])
    found = runner.feed([[40], [41, 42]], last=1)[:, -1]
    for row, ids in zip(found, [[60, 61, 40], [5, 6, 7, 20, 41, 42]], strict=True):
        torch.testing.assert_close(row, MODEL(input_ids=torch.tensor([ids])).logits[0, -1], rtol=1e-4, atol=1e-4)
    assert all(bool(row.mask.all()) for row in runner.rows)
