"""Timed pairs: the same work both ways, in turn; and the medians made of hand-written rounds."""

import pytest
import torch

from engine.decode.events import Fate, Round, Token
from engine.decode.sampling import Sampling
from engine.decode.speculative import FixedLength
from engine.measure import speed
from engine.measure.speed import TimedAnswer, forward_times, time_pairs, time_split
from tests.conftest import tiny_llama
from tests.tiny_pair import noisy_copy

torch.set_num_threads(1)
TARGET, NOISY = tiny_llama(), noisy_copy()


def timed(prompts, **options):
    names = [f"p{i}" for i in range(len(prompts))]
    options = {"max_new_tokens": 6, "seed": 0, **options}
    return time_pairs(TARGET, NOISY, prompts, names, Sampling(0.0), lambda: FixedLength(2), **options)


def test_the_two_ways_alternate_and_do_the_same_work():
    answers = timed([[5, 6], [7], [8, 9]])
    assert [(a.prompt_id, a.way) for a in answers] == [
        ("p0", "plain"), ("p0", "speculative"), ("p1", "speculative"), ("p1", "plain"),
        ("p2", "plain"), ("p2", "speculative"),
    ]  # fmt: skip
    assert {a.tokens for a in answers} == {6}
    assert all(a.seconds > 0 for a in answers)
    assert all((a.rounds[0].drafted > 0) == (a.way == "speculative") for a in answers)


def test_the_end_of_sequence_does_not_shorten_the_work(monkeypatch):
    first = next(iter(timed([[5, 6]])[0].rounds)).emitted[0]
    monkeypatch.setattr(TARGET.generation_config, "eos_token_id", first)
    assert [a.tokens for a in timed([[5, 6]])] == [6, 6]


def test_each_way_is_warmed_up_once_before_the_clock(monkeypatch):
    calls = []
    for name in ("plain_decode", "speculative_decode"):
        decode = getattr(speed, name)

        def counted(*args, _name=name, _decode=decode, **options):
            calls.append(_name)
            return _decode(*args, **options)

        monkeypatch.setattr(speed, name, counted)
    assert len(timed([[5, 6]])) == 2
    assert calls == ["plain_decode", "speculative_decode"] * 2


def fake_round(drafted, draft_s, verify_s, overhead_s, number=1):
    fates = [Fate.ACCEPTED] * drafted + [Fate.BONUS]
    return Round(0, number, drafted, tuple(Token(5, f, 0) for f in fates), draft_s, verify_s, overhead_s)


PREFILL = fake_round(2, 50.0, 90.0, 70.0, number=0)


def fake_answers(rounds):
    plain = [fake_round(0, 0.0, s, 0.0) for s in (1.0, 2.0, 9.0)]
    return [
        TimedAnswer("p", "plain", 4, 12.0, [PREFILL, *plain]),
        TimedAnswer("p", "speculative", 4, 9.0, [PREFILL, *rounds]),
    ]


def test_forward_times_are_medians_without_the_prefill_at_the_full_gamma():
    rounds = [fake_round(2, 1.0, 3.0, 0.1), fake_round(2, 2.0, 4.0, 0.2), fake_round(2, 8.0, 5.0, 0.9)]
    times = forward_times(fake_answers([*rounds, fake_round(1, 100.0, 100.0, 100.0)]), 2)
    assert (times.plain_s, times.draft_s, times.verify_s, times.overhead_s) == (2.0, 1.0, 4.0, 0.2)
    assert times.cost_ratio == 0.5


def test_forward_times_fall_back_to_shorter_proposals():
    times = forward_times(fake_answers([fake_round(1, 0.5, 3.0, 0.1)] * 3), 4)
    assert (times.draft_s, times.verify_s) == (0.5, 3.0)


def test_time_split_is_of_speculative_decoding_and_sums_to_one():
    rounds = [fake_round(2, 1.0, 3.0, 0.5)] * 2
    split = time_split([TimedAnswer("p", "plain", 4, 12.0, [PREFILL]), TimedAnswer("p", "speculative", 4, 9.0, rounds)])
    assert split == pytest.approx({"draft": 2 / 9, "verify": 6 / 9, "overhead": 1 / 9})
