"""Which answers a step sees and at what rate: pure functions of the recipe, so that a resumed run sees the same."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from engine.config.schema import TrainSpec
from engine.distill.schedule import learning_rate, step_answers, total_steps


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
