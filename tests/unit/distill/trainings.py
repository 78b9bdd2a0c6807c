"""Trainings of the tiny pair, and what must be the same of two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from engine.capture.batches import Batch
from engine.capture.store import Capture
from engine.config.schema import TrainSpec
from engine.distill.modes.offline import OfflineBatches
from engine.distill.trainer import Outcome, Trainer
from engine.fileio import sha256_file
from engine.models.head import Head
from engine.models.load import LoadedModel
from tests.tiny_pair import draft_of, into

STEPS = 7


def settings(**changes: Any) -> TrainSpec:
    return TrainSpec(
        **{
            "batch_size": 3,
            "epochs": 99,
            "max_steps": STEPS,
            "learning_rate": 0.01,
            "precision": "float32",
            "eval_every": 2,
            "checkpoint_every": 3,
            **changes,
        }
    )


def score(model: Any) -> dict[float, float]:
    """Stands in for the measured acceptance: some number between 0 and 1 that follows the weights."""
    total = sum(float(p.detach().double().abs().sum()) for p in model.parameters() if p.requires_grad)
    return {0.0: math.sin(total) ** 2, 1.0: math.cos(total * 3) ** 2}


def trainer_in(
    folder: Path, target: LoadedModel, capture: Capture, spec: TrainSpec | None = None, **more: Any
) -> Trainer:
    spec = spec or settings()
    source = more.pop("source", OfflineBatches)(capture, spec, Head.of(target.model), target.device)
    draft = more.pop("draft", None) or draft_of(target)
    return Trainer(draft, source, spec, folder, **{"evaluate": score, **more})


def step_gradients(trainer: Trainer, step: int = 0) -> tuple[float, list[torch.Tensor]]:
    """Loss a token and gradients of one optimiser step, before clipping."""
    kept: list[torch.Tensor] = []

    def keep() -> torch.Tensor:
        kept.extend(p.grad.clone() for p in trainer.trained if p.grad is not None)
        return torch.ones(())

    trainer.clip = keep
    events: list[dict[str, Any]] = []
    trainer.emit = into(events)
    trainer._step(step)
    return events[-1]["loss"], kept


def fingerprint(folder: Path, outcome: Outcome) -> dict[str, Any]:
    """Weights and everything else of a finished run that must not depend on how often it was broken off."""
    numbers = {key: value for key, value in asdict(outcome).items() if key != "seconds"}
    return {which: sha256_file(folder / "draft" / which / "draft.safetensors") for which in ("best", "last")} | numbers


class PowerCut(BaseException):
    """Nothing in the engine may catch it, as nothing catches a power cut."""


class Poisoned(OfflineBatches):
    """The losses of step 4 (from 0) are weighted with something that is not a number."""

    def micro_batches(self, step: int) -> Sequence[Batch]:
        batches = super().micro_batches(step)
        return batches if step != 4 else [replace(b, weights=torch.full((b.tokens, 1), math.nan)) for b in batches]
