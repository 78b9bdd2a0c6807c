"""Recorded steps: on a CPU their functions are called plainly, so what is tested here is all but the graph itself."""

import gc
from contextlib import contextmanager, nullcontext

import pytest
import torch

from engine.decode import runner as runner_module
from engine.decode import step_graphs
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.slot_runner import SlotRunner
from engine.decode.speculative import speculative_decode
from engine.decode.step_graphs import StepGraphs, rounded, rounded_slots
from tests.conftest import tiny_llama
from tests.tiny_pair import noisy_copy

torch.set_num_threads(1)
PROMPTS = [[5, 6, 7], [8] * 9, [9, 10, 11, 12, 13], [200], [3] * 20]


def test_shapes_are_rounded_to_few():
    assert sorted({rounded(n) for n in range(1, 33)}) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    assert all(n <= rounded(n) <= 2 * n for n in range(1, 200))
    assert [rounded_slots(n) for n in (1, 256, 257, 512, 513, 769)] == [256, 256, 512, 512, 768, 1024]


def told(recorded, monkeypatch, sampling, proposals):
    monkeypatch.setattr(
        runner_module,
        "SlotRunner",
        lambda model, *, is_draft, slots: SlotRunner(model, is_draft=is_draft, slots=slots, recorded=recorded),
    )
    settings = DecodeSettings(sampling, FixedLength(3), 20, frozenset(range(40, 60)), proposals=proposals)
    rounds = speculative_decode(tiny_llama(), noisy_copy(), PROMPTS, settings)
    return [(r.row, r.number, r.finish_reason, [(t.token_id, t.fate, t.uniform) for t in r.tokens]) for r in rounds]


@pytest.mark.slow
@pytest.mark.parametrize("proposals", ["sampled", "argmax"])
@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0)], ids=str)
def test_rounds_are_the_same_recorded_and_not(monkeypatch, sampling, proposals):
    assert told(True, monkeypatch, sampling, proposals) == told(False, monkeypatch, sampling, proposals)


def test_a_shape_is_recorded_once_and_again_only_after_the_cache_has_moved():
    runner = SlotRunner(tiny_llama(), recorded=True)
    runner.feed([[5] * 4, [6] * 7], last=1)
    for _ in range(5):
        runner.feed([[7], [8]], last=1)
    assert len(runner.graphs) == 1
    runner.feed([[7, 8], [9, 10]], last=1)
    assert len(runner.graphs) == 2
    runner.feed([[1] * 250, [2] * 250], last=1)  # too wide to be recorded, and more than was allocated
    runner.feed([[7], [8]], last=1)
    assert len(runner.graphs) == 1


def test_what_was_recorded_is_left_to_the_next_runner_of_the_model():
    model = tiny_llama()
    first = SlotRunner(model, recorded=True)
    first.feed([[5] * 4, [6] * 7], last=1)
    first.feed([[7], [8]], last=1)
    first.close()
    second = SlotRunner(model, recorded=True)
    assert second.graphs is first.graphs
    assert second.lengths == []
    assert SlotRunner(model, recorded=True).graphs is not first.graphs, "one cache belongs to one runner"


def test_nothing_is_left_to_a_model_whose_weights_have_moved():
    model = tiny_llama()
    first = SlotRunner(model, recorded=True)
    first.feed([[5]], last=1)
    first.close()
    model.double()
    assert SlotRunner(model, recorded=True).graphs is not first.graphs
    assert not step_graphs._left.get(model)


def test_a_step_that_cannot_be_recorded_is_run_as_it_is(monkeypatch, caplog):
    def fails(self, step, pool, device, side):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(step_graphs._Recorded, "record", fails)
    runner = SlotRunner(tiny_llama(), recorded=True)
    plain = SlotRunner(tiny_llama())
    for pending in ([[5] * 4, [6] * 7], [[7], [8]], [[7], [8]]):
        torch.testing.assert_close(runner.feed(pending, last=1), plain.feed(pending, last=1), rtol=1e-4, atol=1e-4)
    assert len([r for r in caplog.records if "without CUDA graphs" in r.message]) == 1
    assert runner.graphs.failed


def test_a_step_for_which_memory_did_not_suffice_is_not_taken_for_recorded(monkeypatch):
    """A caller may halve its batch, decode on, and come back to this shape."""
    model = tiny_llama()
    with monkeypatch.context() as patched:

        def no_memory(*_):
            raise torch.OutOfMemoryError("CUDA out of memory")

        patched.setattr(step_graphs._Recorded, "record", no_memory)
        first = SlotRunner(model, recorded=True)
        first.feed([[5] * 4], last=1)
        with pytest.raises(torch.OutOfMemoryError):
            first.feed([[7]], last=1)
        first.close()
    second, plain = SlotRunner(model, recorded=True), SlotRunner(model)
    assert second.graphs is first.graphs
    for pending in ([[5] * 4], [[7]]):
        torch.testing.assert_close(second.feed(pending, last=1), plain.feed(pending, last=1), rtol=1e-4, atol=1e-4)


def test_all_steps_of_a_runner_are_recorded_on_one_stream(streams, monkeypatch):
    made = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(device) or Stream("side"))
    monkeypatch.setattr(step_graphs, "at_card", lambda device: nullcontext())
    graphs = StepGraphs(tiny_llama())
    graphs._device = torch.device("cuda", 0)
    for width in (1, 2, 3):
        graphs.run(lambda ids, starts: ids, torch.zeros(1, width), torch.zeros(1), 256, 0)
    assert len(graphs) == 3
    assert len(made) == 1


@pytest.mark.slow
def test_a_runner_that_is_not_closed_leaves_nothing_behind():
    model = tiny_llama()
    SlotRunner(model, recorded=True).feed([[5]], last=1)
    gc.collect()
    assert step_graphs.taken_over(model) is None
    assert isinstance(SlotRunner(model, recorded=True).graphs, StepGraphs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_replay_the_step():
    model = tiny_llama().cuda()
    recorded, plain = SlotRunner(model, recorded=True), SlotRunner(model, recorded=False)
    for pending in (PROMPTS, [[7]] * 5, [[8]] * 5, [[9, 10]] * 5, [[11, 12]] * 5):
        torch.testing.assert_close(recorded.feed(pending, last=1), plain.feed(pending, last=1), rtol=1e-3, atol=1e-3)
        for one in (recorded, plain):
            one.take_back([0, 1, 0, 0, 0])
    assert not recorded.graphs.failed
    assert len(recorded.graphs) >= 2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_graphs_belong_to_the_card_of_the_model():
    model = tiny_llama().to("cuda:1")
    recorded, plain = SlotRunner(model, recorded=True), SlotRunner(model, recorded=False)
    for pending in (PROMPTS, [[7]] * 5, [[8]] * 5, [[9]] * 5):
        torch.testing.assert_close(recorded.feed(pending, last=1), plain.feed(pending, last=1), rtol=1e-3, atol=1e-3)
    assert not recorded.graphs.failed


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_round_does_not_ask_the_models_where_they_are(monkeypatch, temperature):
    """They look through their modules for it, and a GPU waits meanwhile."""
    monkeypatch.setattr(
        runner_module,
        "SlotRunner",
        lambda model, *, is_draft, slots: SlotRunner(model, is_draft=is_draft, slots=slots, recorded=True),
    )
    target, draft, asked = tiny_llama(), noisy_copy(), []
    found = type(target).device
    monkeypatch.setattr(type(target), "device", property(lambda self: asked.append(1) or found.fget(self)))
    settings = DecodeSettings(Sampling(temperature), FixedLength(2), 30, frozenset())
    counts = []
    for _ in speculative_decode(target, draft, [[5, 6, 7]], settings):
        counts.append(len(asked))
    assert len(counts) > 6
    assert counts[-2] == counts[3], "steps of all shapes but the last are recorded by then"


class Stream(str):
    """A stream by its name."""

    def wait_stream(self, other):
        pass


@pytest.fixture
def streams(monkeypatch):
    """torch.cuda as a recording uses it: the streams that were entered, the last of them the present one."""
    entered = [Stream("main of 0")]

    @contextmanager
    def stream(one):
        entered.append(one)
        try:
            yield
        finally:
            entered.append(Stream("main of 0"))

    class Graph:
        """As torch's: where it cannot end a recording, it does not leave its stream."""

        fails = False

        def __init__(self, graph, *, pool, stream, capture_error_mode):
            self.stream = stream

        def __enter__(self):
            entered.append(self.stream)

        def __exit__(self, *_):
            if Graph.fails:
                raise RuntimeError("operation failed due to a previous error during capture")
            entered.append(self.stream)

    class Recording:
        def replay(self):
            pass

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(f"side of {device.index}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(f"main of {device.index}"))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "graph", Graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    return entered, Graph


def test_a_step_is_recorded_on_a_stream_of_its_own_card(streams):
    entered, _ = streams
    met = []
    one = step_graphs._Recorded(torch.zeros(1, 1), torch.zeros(1))
    device = torch.device("cuda", 1)
    one.record(lambda ids, starts: met.append(entered[-1]) or ids, None, device, torch.cuda.Stream(device))
    assert met == ["side of 1"] * 3, "two that warm up, and the one that is recorded"
    assert entered[-1] == "main of 0"


def test_a_recording_that_fails_leaves_its_stream(streams, monkeypatch):
    entered, graph = streams
    monkeypatch.setattr(graph, "fails", True)
    one = step_graphs._Recorded(torch.zeros(1, 1), torch.zeros(1))
    device = torch.device("cuda", 1)
    with pytest.raises(RuntimeError, match="during capture"):
        one.record(lambda ids, starts: ids, None, device, torch.cuda.Stream(device))
    assert entered[-1] == "main of 0"
