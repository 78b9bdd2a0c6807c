"""The target's answers: right, and the same whatever prompts share their batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.capture import generate
from engine.capture.answer import Answer
from engine.capture.generate import answer_prompts
from engine.capture.grouping import Family
from engine.capture.rows import Rows, Task
from engine.capture.signal import SignalFormat, signal_format
from engine.config.schema import CaptureSpec
from engine.decode.sampling import Sampling, distribution
from engine.errors import DraftbenchError
from engine.models.head import Head
from tests.conftest import tiny_llama
from tests.tiny_families import random_model, small_config

pytestmark = pytest.mark.slow

# Prompts of very different lengths, more than one batch of them.
PROMPTS = [[0, 9], list(range(2, 40)), [0, 200, 7], [5], list(range(60, 75)), [0, 0, 8, 8], [100, 3], [0, 17, 4, 99, 6]]
NAMES = [f"p{i}" for i in range(len(PROMPTS))]
STOPS = frozenset(range(40, 70))  # a ninth of the vocabulary: answers end at very different lengths


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama()


def answers(model: Any, sampling: Sampling, batch_size: int, **changes: Any) -> dict[int, Answer]:
    settings: dict[str, Any] = {
        "max_new_tokens": 20,
        "stop_ids": STOPS,
        "seed": 3,
        "signal": SignalFormat("none", 32, 258, 1),
        **changes,
    }
    prompts, names = settings.pop("prompts", PROMPTS), settings.pop("names", NAMES)
    result = list(answer_prompts(model, prompts, names, sampling, batch_size=batch_size, **settings))
    assert sorted(a.index for a in result) == list(range(len(prompts)))
    return {a.index: a for a in result}


@pytest.mark.parametrize(
    ("changes", "fault", "words"),
    [
        ({"max_new_tokens": 0}, ValueError, "count from 1"),
        ({"prompts": [[5], []], "names": ["a", "b"]}, DraftbenchError, "prompt 'b' has no tokens"),
        ({"names": ["a"]}, ValueError, "1 names for 8 prompts"),
    ],
)
def test_what_has_no_answer_is_refused(model: Any, changes: dict[str, Any], fault: type[Exception], words: str):
    with pytest.raises(fault, match=words):
        answers(model, Sampling(0), 2, **changes)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_greedy_answers_are_those_of_transformers(model: Any, batch_size: int):
    mine = answers(model, Sampling(0), batch_size)
    for index, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        theirs = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, eos_token_id=sorted(STOPS)
        )
        assert mine[index].token_ids == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.7, top_k=20), Sampling(1.2, top_p=0.9)], ids=str)
def test_a_sampled_answer_does_not_depend_on_its_batch(model: Any, sampling: Sampling):
    """In float32; the prompts that share a batch change and so does the order in which slots are filled."""
    alone = answers(model, sampling, 1)
    lengths = {len(a.token_ids) for a in alone.values()}
    assert len(lengths) > 3, "the answers must end at different steps to test refilling"
    for batch_size in (2, 3, 8, 64):
        together = answers(model, sampling, batch_size)
        assert {i: a.token_ids for i, a in together.items()} == {i: a.token_ids for i, a in alone.items()}
    some = answers(model, sampling, 3, prompts=PROMPTS[::-2], names=NAMES[::-2])
    assert [some[i].token_ids for i in range(4)] == [alone[i].token_ids for i in (7, 5, 3, 1)]


@pytest.mark.parametrize("pass_tokens", [0, 5, 10**6])
@pytest.mark.parametrize("batch_size", [2, 5, 16])
def test_what_prompts_share_is_read_once_and_changes_no_answer(
    model: Any, monkeypatch: pytest.MonkeyPatch, pass_tokens: int, batch_size: int
):
    beginnings = [[*range(100, 130)], [*range(200, 212)], [0, 1]]
    prompts = [[*beginning, *prompt] for prompt in PROMPTS for beginning in beginnings]
    names = [f"p{i}" for i in range(len(prompts))]
    given = {"prompts": prompts, "names": names, "signal": signal_format("exact", model, 1)}
    expected = answers(model, Sampling(1.0), 1, **given)
    monkeypatch.setattr(generate, "PASS_TOKENS", pass_tokens)
    assert_same(answers(model, Sampling(1.0), batch_size, **given), expected)


def test_the_seed_and_the_name_choose_the_draws(model: Any):
    one = answers(model, Sampling(1.0), 8, prompts=[PROMPTS[0]] * 3, names=["a", "b", "a"])
    assert one[0].token_ids == one[2].token_ids != one[1].token_ids
    other = answers(model, Sampling(1.0), 8, prompts=[PROMPTS[0]], names=["a"], seed=4)
    assert other[0].token_ids != one[0].token_ids


def test_an_answer_ends_with_its_stop_token_or_at_the_limit(model: Any):
    result = answers(model, Sampling(1.0), 4, max_new_tokens=6)
    assert {a.finish_reason for a in result.values()} == {"stop", "length"}
    for answer in result.values():
        stopped = answer.finish_reason == "stop"
        assert (answer.token_ids[-1] in STOPS) == stopped
        assert stopped or len(answer.token_ids) == 6
        assert not STOPS & set(answer.token_ids[:-1])


def test_a_stop_token_at_the_limit_counts_as_a_stop(model: Any):
    first = answers(model, Sampling(0), 1, max_new_tokens=1)[1].token_ids[0]
    again = answers(model, Sampling(0), 1, max_new_tokens=1, stop_ids=frozenset([first]))
    assert (again[1].token_ids, again[1].finish_reason) == ([first], "stop")


def test_no_prompts_give_no_answers(model: Any):
    assert answers(model, Sampling(0), 4, prompts=[], names=[]) == {}


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("kind", ["exact", "compact"])
def test_each_signal_row_is_the_targets_distribution_where_its_token_was_drawn(model: Any, kind: str, batch_size: int):
    form = signal_format(kind, model, 64)
    result = answers(model, Sampling(1.0), batch_size, signal=form)
    for index, prompt in enumerate(PROMPTS):
        tokens = result[index].token_ids
        with torch.no_grad():
            forced = model(input_ids=torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
        assert result[index].signal.shape == (len(tokens), form.bytes_per_token)
        target, truth = form.decode(result[index].signal, Head.of(model)).align(forced, 1.0)
        total_variation = (target.exp() - truth.exp()).abs().sum(-1) / 2
        # bfloat16 keeps 8 bits of each of 32 hidden numbers; a row off by one would be at 0.9
        assert total_variation.max() < 0.02


def test_sampling_settings_do_not_touch_the_signal(model: Any):
    """The signal is the target's plain distribution; what top-k leaves of it is worked out by who reads it."""
    form = signal_format("exact", model, 64)
    everyone = len(
        PROMPTS
    )  # at once, or the first forwards of later ones had other rows beside them, and other rounding
    plain = answers(model, Sampling(1.0), everyone, signal=form)
    greedy = answers(model, Sampling(0), everyone, signal=form)
    for index in range(len(PROMPTS)):
        assert torch.equal(plain[index].signal[0], greedy[index].signal[0])


def test_draws_follow_the_distribution(model: Any):
    """The first tokens of 3,000 names are spread as the target says, within five standard errors."""
    count = 3000
    result = answers(
        model,
        Sampling(0.5),
        1500,
        prompts=[PROMPTS[0]] * count,
        names=[f"n{i}" for i in range(count)],
        max_new_tokens=1,
    )
    with torch.no_grad():
        probs = distribution(model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1], Sampling(0.5)).double()
    seen = torch.bincount(torch.tensor([result[i].token_ids[0] for i in range(count)]), minlength=258) / count
    error = (probs * (1 - probs) / count).sqrt()
    assert ((seen - probs).abs() <= 5 * error + 1e-3).all()


def test_generating_leaves_no_hook_behind(model: Any):
    answers(model, Sampling(0), 4, max_new_tokens=2)
    stream = answer_prompts(
        model,
        PROMPTS,
        NAMES,
        Sampling(0),
        max_new_tokens=9,
        stop_ids=STOPS,
        seed=0,
        batch_size=2,
        signal=signal_format("exact", model, 1),
    )
    next(stream)
    stream.close()
    assert not model.get_output_embeddings()._forward_pre_hooks


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make the host read ids some passes late, as it does on a GPU."""

    def read_late(passes: int) -> None:
        monkeypatch.setattr(generate, "Rows", lambda task, size, lag: Rows(task, size, passes))

    return read_late


@pytest.mark.parametrize("lag", [1, 2, 5])
@pytest.mark.parametrize("most", [1, 2, 20, 70])
def test_ids_that_are_read_late_change_nothing(model: Any, late: Callable[[int], None], lag: int, most: int):
    """Not the texts, nor the signal: what a row writes after its end is dropped."""
    form = signal_format("exact", model, 1)
    for sampling in (Sampling(0), Sampling(1.0)):
        at_once = answers(model, sampling, 3, max_new_tokens=most, signal=form)
        late(lag)
        assert_same(answers(model, sampling, 3, max_new_tokens=most, signal=form), at_once)
        late(0)


def test_only_finished_reads_the_device(model: Any, monkeypatch: pytest.MonkeyPatch):
    """Once a pass; a step itself is launched without waiting for any value."""
    task = Task(model, PROMPTS, NAMES, Sampling(1.0), 20, STOPS, 3, signal_format("exact", model, 1), None)
    rows, waits = Rows(task, 4, lag=1), list[str]()
    rows.enter([Family([0]), Family([1])])
    rows.enter([Family([2]), Family([3])])
    for name in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda *given, real=real, name=name: (waits.append(name), real(*given))[1]
        )
    rows.step()
    rows.step()
    assert waits == []
    list(rows.finished())
    assert waits == ["tolist"] * 3  # of two entries and a step; the last step is still on its way


def assert_same(some: dict[int, Answer], others: dict[int, Answer]) -> None:
    assert {i: (a.token_ids, a.finish_reason) for i, a in some.items()} == {
        i: (a.token_ids, a.finish_reason) for i, a in others.items()
    }
    for index, answer in some.items():
        assert answer.signal.shape == others[index].signal.shape
        close = answer.signal.view(torch.bfloat16).float() - others[index].signal.view(torch.bfloat16).float()
        assert close.abs().max() < 0.05  # rows beside it differ, and so does the rounding


def test_no_row_reads_beyond_the_end_of_the_context(late: Callable[[int], None]):
    """GPT-2 has a table of positions. Rows that ended, and rows whose end is not known yet, decode on within it."""
    longest = max(map(len, PROMPTS))
    small = random_model(small_config("gpt2", n_positions=longest + 20, vocab_size=258))
    expected = answers(small, Sampling(0), 1, signal=signal_format("exact", small, 1))
    for lag in (0, 1, 4):
        late(lag)
        assert_same(answers(small, Sampling(0), 3, signal=signal_format("exact", small, 1)), expected)


def test_where_memory_does_not_suffice_the_batch_is_halved_and_nothing_is_lost(
    model: Any, monkeypatch: pytest.MonkeyPatch
):
    expected = answers(model, Sampling(1.0), 1)
    real, fed = Rows.step, list[int]()

    def step(rows: Rows) -> None:
        fed.append(rows.busy)
        if len(fed) > 3 and rows.free + rows.busy > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(rows)

    monkeypatch.setattr(Rows, "step", step)
    with pytest.raises(torch.OutOfMemoryError):
        answers(model, Sampling(1.0), 8)
    fed.clear()
    sizes: list[int] = []
    result = answers(model, Sampling(1.0), 8, halved=sizes.append)
    assert sizes == [4, 2]
    assert {i: a.token_ids for i, a in result.items()} == {i: a.token_ids for i, a in expected.items()}


def test_one_row_without_memory_is_an_error(model: Any, monkeypatch: pytest.MonkeyPatch):
    def step(rows: Rows) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Rows, "step", step)
    sizes: list[int] = []
    with pytest.raises(torch.OutOfMemoryError):
        answers(model, Sampling(1.0), 5, halved=sizes.append)
    assert sizes == [2, 1]


def test_the_default_answer_is_sampled_at_temperature_one():
    assert (CaptureSpec().temperature, CaptureSpec().top_p, CaptureSpec().top_k) == (1.0, 1.0, 0)
