"""The trainer: optimiser steps over batches, evaluation, best and last draft, resume.

A mode (engine.distill.modes.offline, online, on_policy) decides where the next batch comes from, nothing else.
Weights stay float32; the forward pass runs under autocast when the precision says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from engine.capture.batches import Batch
from engine.catalogue import check_losses
from engine.config.schema import TrainSpec
from engine.decode.sampling import Uniforms
from engine.distill.checkpoint import FOLDER, latest_checkpoint, load_checkpoint, load_source_state, save_checkpoint
from engine.distill.chunked import Positions, chunked_loss, rewards, scale_of, uses_rewards
from engine.distill.schedule import learning_rate
from engine.distill.source import BatchSource
from engine.errors import DraftbenchError
from engine.models.draft import Draft, save_draft
from engine.models.head import Head, hidden_states
from engine.models.load import resolve_dtype
from engine.models.vocabulary import known_rows
from engine.progress import SILENT, Progress
from engine.records.events import Evaluation, Event, Resumed, SkippedStep, TrainStep

Evaluate = Callable[[Any], dict[float, float]]
"""Draft model -> exact acceptance by temperature."""


@dataclass
class Outcome:
    """What a training run did. Steps asked for and steps done must be equal in the end.

    `tokens_seen`: tokens of the target's text, each epoch counted; `positions_trained`: those a loss was taken
    at, fewer where a mode learns from some positions alone. `steps_skipped` had nothing to learn from.
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


class Trainer:
    """Trains one draft. Everything that survives a kill is under `folder`."""

    def __init__(
        self,
        draft: Draft,
        source: BatchSource,
        settings: TrainSpec,
        folder: Path,
        *,
        evaluate: Evaluate | None = None,
        emit: Callable[[Event], None] = lambda event: None,
        progress: Progress = SILENT,
    ) -> None:
        check_losses(term.name for term in settings.loss)
        self.draft, self.source, self.settings, self.folder = draft, source, settings, folder
        self.evaluate, self.emit, self.progress = evaluate, emit, progress
        device = draft.model.device
        self.dtype = resolve_dtype(settings.precision, device)
        self.trained = [p for p in draft.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.trained,
            lr=settings.learning_rate,
            betas=(0.9, settings.adam_beta2),
            weight_decay=settings.weight_decay,
        )
        self.outcome = Outcome(source.steps)

    def run(self) -> Outcome:
        """Train to the last step, from the newest checkpoint if there is one.

        Raises Cancelled after a checkpoint if asked to stop, DraftbenchError if the loss is no
        longer a number; the last good checkpoint and the best draft stay.
        """
        self._resume()
        if self.outcome.steps_done == 0:
            self._evaluate()
        self.progress.start("train", self.source.steps, "steps", done=self.outcome.steps_done)
        while self.outcome.steps_done < self.source.steps:
            self._step(self.outcome.steps_done)
            done, settings = self.outcome.steps_done, self.settings
            last = done == self.source.steps
            if last or done % settings.eval_every == 0:
                self._evaluate()
            if last or done % settings.checkpoint_every == 0 or self.progress.stop_wanted:
                self._checkpoint()
            self.progress.stop_if_asked()
        self.progress.finish()
        self._save("last")
        return self.outcome

    def _step(self, step: int) -> None:
        began = time.monotonic()
        rate = learning_rate(step, self.source.steps, self.settings)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        batches = self.source.micro_batches(step)
        positions = sum(batch.tokens for batch in batches)
        learnt = self._update(batches, step, positions) if positions else None  # a stream may pass without a refusal
        outcome, seconds = self.outcome, time.monotonic() - began
        outcome.steps_done = step + 1
        outcome.tokens_seen += self.source.target_tokens(step, batches)
        outcome.positions_trained += positions
        outcome.seconds += seconds
        if learnt is None:
            outcome.steps_skipped += 1
            self.emit(SkippedStep(step=step + 1, tokens_seen=outcome.tokens_seen, seconds=outcome.seconds))
            self.progress.advance(1)
            return
        loss, norm = learnt
        self.emit(
            TrainStep(
                step=step + 1,
                tokens_seen=outcome.tokens_seen,
                seconds=outcome.seconds,
                loss=loss,
                grad_norm=norm,
                learning_rate=rate,
                positions=positions,
            )
        )
        self.progress.advance(1, loss=round(loss, 4), tokens_per_s=round(positions / seconds))

    def _update(self, batches: Sequence[Batch], step: int, positions: int) -> tuple[float, float]:
        """One optimiser step on the batches: loss a position and the gradient's norm before clipping."""
        self.optimiser.zero_grad(set_to_none=True)
        scale = self._reward_scale(batches, step)
        loss = sum((self.backward(batch, step, positions, scale) for batch in batches), 0.0) / positions
        norm = self.clip()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(step, loss, norm)
        self.optimiser.step()
        return loss, norm

    def clip(self) -> float:
        """Clip the gradient of a step; returns its norm before."""
        return float(torch.nn.utils.clip_grad_norm_(self.trained, self.settings.max_grad_norm))

    def backward(self, batch: Batch, step: int, tokens: int, reward_scale: tuple[float, float] | None = None) -> float:
        """Add one micro-batch's share to the gradient; returns its loss summed over positions.

        Dividing by the tokens of the whole step, not of the micro-batch, makes accumulation exact.
        """
        loss = chunked_loss(
            self._hidden(batch),
            Head.of(self.draft.model, self.dtype),
            self._positions(batch, step),
            self.source.terms,
            temperature=self.settings.distill_temperature,
            reward_scale=reward_scale,
        )
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _hidden(self, batch: Batch) -> torch.Tensor:
        """What enters the draft's head at the batch's response positions: [position, width]."""
        device = self.draft.model.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return hidden_states(self.draft.model, batch.ids, batch.mask, is_draft=True)[batch.responds]

    def _positions(self, batch: Batch, step: int) -> Positions:
        """Tokens, signal and draws of a batch; an answer's draws do not depend on the rows beside it."""
        head = Head.of(self.draft.model)
        tokens = known_rows(batch.token_ids, len(head.weight), head.ids, self.draft.model.config.vocab_size)
        streams = Uniforms(self.settings.seed, [f"{step}:{name}" for name in batch.names])
        draws = [streams.take([row], length)[0] for row, length in enumerate(batch.lengths)]
        uniforms = torch.cat(draws).to(batch.token_ids.device)
        return Positions(tokens, uniforms, lambda part: self.source.read_signal(batch, part), batch.weights)

    @torch.no_grad()
    def _reward_scale(self, batches: Sequence[Batch], step: int) -> tuple[float, float] | None:
        """Mean and deviation of tvd_pp's rewards over all micro-batches of a step; None if they are not needed."""
        if not uses_rewards(self.source.terms):
            return None
        head, temperature = Head.of(self.draft.model, self.dtype), self.settings.distill_temperature
        parts = [rewards(self._hidden(b), head, self._positions(b, step), temperature=temperature) for b in batches]
        return scale_of(torch.cat(parts))

    def _diverged(self, step: int, loss: float, norm: float) -> DraftbenchError:
        checkpoint = latest_checkpoint(self.folder / FOLDER)
        kept = (
            f"the checkpoint {checkpoint.name} and the best draft are kept"
            if checkpoint
            else "the untrained draft is kept"
        )
        return DraftbenchError(
            f"step {step + 1}: the loss is {loss} and the gradient norm {norm}",
            f"training has diverged; this step was not applied and {kept}",
            f"lower train.learning_rate (now {self.settings.learning_rate:g}), raise warmup_fraction, or use "
            f"precision: "
            "float32",
        )

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        exact = self.evaluate(self.draft.model)
        outcome = self.outcome
        for temperature, value in exact.items():
            self.emit(
                Evaluation(
                    step=outcome.steps_done,
                    temperature=temperature,
                    exact=value,
                    tokens_seen=outcome.tokens_seen,
                    seconds=outcome.seconds,
                )
            )
        mean = sum(exact.values()) / len(exact)
        if outcome.steps_done == 0:
            outcome.first_exact = {str(t): v for t, v in exact.items()}
        if mean > outcome.best_exact:
            outcome.best_exact, outcome.best_step = mean, outcome.steps_done
            self._save("best")

    def _save(self, which: str) -> None:
        save_draft(self.folder / "draft" / which, self.draft)

    def _checkpoint(self) -> None:
        save_checkpoint(
            self.folder / FOLDER,
            self.outcome.steps_done,
            self.draft,
            self.optimiser,
            vars(self.outcome),
            self.source.state(),
        )

    def _resume(self) -> None:
        checkpoint = latest_checkpoint(self.folder / FOLDER)
        if checkpoint is None:
            return
        state = load_checkpoint(checkpoint, self.draft, self.optimiser)
        state.pop("step")
        self.source.restore(load_source_state(checkpoint))
        self.outcome = Outcome(**state)
        self.emit(Resumed(step=self.outcome.steps_done))
        self.progress.note(f"resumed after step {self.outcome.steps_done} of {self.outcome.steps}")
