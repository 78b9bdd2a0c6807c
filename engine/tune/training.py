"""The training loop of an adapter: loss on the references, resumable after a kill.

One file holds all that the next step needs; it is replaced whole. Nothing is drawn while
training runs (the order of records is a function of seed and step), so a resumed run makes
the adapter that an unbroken one would have made.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save

from engine.capture.grouping import group_by_length
from engine.distill.schedule import learning_rate, step_answers, total_steps
from engine.errors import DraftbenchError
from engine.fileio import write_atomic
from engine.models.head import Head, hidden_states
from engine.progress import SILENT, Progress
from engine.tune.adapter import masters_of
from engine.tune.examples import Encoded
from engine.tune.recipe import TuneTraining

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Trained:
    """The progress of a training. Steps asked for and steps done must be equal in the end."""

    steps: int
    steps_done: int = 0
    tokens_seen: int = 0
    reference_tokens_seen: int = 0
    seconds: float = 0.0


def reference_losses(model: Any, batch: Sequence[Encoded]) -> list[torch.Tensor]:
    """-log probability of each reference token given what stands before it: [reference token] for each row.

    `model` is the plain causal model (with or without adapter layers inside it).
    """
    width = max(row.tokens for row in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask, responds = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for index, row in enumerate(batch):
        ids[index, : row.tokens] = torch.tensor([*row.prompt_ids, *row.reference_ids][: row.tokens])
        mask[index, : row.tokens] = 1
        responds[index, len(row.prompt_ids) - 1 : row.tokens] = True
    padded = len({row.tokens for row in batch}) > 1
    device = model.device
    hidden = hidden_states(model, ids.to(device), mask.to(device) if padded else None)[responds.to(device)]
    wanted = torch.tensor([token for row in batch for token in row.reference_ids], device=device)
    losses = F.cross_entropy(Head.of(model).logits(hidden).float(), wanted, reduction="none")
    return list(torch.split(losses, [len(row.reference_ids) for row in batch]))


class Tuner:
    """Trains one adapter. What survives a kill is `folder / CHECKPOINT`."""

    def __init__(
        self,
        adapted: Any,
        examples: Sequence[Encoded],
        settings: TuneTraining,
        folder: Path,
        *,
        identity: str,
        emit: Callable[[dict[str, Any]], None] = lambda event: None,
        progress: Progress = SILENT,
    ) -> None:
        self.model, self.examples, self.settings, self.folder = adapted.get_base_model(), examples, settings, folder
        self.identity, self.emit, self.progress = identity, emit, progress
        self.masters = masters_of(adapted)
        self.plan = settings.plan()
        self.trained = Trained(total_steps(len(examples), self.plan))
        self.optimiser = torch.optim.AdamW(
            self.masters.outside.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def run(self) -> Trained:
        """Train to the last step, from the checkpoint if there is one; the adapter in the model is then final.

        Raises Cancelled after a checkpoint if asked to stop, DraftbenchError if the loss is no number.
        """
        self._resume()
        self.progress.start("tune", self.trained.steps, "steps", done=self.trained.steps_done)
        while self.trained.steps_done < self.trained.steps:
            self._step(self.trained.steps_done)
            done = self.trained.steps_done
            if done == self.trained.steps or done % self.settings.checkpoint_every == 0 or self.progress.stop_wanted:
                self._checkpoint()
            self.progress.stop_if_asked()
        self.progress.finish()
        return self.trained

    def _step(self, step: int) -> None:
        began = time.monotonic()
        rows = [self.examples[i] for i in step_answers(len(self.examples), self.plan, step)]
        tokens = sum(len(row.reference_ids) for row in rows)
        loss = self._backward(rows, tokens)
        norm = float(torch.nn.utils.clip_grad_norm_(self.masters.outside.values(), self.settings.max_grad_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(step, loss)
        rate = learning_rate(step, self.trained.steps, self.plan)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.masters.publish()
        self.masters.clear()
        self._count(step, rows, tokens, time.monotonic() - began)
        self.emit({"step": step + 1, "loss": loss, "grad_norm": norm, "learning_rate": rate, **asdict(self.trained)})
        seen = sum(row.tokens for row in rows)
        self.progress.advance(1, loss=round(loss, 3), tokens_per_s=round(seen / (time.monotonic() - began)))

    def _backward(self, rows: Sequence[Encoded], tokens: int) -> float:
        """Sum the gradient of the mean loss over all reference tokens of a step; returns that mean."""
        total = 0.0
        for group in group_by_length([row.tokens for row in rows], self.settings.micro_batch_tokens):
            loss = torch.cat(reference_losses(self.model, [rows[i] for i in group])).sum()
            torch.autograd.backward([loss / tokens])
            self.masters.collect()
            total += float(loss.detach())
        return total / tokens

    def _count(self, step: int, rows: Sequence[Encoded], reference_tokens: int, seconds: float) -> None:
        self.trained.steps_done = step + 1
        self.trained.tokens_seen += sum(row.tokens for row in rows)
        self.trained.reference_tokens_seen += reference_tokens
        self.trained.seconds += seconds

    def _checkpoint(self) -> None:
        tensors = {f"weight/{name}": tensor.detach() for name, tensor in self.masters.outside.items()}
        for name, tensor in self.masters.outside.items():
            for key, value in self.optimiser.state[tensor].items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value).cpu()
        state = {"identity": self.identity, "trained": json.dumps(asdict(self.trained))}
        write_atomic(self.folder / CHECKPOINT, save(tensors, metadata=state))

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        with safe_open(path, framework="pt") as file:
            state = file.metadata() or {}
            if state.get("identity") != self.identity:
                raise DraftbenchError(
                    f"{path} belongs to another recipe, model or data",
                    "to continue from it would make an adapter that no recipe describes",
                    "choose another folder with --out, or remove this one",
                )
            self._restore({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
        self.trained = Trained(**json.loads(state["trained"]))
        self.progress.note(f"resumed after step {self.trained.steps_done} of {self.trained.steps}")

    @torch.no_grad()
    def _restore(self, tensors: dict[str, torch.Tensor]) -> None:
        for full, value in tensors.items():
            key, _, name = full.partition("/")
            master = self.masters.outside[name]
            if key == "weight":
                master.copy_(value)
            else:
                self.optimiser.state[master][key] = value if key == "step" else value.to(master.device)
        self.masters.publish()

    def _diverged(self, step: int, loss: float) -> DraftbenchError:
        return DraftbenchError(
            f"step {step + 1}: the loss is {loss}",
            "training has diverged; this step was not applied, and the last checkpoint is kept",
            f"lower train.learning_rate (now {self.settings.learning_rate:g}) and tune into a new folder",
        )
