"""Which answers go into which optimiser step, and at what learning rate: pure functions of the recipe.

Nothing is drawn while training runs, so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.capture.grouping import FORWARD_TOKENS
from engine.config.schema import TrainSpec

if TYPE_CHECKING:
    import torch

# Four layers of a small draft take 3 GB at that many positions; fewer leave the GPU waiting for launches.
_GPU_FORWARD_TOKENS = 16384


@dataclass(frozen=True)
class Passes:
    """Several shuffled passes over some answers, cut into optimiser steps. `tokens`: of each answer.

    Pass after pass the answers stand in a row. A step takes the next `batch_size` of them, or those that begin within
    the next `batch_tokens` tokens: every step then has about as many, and which they are follows from its number alone.
    """

    tokens: Sequence[int]
    settings: TrainSpec

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        if self.settings.batch_tokens is None:
            return total_steps(len(self.tokens), self.settings)
        last = _passed(len(self.tokens), self.settings) - 1
        epoch, place = divmod(last, len(self.tokens))
        begin = int(self._begin(epoch)[place])  # numpy's integers cannot be written to a checkpoint
        return _bounded(begin // self._step_tokens + 1, self.settings)

    @property
    def visits(self) -> float:
        """Times that an answer is learnt from, on average."""
        if self.settings.batch_tokens is None:
            each = answers_per_step(len(self.tokens), self.settings) / len(self.tokens)
        else:
            each = self._step_tokens / sum(self.tokens)
        return min(self.settings.epochs, self.steps * each)

    def answers(self, step: int) -> list[int]:
        """Indices of the answers of one step."""
        if self.settings.batch_tokens is None:
            return step_answers(len(self.tokens), self.settings, step)
        total, first, after = sum(self.tokens), step * self._step_tokens, (step + 1) * self._step_tokens
        count, indices = _passed(len(self.tokens), self.settings), []
        for epoch in range(first // total, (after - 1) // total + 1):
            begin, order = self._begin(epoch), _order(len(self.tokens), self.settings.seed, epoch)
            inside = (first <= begin) & (begin < after) & (np.arange(len(order)) < count - epoch * len(order))
            indices += order[inside].tolist()
        return list(dict.fromkeys(indices))  # an answer met twice across the seam of two epochs counts once

    @property
    def _step_tokens(self) -> int:
        """No more than all answers have, or passes would be skipped; no less than the longest, or a step were empty."""
        assert self.settings.batch_tokens is not None
        return max(max(self.tokens), min(self.settings.batch_tokens, sum(self.tokens)))

    def _begin(self, epoch: int) -> np.ndarray:
        """[answer]: the tokens that stand before each answer of an epoch, in the epoch's order."""
        lengths = np.asarray(self.tokens)[_order(len(self.tokens), self.settings.seed, epoch)]
        begin: np.ndarray = epoch * int(lengths.sum()) + np.cumsum(lengths) - lengths
        return begin


def total_steps(answers: int, settings: TrainSpec, tokens: float = 0) -> int:
    """Optimiser steps of a run over that many answers; with `batch_tokens` about, from the `tokens` of them all."""
    return _bounded(math.ceil(_passed(answers, settings) / _step_size(answers, settings, tokens)), settings)


def _bounded(steps: int, settings: TrainSpec) -> int:
    return min(max(1, steps), settings.max_steps or steps)


def _passed(answers: int, settings: TrainSpec) -> int:
    """Answers in all epochs together. 1.1 times 50 is 55.00000000000001, which is 55 and no step for one more."""
    return max(1, math.ceil(round(answers * settings.epochs, 6)))


def planned_steps(answers: int, settings: TrainSpec, tokens: float = 0) -> int:
    """Optimiser steps of a run over that many answers, in whatever mode."""
    return settings.own.steps(answers) if settings.own.one_pass else total_steps(answers, settings, tokens)


def answers_per_step(answers: int, settings: TrainSpec, tokens: float = 0) -> float:
    """New answers that an optimiser step is made of, on average."""
    return settings.own.answers_per_step() if settings.own.one_pass else _step_size(answers, settings, tokens)


def _step_size(answers: int, settings: TrainSpec, tokens: float = 0) -> float:
    """Answers per step: a batch larger than the capture would skip passes over it."""
    if settings.batch_size is not None:
        return min(settings.batch_size, answers)
    assert settings.batch_tokens is not None
    return answers * min(1.0, settings.batch_tokens / max(1.0, tokens))


def step_answers(answers: int, settings: TrainSpec, step: int) -> list[int]:
    """Indices of the answers of one step: shuffled anew each epoch, an epoch runs on into the next step.

    The last step ends with the last epoch, so that one epoch is each answer once, whatever the batch.
    """
    assert settings.batch_size is not None
    size = min(settings.batch_size, answers)
    wanted = range(step * size, min((step + 1) * size, _passed(answers, settings)))
    orders = {epoch: _order(answers, settings.seed, epoch) for epoch in {i // answers for i in wanted}}
    indices = [int(orders[i // answers][i % answers]) for i in wanted]
    return list(dict.fromkeys(indices))  # an answer met twice across the seam of two epochs counts once


def forward_tokens(settings: TrainSpec, device: torch.device) -> int:
    """Padded tokens of one forward pass: what the recipe says, else what suits the device."""
    if settings.micro_batch_tokens is not None:
        return settings.micro_batch_tokens
    return _GPU_FORWARD_TOKENS if device.type == "cuda" else FORWARD_TOKENS


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
