"""The trainer: optimiser steps over batches, evaluation, best and last draft, resume.

A mode (engine.distill.modes.offline, online, on_policy) decides where the next batch comes from, nothing else.
The weights that are optimised and kept are float32. In half precision the passes run in a copy of the draft in that
dtype, as it will be served, and their gradients are summed in float32. Of a draft with an adapter, these weights are
the adapter's alone; the passes run in a copy with the adapter inside, and each step ends by merging it into the draft,
so that a mode decodes with, and an evaluation measures, what will be served.

On several processes each computes its share of a step's batches, and gradients are summed before the step is taken: all
take the same step, that of one process up to the order of sums. The first process alone evaluates and writes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from engine.capture.batches import Batch
from engine.catalogue import LOSSES, check_losses
from engine.config.schema import TrainSpec
from engine.decode.device import on_device
from engine.decode.sampling import Uniforms
from engine.distill.checkpoint import (
    FOLDER,
    latest_checkpoint,
    load_checkpoint,
    load_source_state,
    moments_of,
    restore_moments,
    save_checkpoint,
)
from engine.distill.chunked import Positions, chunked_loss, rewards, scale_of, uses_rewards
from engine.distill.dealing import Share, share_of_step
from engine.distill.forward import at_once, draft_states, shortcuts_of
from engine.distill.fused import Scratch
from engine.distill.moments import moment_table
from engine.distill.outcome import Outcome, Taken, diverged
from engine.distill.processes import ALONE, Processes
from engine.distill.schedule import learning_rate
from engine.distill.sharding import Shards
from engine.distill.source import Ahead, BatchSource
from engine.errors import Cancelled, DraftbenchError
from engine.models.draft import Draft, save_draft, trained_parameters
from engine.models.head import Head
from engine.models.load import resolve_dtype
from engine.models.lora import dropping
from engine.models.masters import Masters
from engine.models.precision import copy_in
from engine.models.vocabulary import known_rows
from engine.progress import SILENT, Progress
from engine.records.events import Evaluation, Event, Resumed, SkippedStep, TrainStep
from engine.stopping import keeping

Evaluate = Callable[[Any], dict[float, float]]
"""Draft model -> exact acceptance by temperature."""

_GUARDED = ("cpu", "cuda")  # devices on which one kernel moves all weights, and can be told to leave them as they are
_GPU_READ_EVERY = 16  # steps between two readings of losses on a GPU, each of which waits for it to be idle


class _LeftOff(Exception):
    """A step was broken off before it changed a weight."""


class Trainer:
    """Trains one draft, in each of some processes. Everything that survives a kill is under `folder`.

    Losses are read, and events emitted, every `read_every` steps and before anything is evaluated or kept. A step whose
    loss or gradient is no number is not applied, nor is any after it: the optimiser itself sees to that, on the device.
    """

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
        processes: Processes = ALONE,
    ) -> None:
        check_losses(term.name for term in settings.loss)
        self.processes = processes
        self.draft, self.source, self.settings, self.folder = draft, source, settings, folder
        self.evaluate, self.emit, self.progress = evaluate, emit, progress
        device = draft.model.device
        self.dtype = resolve_dtype(settings.precision, device)
        learning: Mapping[str, torch.Tensor] = trained_parameters(draft)
        processes.as_first(list(learning.values()))
        self.shortcuts = shortcuts_of(draft.model)
        self.shards: Shards | None = None
        self.model: Any = draft.model
        self.masters: Masters | Shards = Masters({}, {})
        if settings.shard == "full" and processes.count > 1:
            self.shards = self.masters = Shards(draft, self.dtype, processes)
            self.model, learning = self.shards.model, self.shards.parameters
        elif draft.lora is not None:
            self.model, inside = draft.lora.training_copy(self.dtype)
            self.masters = Masters(inside, learning)
        elif self.dtype != draft.model.dtype:
            self.model = copy_in(draft.model, self.dtype)
            self.masters = Masters(_learning(self.model), learning)
        self.learning, self.trained = learning, list(learning.values())
        self.optimiser = torch.optim.AdamW(
            self.trained,
            lr=settings.learning_rate,
            betas=(0.9, settings.adam_beta2),
            weight_decay=settings.weight_decay,
            fused=device.type in _GUARDED,
        )
        self.outcome = Outcome(source.steps)
        self.read_every = _GPU_READ_EVERY if device.type == "cuda" else 1
        source.deal_to(processes.count)
        self.moments = moment_table(source, Head.of(self.model))
        self._batches: BatchSource | Ahead = source
        self.scratch = Scratch()
        self._taken: list[Taken] = []
        self._began = 0.0
        self._diverged_yet = torch.zeros((), device=device)  # 1 from the first step that is no number

    def run(self) -> Outcome:
        """Train to the last step, from the newest checkpoint if there is one.

        Raises Cancelled after a checkpoint if asked to stop, DraftbenchError if the loss is no
        longer a number; the last good checkpoint and the best draft stay.
        """
        self._resume()
        if self.outcome.steps_done == 0:
            self.processes.first_alone(self._evaluate)
        with self._made_ahead():
            self._train()
        self.progress.finish()
        self.processes.first_alone(lambda: self._save("last"))
        return self.outcome

    @contextlib.contextmanager
    def _made_ahead(self) -> Iterator[None]:
        """Batches made in a thread while a GPU trains; on a CPU the thread would only take a core from the training."""
        if self.draft.model.device.type != "cuda" or self.source.reads_weights:
            yield
            return
        ahead = Ahead(self.source)
        self._batches = ahead
        try:
            yield
        finally:
            ahead.close()
            self._batches = self.source

    def _train(self) -> None:
        self.progress.start("train", self.source.steps, "steps", done=self.outcome.steps_done)
        for step in range(self.outcome.steps_done, self.source.steps):
            try:
                self._step(step)
            except _LeftOff:
                self._keep_before_leaving()
                raise Cancelled("train") from None
            done, settings = step + 1, self.settings
            last = done == self.source.steps
            stops = self.processes.any(self.progress.stop_wanted)
            evaluates = last or done % settings.eval_every == 0
            keeps = last or done % settings.checkpoint_every == 0 or stops
            if evaluates or keeps:
                self._read()
                self._renew_kept()
            if evaluates:
                self.processes.first_alone(self._evaluate)
            if keeps:
                self._checkpoint()
            if stops:
                self.progress.finish()
                raise Cancelled("train")

    def _step(self, step: int) -> None:
        if not self._taken:
            self._began = time.monotonic()
        rate = learning_rate(step, self.source.steps, self.settings)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        in_step = self.shards is not None
        share = share_of_step(self.processes, self.source, self._batches, step, in_step=in_step)
        figures = self._update(share, step) if share.positions else None  # a stream may pass without a refusal
        self._taken.append(Taken(step, rate, share.positions, share.tokens_seen, figures))
        if len(self._taken) >= self.read_every:
            self._read()

    def _update(self, share: Share, step: int) -> torch.Tensor:
        """One optimiser step: [2], loss a position and the gradient's norm before clipping, of all processes' batches.

        Every process comes to the same figures and takes the same step.
        """
        self.optimiser.zero_grad(set_to_none=True)
        scale = self._reward_scale(share, step)
        losses = self._losses(share, step, scale)
        for batch in share.idle:
            self.backward(batch, step, math.inf, scale)  # its gradient is zero
        own = torch.stack(losses).sum() if losses else torch.zeros((), device=self.draft.model.device)
        summed_here = self.trained if self.shards is None else self.shards.whole
        loss = self.processes.add_up(summed_here, own) / share.positions
        figures = torch.stack([loss, torch.as_tensor(self.clip(), dtype=loss.dtype, device=loss.device)])
        if figures.device.type in _GUARDED:
            self._diverged_yet = torch.maximum(self._diverged_yet, 1 - figures.isfinite().all().float())
            self.optimiser.found_inf = self._diverged_yet  # type: ignore[attr-defined]
        elif not bool(figures.isfinite().all()):
            raise self._diverged(step, *figures.tolist())
        self.optimiser.step()
        self._publish()
        return figures

    def _losses(self, share: Share, step: int, scale: tuple[float, float] | None) -> list[torch.Tensor]:
        """The losses of a share's micro-batches, their gradients added up. Raises _LeftOff if asked to stop meanwhile.

        On several processes, which have to leave after the same step, only an interrupt ends it.
        """
        losses = []
        for batch in share.batches:
            if self.processes.count == 1 and self.progress.stop_wanted:
                raise _LeftOff
            try:
                losses.append(self.backward(batch, step, share.positions, scale))
            except KeyboardInterrupt:
                if self.processes.count > 1:
                    raise
                raise _LeftOff from None
        return losses

    def _keep_before_leaving(self) -> None:
        """Keep the steps that were done, in the middle of the next one: it has changed no weight yet."""
        self._read()
        if self.outcome.steps_done:
            self._checkpoint()
        self.progress.finish()

    def _publish(self) -> None:
        """Give what computes the weights of the last step."""
        self.masters.publish()
        if self.draft.lora is not None:
            self.draft.lora.merge()

    def _read(self) -> None:
        """Wait for the steps taken since the last reading, and report them. Raises DraftbenchError if one diverged."""
        taken, self._taken = self._taken, []
        on_device = [item.figures for item in taken if item.figures is not None]
        numbers = iter(torch.stack(on_device).tolist() if on_device else [])
        seconds = (time.monotonic() - self._began) / max(1, len(taken))
        for item in taken:
            self._report(item, None if item.figures is None else next(numbers), seconds)

    def _report(self, item: Taken, figures: Sequence[float] | None, seconds: float) -> None:
        """Count a step and emit its event. figures: loss a position and gradient norm; None if it was skipped."""
        loss, norm = figures or (0.0, 0.0)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(item.step, loss, norm)
        outcome = self.outcome
        outcome.steps_done = item.step + 1
        outcome.tokens_seen += item.tokens_seen
        outcome.positions_trained += item.positions
        outcome.seconds += seconds
        count = str(self.processes.count)
        outcome.steps_by_processes[count] = outcome.steps_by_processes.get(count, 0) + 1
        if figures is None:
            outcome.steps_skipped += 1
            self.emit(SkippedStep(step=item.step + 1, tokens_seen=outcome.tokens_seen, seconds=outcome.seconds))
            self.progress.advance(1)
            return
        self.emit(
            TrainStep(
                step=item.step + 1,
                tokens_seen=outcome.tokens_seen,
                seconds=outcome.seconds,
                loss=loss,
                grad_norm=norm,
                learning_rate=item.learning_rate,
                positions=item.positions,
            )
        )
        pace = round(item.positions / seconds)
        self.progress.advance(1, loss=round(loss, 4), tokens_per_s=pace, tokens=outcome.tokens_seen)

    def clip(self) -> torch.Tensor:
        """Clip the gradient of a step; returns its norm before, a scalar on the device."""
        if self.shards is None:
            return torch.nn.utils.clip_grad_norm_(self.trained, self.settings.max_grad_norm)
        norm = self.shards.norm()
        torch.nn.utils.clip_grads_with_norm_(self.trained, self.settings.max_grad_norm, norm)
        return norm

    def backward(
        self,
        batch: Batch,
        step: int,
        tokens: float,
        reward_scale: tuple[float, float] | None = None,
        *,
        chunk: int | None = None,
    ) -> torch.Tensor:
        """Add one micro-batch's share to the gradient; returns its loss summed over positions, a scalar on the device.

        Dividing by the tokens of the whole step, not of the micro-batch, makes accumulation exact. `chunk`: positions
        whose logits are held at once; None: as many as suit the device.
        """
        loss = chunked_loss(
            self._hidden(batch, step),
            Head.of(self.model),
            self._positions(batch, step),
            self.source.terms,
            temperature=self.settings.distill_temperature,
            chunk=chunk,
            reward_scale=reward_scale,
            scratch=self.scratch,
        )
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        self.masters.collect()
        return loss.detach()

    def _hidden(self, batch: Batch, step: int = 0) -> torch.Tensor:
        """What enters the head at the response positions, [position, width]. `step`: of the adapter's dropout."""
        with dropping(self.model, self.settings.seed, step, batch.names):
            passes = None if self.shards is None else at_once  # each process makes as many
            return draft_states(self.model, batch, self.dtype, self.shortcuts, passes)

    def _positions(self, batch: Batch, step: int) -> Positions:
        """Tokens, signal and draws of a batch; an answer's draws do not depend on the rows beside it."""
        head = Head.of(self.draft.model)
        tokens = known_rows(batch.token_ids, len(head.weight), head.ids, self.draft.model.config.vocab_size)
        uniforms = self._draws(batch, step, batch.token_ids.device)
        return Positions(
            tokens,
            uniforms,
            lambda part: self.source.read_signal(batch, part),
            batch.weights,
            lambda part: None if self.moments is None else self.moments.read(batch.places[part]),
        )

    def _draws(self, batch: Batch, step: int, device: torch.device) -> torch.Tensor:
        """[position] in [0, 1): those of losses that sample; zeros if none does."""
        if not any(LOSSES[term.name].samples for term in self.source.terms):
            return torch.zeros(batch.tokens, device=device)
        streams = Uniforms(self.settings.seed, [f"{step}:{name}" for name in batch.names])
        draws = torch.cat([streams.take([row], length)[0] for row, length in enumerate(batch.lengths)])
        return on_device(draws, device)

    @torch.no_grad()
    def _reward_scale(self, share: Share, step: int) -> tuple[float, float] | None:
        """Mean and deviation of tvd_pp's rewards over all batches of all processes; None if they are not needed."""
        if not uses_rewards(self.source.terms):
            return None
        head, temperature = Head.of(self.model), self.settings.distill_temperature
        parts = [
            rewards(self._hidden(b, step), head, self._positions(b, step), temperature=temperature)
            for b in (*share.batches, *share.idle)
        ]
        return scale_of(torch.cat(self.processes.interleaved(parts[: len(share.batches)])))

    def _diverged(self, step: int, loss: float, norm: float) -> DraftbenchError:
        return diverged(step, loss, norm, latest_checkpoint(self.folder / FOLDER), self.settings.learning_rate)

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
        with keeping():
            save_draft(self.folder / "draft" / which, self.draft)

    def _renew_kept(self) -> None:
        """Have the draft of the first process hold the present weights, where it is not the one in training."""
        if self.shards is not None:
            self.shards.gather()

    def _checkpoint(self) -> None:
        with keeping():
            self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        whole = () if self.shards is None else (self.shards.kept,)
        moments = moments_of(self.learning, self.optimiser, *whole)
        self.processes.first_alone(
            lambda: save_checkpoint(
                self.folder / FOLDER,
                self.outcome.steps_done,
                self.draft,
                moments,
                vars(self.outcome),
                self.source.state(),
            )
        )

    def _resume(self) -> None:
        name = self.processes.from_first(lambda: getattr(latest_checkpoint(self.folder / FOLDER), "name", ""))
        if not name:
            return
        checkpoint = self.folder / FOLDER / name
        state, weights = load_checkpoint(checkpoint, self.draft)
        if self.shards is not None:
            self.shards.load(weights)
        piece = () if self.shards is None else (self.shards.piece,)
        restore_moments(checkpoint, self.learning, self.optimiser, *piece)
        self._publish()
        state.pop("step")
        self.source.restore(load_source_state(checkpoint))
        self.outcome = Outcome(**state)
        self.emit(Resumed(step=self.outcome.steps_done))
        self.progress.note(f"resumed after step {self.outcome.steps_done} of {self.outcome.steps}")


def _learning(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
