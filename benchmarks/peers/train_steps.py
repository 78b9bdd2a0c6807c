"""Optimiser steps by Draftbench's own trainer, of whatever checkout PYTHONPATH names.

    PYTHONPATH=CHECKOUT python benchmarks/peers/train_steps.py '{"target": ..., "capture": ..., "answers": 16, ...}'

A program of benchmarks/speed/training.py, which starts one for each checkout and asks them in turn.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from engine.capture.signal import signal_format
from engine.capture.store import Capture
from engine.config.schema import CaptureSpec, DraftSpec, ModelSpec, TrainSpec
from engine.distill.modes import BatchSource, Material, batch_source
from engine.distill.trainer import Trainer
from engine.models.draft import initialise_draft
from engine.models.load import LoadedModel, load_model


class Training:
    """A draft of some layers in training on a finished capture.

    `answers`: learn from this many answers, of those that have the full length; they are one optimiser step.
    `more`: other keys of a recipe's `train`.
    """

    def __init__(
        self, target: LoadedModel, capture: Path, *, layers: int, answers: int, tokens: int, more: dict[str, Any]
    ) -> None:
        self.target, self.answers, self.tokens, self.more = target, answers, tokens, more
        self.capture = Capture(capture, signal_format("exact", target.model, 0))
        whole = [answer for answer in self.capture.answers if len(answer.token_ids) == tokens]
        if len(whole) < answers:
            raise ValueError(f"{len(whole)} answers of {tokens} tokens, not {answers}: capture more prompts")
        self.capture.answers = whole[:answers]
        self.draft = initialise_draft(target, DraftSpec(layers=layers), seed=0)

    def source(self, settings: TrainSpec, folder: Path) -> BatchSource:
        """The batches of these answers."""
        material = Material(
            self.draft,
            self.target,
            [],
            self.capture.format,
            self.capture,
            settings,
            CaptureSpec(),
            folder,
            lambda event: None,
        )
        return batch_source(material)

    def run(self, steps: int) -> dict[str, float]:
        """Train for some steps with a new optimiser: response tokens, seconds, and the last step's loss.

        From the start of the trainer to the last step's event; the checkpoint at the end is not counted.
        """
        settings = TrainSpec.model_validate(
            {"epochs": steps, "max_steps": steps, "batch_size": self.answers, "checkpoint_every": 10**6, **self.more}
        )
        ended, losses, positions = 0.0, [], 0

        def emit(event: Any) -> None:
            nonlocal ended, positions
            if getattr(event, "kind", "") == "train":
                ended = time.perf_counter()
                losses.append(event.loss)
                positions += event.positions

        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(self.draft, self.source(settings, Path(folder)), settings, Path(folder), emit=emit)
            began = time.perf_counter()
            trainer.run()
        if len(losses) != steps:
            raise ValueError(f"{len(losses)} steps were done, not {steps}")
        return {"amount": float(positions), "seconds": ended - began, "loss": losses[-1]}


def main() -> None:
    """Load, then train as often as asked."""
    from lines import Channel, most_bytes, watch_memory

    channel, job = Channel(), json.loads(sys.argv[1])
    target = load_model(ModelSpec(model=job["target"]))
    training = Training(
        target,
        Path(job["capture"]),
        layers=job["layers"],
        answers=job["answers"],
        tokens=job["tokens"],
        more=job["train"],
    )
    watch_memory()
    channel.send(ready=True, threads=torch.get_num_threads(), dtype=target.dtype_name)
    while (request := channel.receive()) is not None:
        channel.send(**training.run(request["steps"]), most_bytes=most_bytes())


if __name__ == "__main__":
    main()
