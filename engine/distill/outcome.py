"""What a training has done so far: its counts, steps that are not read yet, and how it ends if it diverges."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from engine.errors import DraftbenchError


@dataclass
class Outcome:
    """What a training run did. Steps asked for and steps done must be equal in the end.

    `tokens_seen`: tokens of the target's text, each epoch counted; `positions_trained`: those a loss was taken
    at, fewer where a mode learns from some positions alone. `steps_skipped` had nothing to learn from.
    `steps_by_processes`: a number of processes -> the steps that so many took; resumed, it may be another number.
    """

    steps: int
    steps_done: int = 0
    tokens_seen: int = 0
    positions_trained: int = 0
    steps_skipped: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_exact: float = -1.0
    first_exact: dict[str, float] = field(default_factory=dict)
    steps_by_processes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Taken:
    """An optimiser step whose loss and norm are still on the device."""

    step: int  # from 0
    learning_rate: float
    positions: int
    tokens_seen: int
    figures: torch.Tensor | None  # [2]: loss a position, gradient norm before clipping; None: it was skipped


def diverged(step: int, loss: float, norm: float, checkpoint: Path | None, learning_rate: float) -> DraftbenchError:
    """The error of a step (from 0) whose loss or gradient norm is no number. `checkpoint`: the newest one."""
    kept = (
        f"the checkpoint {checkpoint.name} and the best draft are kept" if checkpoint else "the untrained draft is kept"
    )
    return DraftbenchError(
        f"step {step + 1}: the loss is {loss} and the gradient norm {norm}",
        f"training has diverged; this step was not applied and {kept}",
        f"lower train.learning_rate (now {learning_rate:g}), raise warmup_fraction, or use precision: float32",
    )
