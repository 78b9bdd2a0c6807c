"""Timed answers: the same work in every way, in turn; and the medians made of hand-written rounds."""

import itertools
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig

from engine.decode import bare
from engine.decode.bare import generate
from engine.decode.events import Fate, Round, Token
from engine.decode.sampling import Sampling
from engine.decode.settings import NO_DRAFT, DecodeSettings, FixedLength
from engine.decode.speculative import plain_decode
from engine.measure import speed
from engine.measure.speed import (
    WAYS,
    TimedAnswer,
    forward_times,
    time_split,
    time_ways,
    turn,
)
from tests.conftest import tiny_llama
from tests.tiny_pair import noisy_copy

torch.set_num_threads(1)
TARGET, NOISY = tiny_llama(), noisy_copy()


def timed(prompts, **options):
    settings = DecodeSettings(Sampling(0.0), FixedLength(2), 6, frozenset())
    return time_ways(TARGET, NOISY, {f"p{i}": ids for i, ids in enumerate(prompts)}, settings, **options)


def test_the_ways_take_turns_and_do_the_same_work():
    answers = timed([[5, 6], [7], [8, 9]])
    assert [(a.prompt_id, a.way) for a in answers] == [
        ("p0", "plain"),
        ("p0", "speculative"),
        ("p0", "transformers"),
        ("p1", "speculative"),
        ("p1", "transformers"),
        ("p1", "plain"),
        ("p2", "transformers"),
        ("p2", "plain"),
        ("p2", "speculative"),
    ]
    assert {a.tokens for a in answers} == {6}
    assert all(a.seconds > 0 for a in answers)
    assert {a.way for a in answers if a.rounds} == {"plain", "speculative"}
    assert all((a.rounds[0].drafted > 0) == (a.way == "speculative") for a in answers if a.rounds)


def test_no_way_is_favoured_by_its_place_or_by_the_one_before_it():
    orders = [turn(WAYS, number) for number in range(6)]
    for place in range(3):
        assert set(Counter(order[place] for order in orders).values()) == {2}
    assert set(Counter(pair for order in orders for pair in itertools.pairwise(order)).values()) == {2}
    assert [turn(("a", "b"), number) for number in range(2)] == [["a", "b"], ["b", "a"]]


def plain_text(ids, sampling, count):
    rounds = plain_decode(TARGET, [ids], DecodeSettings(sampling, NO_DRAFT, count, frozenset()))
    return [token for r in rounds for token in r.emitted]


def test_generate_writes_our_own_greedy_text_whatever_the_models_settings(monkeypatch):
    own = plain_text([5, 6], Sampling(0.0), 12)
    settings = GenerationConfig(
        eos_token_id=own[2], do_sample=True, temperature=0.3, repetition_penalty=9.0, num_beams=2
    )
    monkeypatch.setattr(TARGET, "generation_config", settings)
    assert generate(TARGET, [5, 6], Sampling(0.0), max_new_tokens=12, seed=0) == own
    assert TARGET.generation_config is settings


@pytest.mark.slow
def test_generate_samples_from_the_same_distribution_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    drawn = {generate(TARGET, [5], Sampling(3.0), max_new_tokens=1, seed=s)[0] for s in range(150)}
    narrow = {generate(TARGET, [5], Sampling(3.0, top_k=2), max_new_tokens=1, seed=s)[0] for s in range(30)}
    assert len(drawn) > 55, "the library's own top_k of 50 is off"
    assert len(narrow) == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_the_end_of_sequence_does_not_shorten_the_work(monkeypatch):
    first = next(iter(timed([[5, 6]])[0].rounds)).emitted[0]
    monkeypatch.setattr(TARGET.generation_config, "eos_token_id", first)
    assert [a.tokens for a in timed([[5, 6]])] == [6, 6, 6]


def test_each_way_is_warmed_up_once_before_the_clock(monkeypatch):
    calls = []
    for holder, name in ((speed, "plain_decode"), (speed, "speculative_decode"), (bare, "generate")):
        decode = getattr(holder, name)

        def counted(*args, _name=name, _decode=decode, **options):
            calls.append(_name)
            return _decode(*args, **options)

        monkeypatch.setattr(holder, name, counted)
    assert len(timed([[5, 6]])) == 3
    assert calls == ["plain_decode", "speculative_decode", "generate"] * 2
    calls.clear()
    assert [a.way for a in timed([[5, 6]], ways=("plain", "speculative"))] == ["plain", "speculative"]
    assert "generate" not in calls


def test_on_a_cpu_the_warm_up_is_short(monkeypatch):
    limits = []
    plainly = speed.plain_decode
    monkeypatch.setattr(speed, "plain_decode", lambda *args: (limits.append(args[2].max_new_tokens), plainly(*args))[1])
    long = DecodeSettings(Sampling(0.0), FixedLength(2), 30, frozenset())
    (answer,) = speed.time_ways(TARGET, TARGET, {"p": [5, 6]}, long, ways=["plain"])
    assert (limits, answer.tokens) == ([8, 30], 30)


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
    """A plain step takes 2 s, two tokens 3 s, so five take 6 s: at 3 s four proposals would seem as cheap as one."""
    times = forward_times(fake_answers([fake_round(1, 0.5, 3.0, 0.1)] * 3 + [fake_round(2, 8.0, 9.0, 0.1)]), 4)
    assert (times.draft_s, times.verify_s, times.num_draft_tokens) == (0.5, 6.0, 4)


def test_time_split_is_of_speculative_decoding_and_sums_to_one():
    rounds = [fake_round(2, 1.0, 3.0, 0.5)] * 2
    split = time_split([TimedAnswer("p", "plain", 4, 12.0, [PREFILL]), TimedAnswer("p", "speculative", 4, 9.0, rounds)])
    assert split.document() == pytest.approx({"draft": 2 / 9, "verify": 6 / 9, "overhead": 1 / 9})


def test_on_a_gpu_every_prompt_is_decoded_before_it_is_timed():
    prompts = [[1, 2], [3], [4, 5, 6]]
    on = lambda device: SimpleNamespace(device=torch.device(device))  # noqa: E731
    assert speed._warm_up(on("cpu"), prompts, 48) == [([1, 2], 8)]
    assert speed._warm_up(on("cuda"), prompts, 48) == [([1, 2], 48), ([3], 48), ([4, 5, 6], 48)]
