"""Which answers go into which optimiser step, and at what learning rate: pure functions of the recipe.

Nothing is drawn while training runs, so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

import math

import numpy as np

from engine.config.schema import TrainSpec


def total_steps(answers: int, settings: TrainSpec) -> int:
    """Optimiser steps of a run over that many answers."""
    steps = max(1, math.ceil(answers * settings.epochs / _step_size(answers, settings)))
    return min(steps, settings.max_steps) if settings.max_steps else steps


def planned_steps(answers: int, settings: TrainSpec) -> int:
    """Optimiser steps of a run over that many answers, in whatever mode."""
    return settings.own.steps(answers) if settings.own.one_pass else total_steps(answers, settings)


def answers_per_step(answers: int, settings: TrainSpec) -> float:
    """New answers that an optimiser step is made of, on average."""
    return settings.own.answers_per_step() if settings.own.one_pass else _step_size(answers, settings)


def _step_size(answers: int, settings: TrainSpec) -> int:
    """Answers per step: a batch larger than the capture would skip passes over it."""
    return min(settings.batch_size, answers)


def step_answers(answers: int, settings: TrainSpec, step: int) -> list[int]:
    """Indices of the answers of one step: shuffled anew each epoch, an epoch runs on into the next step.

    The last step ends with the last epoch, so that one epoch is each answer once, whatever the batch.
    """
    size = _step_size(answers, settings)
    wanted = range(step * size, min((step + 1) * size, math.ceil(answers * settings.epochs)))
    orders = {epoch: _order(answers, settings.seed, epoch) for epoch in {i // answers for i in wanted}}
    indices = [int(orders[i // answers][i % answers]) for i in wanted]
    return list(dict.fromkeys(indices))  # an answer met twice across the seam of two epochs counts once


def _order(answers: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(answers)


def learning_rate(step: int, steps: int, settings: TrainSpec) -> float:
    """Rate of optimiser step `step` (from 0): linear warm-up, then the schedule down to nothing."""
    warmup = round(settings.warmup_fraction * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[settings.schedule]
    return settings.learning_rate * factor
