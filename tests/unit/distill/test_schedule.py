"""Which answers a step sees and at what rate: pure functions of the recipe, so that a resumed run sees the same."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest
import torch

from engine.config.schema import TrainSpec
from engine.distill.schedule import (
    Passes,
    answers_per_step,
    forward_tokens,
    learning_rate,
    planned_steps,
    step_answers,
    total_steps,
)


def settings(**changes: Any) -> TrainSpec:
    return TrainSpec(**changes)


@pytest.mark.parametrize(
    ("answers", "epochs", "batch_size", "most", "steps"),
    [
        (100, 1, 10, None, 10),
        (101, 1, 10, None, 11),
        (100, 2.5, 10, None, 25),
        (100, 0.01, 16, None, 1),
        (100, 6, 16, 7, 7),
        (100, 1, 16, 999, 7),
        (4, 6, 16, None, 6),
        (1, 3, 16, None, 3),
        (50, 1.1, 5, None, 11),  # 50 * 1.1 is a little over 55
        (3, 1e-9, 2, None, 1),
    ],
)
def test_steps_cover_the_epochs_asked_for(answers: int, epochs: float, batch_size: int, most: int | None, steps: int):
    assert total_steps(answers, settings(epochs=epochs, batch_size=batch_size, max_steps=most)) == steps


@pytest.mark.parametrize(("answers", "batch_size"), [(12, 4), (12, 12), (12, 1), (5, 16)])
def test_every_answer_is_seen_once_an_epoch(answers: int, batch_size: int):
    spec = settings(epochs=3, batch_size=batch_size)
    steps = total_steps(answers, spec)
    seen = [step_answers(answers, spec, step) for step in range(steps)]
    each = steps // 3
    for epoch in range(3):
        drawn = [i for step in seen[epoch * each : (epoch + 1) * each] for i in step]
        assert sorted(drawn) == list(range(answers))


def test_no_answer_is_added_by_rounding_and_a_step_is_never_empty():
    eleven, least = settings(epochs=1.1, batch_size=5), settings(epochs=1e-9, batch_size=2)
    assert sum(len(step_answers(50, eleven, step)) for step in range(11)) == 55
    assert len(step_answers(3, least, 0)) == 1


def test_an_epoch_that_ends_within_a_step_runs_on_into_the_next():
    spec = settings(epochs=10, batch_size=3)
    seen = Counter(i for step in range(total_steps(7, spec)) for i in step_answers(7, spec, step))
    assert set(seen) == set(range(7))
    assert max(seen.values()) <= 11  # the last step runs on into an eleventh epoch
    assert sum(seen.values()) >= 60  # an answer met twice across a seam counts once: a few of 72 are lost
    assert all(len(set(step)) == len(step) for step in (step_answers(7, spec, s) for s in range(20)))


def test_epochs_are_shuffled_anew_and_follow_the_seed():
    one, other = settings(batch_size=20, seed=1), settings(batch_size=20, seed=2)
    assert step_answers(20, one, 0) == step_answers(20, one, 0)
    assert len({tuple(step_answers(20, s, step)) for s in (one, other) for step in range(3)}) == 6


def test_the_rate_rises_linearly_then_falls():
    spec = settings(learning_rate=2.0, warmup_fraction=0.2, schedule="linear")
    rates = [learning_rate(step, 20, spec) for step in range(20)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[5:] == pytest.approx([2.0 * (1 - i / 16) for i in range(1, 16)])


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("constant", 1.0, 1.0), ("linear", 0.5, 0.1), ("cosine", 0.5, 0.024472)]
)
def test_the_schedule_after_the_warm_up(schedule: str, middle: float, end: float):
    spec = settings(learning_rate=1.0, warmup_fraction=0.0, schedule=schedule)
    assert learning_rate(0, 10, spec) == 1.0
    assert learning_rate(5, 10, spec) == pytest.approx(middle)
    assert learning_rate(9, 10, spec) == pytest.approx(end, rel=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.9])
def test_no_step_is_wasted_and_none_exceeds_the_peak(steps: int, schedule: str, warmup: float):
    spec = settings(learning_rate=1e-3, warmup_fraction=warmup, schedule=schedule)
    rates = [learning_rate(step, steps, spec) for step in range(steps)]
    assert all(0 < rate <= 1e-3 for rate in rates)
    assert max(rates) == 1e-3 or warmup == 0.9


@pytest.mark.parametrize(("answers", "batch", "epochs"), [(17, 16, 1), (50, 16, 1), (50, 8, 3), (10, 4, 2.5)])
def test_the_last_step_ends_with_the_last_epoch(answers: int, batch: int, epochs: float):
    spec = TrainSpec(batch_size=batch, epochs=epochs)
    steps = [step_answers(answers, spec, step) for step in range(total_steps(answers, spec))]
    assert all(steps)
    counts = Counter(index for step in steps for index in step)
    assert sum(counts.values()) >= math.ceil(answers * epochs) - len(steps)  # one met twice in a step counts once
    assert max(counts.values()) <= math.ceil(epochs)
    if epochs == 1:
        assert sorted(counts) == list(range(answers))
        assert set(counts.values()) == {1}


# ---- steps of so many tokens ----------------------------------------------------------------


LENGTHS = [3, 40, 7, 12, 1, 25, 9, 9, 18, 30]  # tokens of each answer, 154 in all


@pytest.mark.parametrize("epochs", [1, 2.5, 4])
@pytest.mark.parametrize("tokens", [40, 64, 100])
def test_a_step_of_tokens_takes_about_that_many(tokens: int, epochs: float):
    passes = Passes(LENGTHS, settings(epochs=epochs, batch_tokens=tokens))
    steps = [passes.answers(step) for step in range(passes.steps)]
    sizes = [sum(LENGTHS[i] for i in step) for step in steps]
    assert all(steps)
    assert all(size < tokens + max(LENGTHS) for size in sizes)
    assert not passes.answers(passes.steps)  # nothing is left
    seen = Counter(i for step in steps for i in step)
    if epochs == int(epochs):
        lost = len(LENGTHS) * int(epochs) - sum(seen.values())  # met twice within a step, across a seam
        assert set(seen) == set(range(len(LENGTHS)))
        assert 0 <= lost <= epochs
    else:
        assert sum(seen.values()) <= math.ceil(len(LENGTHS) * epochs)


def test_the_steps_of_tokens_can_be_written_to_a_checkpoint():
    passes = Passes(LENGTHS, settings(epochs=2, batch_tokens=40))
    assert json.loads(json.dumps(passes.steps)) == passes.steps > 1


def test_one_epoch_of_token_steps_is_each_answer_once():
    passes = Passes(LENGTHS, settings(epochs=1, batch_tokens=50))
    assert sorted(i for step in range(passes.steps) for i in passes.answers(step)) == list(range(len(LENGTHS)))


def test_a_batch_of_tokens_is_no_smaller_than_an_answer_and_no_larger_than_all():
    small, large = (Passes(LENGTHS, settings(epochs=2, batch_tokens=tokens)) for tokens in (1, 10**6))
    assert all(small.answers(step) for step in range(small.steps))
    assert [sorted(large.answers(step)) for step in range(large.steps)] == [list(range(len(LENGTHS)))] * 2


@pytest.mark.parametrize("tokens", [1, 10, 250, 9999])
def test_visits_are_the_epochs_whatever_the_tokens_of_a_step(tokens: int):
    passes = Passes([100] * 5, settings(batch_tokens=tokens, batch_size=None, epochs=2))
    seen = sum(len(passes.answers(step)) for step in range(passes.steps))
    assert (passes.visits, seen) == (2, 10)


def test_steps_of_tokens_are_shuffled_by_seed_and_epoch_and_bounded():
    one, other = (Passes(LENGTHS, settings(epochs=99, batch_tokens=60, seed=seed)) for seed in (1, 2))
    assert one.answers(3) == one.answers(3)
    assert [one.answers(step) for step in range(4)] != [other.answers(step) for step in range(4)]
    assert Passes(LENGTHS, settings(epochs=99, batch_tokens=60, max_steps=5)).steps == 5


def test_the_number_of_token_steps_is_known_about_before_the_answers_are():
    spec = settings(epochs=3, batch_tokens=60)
    assert abs(planned_steps(len(LENGTHS), spec, sum(LENGTHS)) - Passes(LENGTHS, spec).steps) <= 1
    assert answers_per_step(len(LENGTHS), spec, sum(LENGTHS)) == pytest.approx(60 / 154 * 10)


def test_passes_of_a_number_of_answers_are_those_there_always_were():
    spec = settings(epochs=3, batch_size=4)
    passes = Passes(LENGTHS, spec)
    assert passes.steps == total_steps(10, spec)
    assert [passes.answers(s) for s in range(passes.steps)] == [step_answers(10, spec, s) for s in range(passes.steps)]


def test_a_forward_pass_is_larger_on_a_gpu_unless_the_recipe_says_how_large():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert forward_tokens(settings(), cpu) < forward_tokens(settings(), gpu)
    assert forward_tokens(settings(micro_batch_tokens=99), cpu) == forward_tokens(settings(micro_batch_tokens=99), gpu)
