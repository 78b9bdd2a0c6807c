"""An optimiser step's batches, dealt to the processes of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from engine.capture.batches import Batch
from engine.distill.processes import Processes
from engine.distill.source import Ahead, BatchSource


@dataclass(frozen=True)
class Share:
    """What one process computes of a step, and the figures of the whole step.

    `positions` to learn from and `tokens_seen` of the target's text are those of all processes. `idle`: batches that
    only keep step with the others, where a pass needs every process; nothing is learnt from them here.
    """

    batches: Sequence[Batch]
    positions: int
    tokens_seen: int
    idle: Sequence[Batch] = field(default=())


def share_of_step(
    processes: Processes, source: BatchSource, batches: BatchSource | Ahead, step: int, *, in_step: bool
) -> Share:
    """This process's share of a step: every so many-th batch, in the order of one process.

    Batches that follow from the recipe alone are made by each process. Those that depend on the draft's weights, such
    as its own text, are made by the first one and handed out: on another machine they might differ. `batches` gives
    those of `source`. `in_step`: whether all processes must make the same number of passes.
    """
    if processes.count == 1 or not source.reads_weights:
        made = batches.micro_batches(step)
        return _whole(made, source, step).of(processes.rank, processes.count, in_step=in_step)

    def shares() -> list[Share]:
        whole = _whole([batch.to(torch.device("cpu")) for batch in batches.micro_batches(step)], source, step)
        return [whole.of(rank, processes.count, in_step=in_step) for rank in range(processes.count)]

    share = processes.handed_out(shares)
    return Share([batch.to(source.device) for batch in share.batches], share.positions, share.tokens_seen)


@dataclass(frozen=True)
class _Whole:
    batches: Sequence[Batch]
    positions: int
    tokens_seen: int

    def of(self, rank: int, count: int, *, in_step: bool) -> Share:
        own = self.batches[rank::count]
        missing = -(-len(self.batches) // count) - len(own) if in_step else 0
        idle = [*self.batches[:1]] * missing  # the shortest; none where the step has no batch
        return Share(own, self.positions, self.tokens_seen, idle)


def _whole(batches: Sequence[Batch], source: BatchSource, step: int) -> _Whole:
    return _Whole(list(batches), sum(batch.tokens for batch in batches), source.target_tokens(step, batches))
