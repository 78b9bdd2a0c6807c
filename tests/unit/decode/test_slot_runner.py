"""The cache of slots after every way of taking tokens back equals a forward that never saw them."""

import random
from functools import partial

import pytest
import torch
from transformers import LlamaConfig

from engine.decode.row_by_row import RowByRow
from engine.decode.slot_runner import SlotRunner
from engine.decode.slots import SlotCache
from engine.errors import DraftbenchError
from tests.conftest import tiny_llama
from tests.tiny_families import MIXED, random_model, small_config

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
MODEL = tiny_llama()
WINDOWED = random_model(small_config("gemma3_text"))  # windows of 4 in five layers of six
RUNNERS = {
    "slots": SlotRunner,
    "recorded": partial(SlotRunner, recorded=True),  # as on a GPU, with plain calls in place of graphs
    "row by row": RowByRow,
}


class Checked:
    """A runner beside the plain lists of what each row should hold; every feed is compared with a fresh forward."""

    def __init__(self, make=SlotRunner, model=MODEL):
        self.make, self.model, self.runner, self.rows = make, model, make(model), []

    def feed(self, *pending, last=1, tail=None):
        if not self.rows:
            self.rows = [[] for _ in pending]
        logits = self.runner.feed([list(ids) for ids in pending], last=last, tail=tail)
        more = [[]] * len(pending) if tail is None else tail.tolist()
        return self.compare([[*ids, *end] for ids, end in zip(pending, more, strict=True)], logits)

    def feed_ids(self, *pending):
        return self.compare(pending, self.runner.feed_ids(torch.tensor(pending)))

    def compare(self, read, logits):
        for row, ids, found in zip(self.rows, read, logits, strict=True):
            row += ids
            with torch.no_grad():
                fresh = self.model(input_ids=torch.tensor([row])).logits[0, -len(found) :]
            torch.testing.assert_close(found, fresh, rtol=1e-4, atol=1e-4)  # kernels of other shapes round otherwise
        assert self.runner.lengths == [len(row) for row in self.rows]
        assert self.runner.hidden.shape[:2] == logits.shape[:2]
        return self

    def take_back(self, *counts):
        self.runner.take_back(list(counts))
        for row, count in zip(self.rows, counts, strict=True):
            del row[len(row) - count :]
        return self

    def keep_rows(self, *rows):
        self.runner.keep_rows(list(rows))
        self.rows = [list(self.rows[i]) for i in rows]
        return self

    def replace(self, rows, other):
        self.runner.replace(rows, other.runner)
        for row, ids in zip(rows, other.rows, strict=True):
            self.rows[row] = ids
        return self


@pytest.fixture(params=RUNNERS.values(), ids=RUNNERS)
def make(request):
    return request.param


@pytest.fixture(params=[MODEL, WINDOWED], ids=["full", "windowed"])
def ragged(make, request):
    return Checked(make, request.param).feed([5, 6, 7], [8] * 9, [9, 10, 11, 12, 13])


def test_ragged_rows_see_only_themselves(ragged):
    ragged.feed([20], [21], [22]).feed([30, 31, 32], [33], [34, 35]).feed([41, 42], [43, 44], [45, 46], last=2)


def test_ids_on_the_device_are_read_like_those_of_the_host(ragged):
    ragged.feed_ids([20, 21], [22, 23], [24, 25]).feed_ids([30], [31], [32])


def test_a_tail_follows_rows_of_any_length(make):
    tail = torch.tensor([[40, 41], [42, 43], [44, 45]])
    checked = Checked(make).feed([5, 6, 7], [8] * 9, [9], last=3 - 1, tail=tail)
    checked.feed([50], [51], [52], last=3, tail=tail)


def test_after_all_rows_take_back_alike(ragged):
    ragged.take_back(2, 2, 2).feed([40], [41], [42])


def test_after_rows_take_back_differently(ragged):
    ragged.take_back(3, 0, 1).feed([40], [41], [42, 43]).feed([50], [51], [52])
    ragged.take_back(1, 1, 0).take_back(1, 0, 0).feed([40], [41], [42]).take_back(1, 3, 2).feed([43], [44], [45])


def test_a_token_is_read_again_in_its_place(ragged):
    """As a draft does at the beginning of every round."""
    ragged.feed([20], [21], [22]).take_back(1, 1, 1).feed([20, 30], [21, 31], [22, 32])


def test_after_rows_were_dropped_and_put_in_another_order(ragged):
    ragged.take_back(1, 2, 0).keep_rows(2, 0).feed([40], [41, 42]).take_back(0, 1).feed([50], [51])
    ragged.keep_rows(1).feed([60], last=1).feed([61, 62], last=2)


def test_rows_of_equal_length_grow_beyond_what_was_allocated(make):
    checked = Checked(make).feed([5] * 60, [6] * 60)
    for step in range(3):
        checked.feed([10 + step], [20 + step]).feed([*range(20)], [*range(30, 50)])


def test_rows_take_the_place_of_others(ragged):
    other = Checked(ragged.make, ragged.model).feed([60] * 12, [62])
    ragged.take_back(1, 0, 2).replace([2, 0], other).feed([40], [41], [42]).feed_ids([50, 51], [52, 53], [54, 55])


def test_keeping_rows_before_anything_was_fed_does_nothing(make):
    checked = Checked(make)
    checked.runner.keep_rows([0])
    checked.feed([5, 6], [7])


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_these_keeps_the_cache_right(make, seed):
    rng = random.Random(seed)

    def ids(most, least=1):
        return [rng.randrange(2, 258) for _ in range(rng.randint(least, most))]

    checked = Checked(make, WINDOWED if seed else MODEL).feed(ids(6), ids(6), ids(6))
    for _ in range(20):
        action = rng.choice(["feed", "feed_ids", "take_back", "keep_rows", "replace", "repeat"])
        if action == "feed":
            checked.feed(*[ids(4) for _ in checked.rows])
        elif action == "feed_ids":
            checked.feed_ids(*[ids(2, 2) for _ in checked.rows])
        elif action == "take_back":
            checked.take_back(*[rng.randint(0, min(3, len(row))) for row in checked.rows])
        elif action == "keep_rows" and len(checked.rows) > 2:
            checked.keep_rows(*rng.sample(range(len(checked.rows)), len(checked.rows) - 1))
        elif action == "replace":
            place = rng.randrange(len(checked.rows))
            checked.replace([place], Checked(make, checked.model).feed(ids(9)))
        elif action == "repeat" and len(checked.rows) < 5:
            checked.keep_rows(*range(len(checked.rows)), rng.randrange(len(checked.rows)))
    checked.feed(*[ids(2) for _ in checked.rows])


def test_a_state_is_refused():
    kind, settings = MIXED["LFM-2-MoE, dense first"]
    model = random_model(small_config(kind, **settings))
    with pytest.raises(DraftbenchError, match="keeps its past in layers of conv") as refused:
        SlotRunner(model)
    assert "without a recurrent" in refused.value.fix


def test_a_cache_is_allocated_once_where_its_length_is_known():
    runner = SlotRunner(MODEL, slots=100)
    runner.feed([[5] * 3, [6] * 4], last=1)
    keys = runner.cache.layers[0].keys
    for _ in range(9):
        runner.feed([[7] * 10, [8] * 10], last=1)
    assert runner.cache.layers[0].keys is keys
    assert runner.cache.moves == 1


def test_an_empty_cache_holds_nothing():
    cache = SlotCache(MODEL)
    assert (cache.get_seq_length(), cache.get_mask_sizes(5, 0)) == (0, (5, 0))
    assert len(cache.kinds) == LlamaConfig(**MODEL.config.to_dict()).num_hidden_layers
