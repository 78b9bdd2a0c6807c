"""Prompts that are answered side by side: a row whose answer ends is given to the next prompt, in place."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.capture.answer import Answer
from engine.capture.grouping import Family
from engine.capture.signal import SignalFormat
from engine.capture.steps import Steps
from engine.decode.device import on_device
from engine.decode.row_by_row import RowByRow
from engine.decode.runner import AnyRunner, runner_for
from engine.decode.sampling import NOT_NUMBERS, Sampling, Uniforms, are_numbers, next_ids, not_numbers

_STEPS = 32  # forward passes whose results lie together in host memory
_DRAWS = 64  # uniform draws of a row that are made and moved at once
_NOWHERE = -1  # the row of a slot that has none


@dataclass(frozen=True)
class Task:
    """What is to be answered, by which model and how."""

    model: Any
    prompts: Sequence[Sequence[int]]
    names: Sequence[str]  # seed the prompts' own random streams
    sampling: Sampling
    max_new_tokens: int
    stop_ids: frozenset[int]
    seed: int
    signal: SignalFormat
    vocab: int | None  # rows of the target's head if `model` is a draft


@dataclass(eq=False)
class _Slot:
    """A prompt that is being answered in a row."""

    index: int
    uniforms: Uniforms | None
    row: int = _NOWHERE
    token_ids: list[int] = field(default_factory=list)
    parts: list[tuple[Steps, int, int]] = field(default_factory=list)  # where its signal lies: steps, row, first step
    ended: bool = False

    def answer(self, finish_reason: str) -> Answer:
        """The finished answer; the memory that it shares with other rows is let go."""
        pieces, missing = [], len(self.token_ids)
        for steps, row, first in self.parts:
            pieces.append(steps.signal[first : min(steps.used, first + missing), row])
            missing -= len(pieces[-1])
        self.parts, self.ended = [], True
        return Answer(self.index, self.token_ids, finish_reason, torch.cat(pieces))


@dataclass(frozen=True)
class _Pass:
    """A forward pass whose results are on their way to the host."""

    slots: Sequence[_Slot]
    steps: Steps
    step: int
    wait: Callable[[], None]


class Rows:
    """A batch of rows, each with a prompt that is being answered.

    `enter` and `step` launch a forward pass; `finished` yields the answers that ended. The host reads ids `lag` passes
    late, so that a device need not wait for it: a row goes on until its end is known, and what it wrote after its end
    is dropped. Shapes stay the same while rows are given to other prompts; a free row decodes on, and nobody reads it.
    """

    def __init__(self, task: Task, size: int, lag: int) -> None:
        self.task, self.lag = task, lag
        self.device = torch.device(task.model.device)
        on_gpu = self.device.type == "cuda"  # there buffers that grow are recorded anew; elsewhere they fill memory
        longest = max(map(len, task.prompts), default=0) + task.max_new_tokens
        self._runner = self._fresh_runner(slots=longest if on_gpu else 0)
        self._runner.feed([[0]] * size, last=1)  # any token: it gives the rows their place
        self._slots = [_Slot(-1, None, row, ended=True) for row in range(size)]  # of each row; one that ended may stay
        self._free = set(range(size))
        self._next = torch.zeros(size, dtype=torch.long, device=self.device)  # ids to read
        self._draws = on_device(torch.zeros(_DRAWS, size, dtype=torch.float64), self.device)  # of steps modulo _DRAWS
        self._number = 0  # of the next step
        self._full_after: defaultdict[int, list[_Slot]] = defaultdict(list)  # step -> slots with no room for another
        self._steps: Steps | None = None
        self._passes: deque[_Pass] = deque()

    @property
    def free(self) -> int:
        """The number of rows for which no answer goes on, as far as the host knows."""
        return len(self._free)

    @property
    def busy(self) -> int:
        """The number of rows whose answers go on."""
        return len(self._slots) - len(self._free)

    @property
    def apart(self) -> bool:
        """Whether each row costs a forward pass of its own, a free one too."""
        return isinstance(self._runner, RowByRow)

    def enter(self, families: Sequence[Family]) -> None:
        """Read some prompts and write the first token of each. They take as many free rows."""
        task, indices = self.task, [i for family in families for i in family.indices]
        slots = [_Slot(i, Uniforms(task.seed, [task.names[i]])) for i in indices]
        entering, logits = self._read_prompts(families)
        steps = self._fresh_steps(1, slots)
        first = self._write(entering.hidden[:, -1], logits, self._drawn(slots, 1)[0], slots, steps)
        rows = sorted(self._free)[: len(slots)]
        self._runner.replace(rows, entering)
        places = on_device(torch.tensor(rows), self.device)
        self._next[places] = first
        left = -self._number % _DRAWS  # steps that the present draws still serve
        self._draws[_DRAWS - left :, places.to(self._draws.device)] = self._drawn(slots, left)
        self._place(slots, rows)
        self._empty_full_rows(self._number - 1)  # where one token is all that is wanted

    def step(self) -> None:
        """Write a token in every row."""
        if self._number % _DRAWS == 0:
            self._draws = self._drawn(self._slots, _DRAWS)
        if self._steps is None or self._steps.full:
            self._steps = self._fresh_steps(_STEPS, self._slots)
        logits = self._runner.feed_ids(self._next.unsqueeze(1))[:, -1]
        uniforms = self._draws[self._number % _DRAWS]
        self._next = self._write(self._runner.hidden[:, -1], logits, uniforms, self._slots, self._steps)
        self._empty_full_rows(self._number)
        self._number += 1

    def finished(self, lag: int | None = None) -> Iterator[Answer]:
        """Read all passes but the last `lag`, by default those of the batch, and yield the answers that end there."""
        while len(self._passes) > (self.lag if lag is None else lag):
            oldest = self._passes.popleft()
            oldest.wait()
            for slot, token in zip(oldest.slots, oldest.steps.ids[oldest.step].tolist(), strict=True):
                if not slot.ended:
                    yield from self._read(slot, token)

    def shrink(self) -> None:
        """Drop the free rows."""
        going = [row for row in range(len(self._slots)) if row not in self._free]
        self._runner.keep_rows(going)
        rows = on_device(torch.tensor(going), self.device)
        self._next, self._draws = self._next[rows], self._draws[:, rows.to(self._draws.device)]
        for row in self._free:
            self._slots[row].row = _NOWHERE
        self._slots, self._free, self._steps = [self._slots[row] for row in going], set(), None
        for row, slot in enumerate(self._slots):
            slot.row = row

    def close(self) -> None:
        """Leave what was recorded of the steps to the next batch of the model, if there may be one soon.

        A capture with a signal is made once, and its cache is too large to be kept beside what follows.
        """
        if self.task.signal.kind == "none":
            self._runner.close()

    def _read_prompts(self, families: Sequence[Family]) -> tuple[Any, torch.Tensor]:
        """A runner that has read the prompts of some families, and the logits after each: [prompt, vocab].

        What a family shares is read in one row; then each of its prompts has a copy of it and reads its own rest.
        """
        prompts, runner = self.task.prompts, self._fresh_runner()
        if families[0].shared:
            runner.feed([list(prompts[family.indices[0]][: family.shared]) for family in families], last=1)
            runner.keep_rows([number for number, family in enumerate(families) for _ in family.indices])
        rests = [list(prompts[i][family.shared :]) for family in families for i in family.indices]
        return runner, runner.feed(rests, last=1)[:, -1]

    def _fresh_runner(self, slots: int = 0) -> AnyRunner:
        return runner_for(self.task.model, is_draft=self.task.vocab is not None, slots=slots)

    def _fresh_steps(self, count: int, slots: Sequence[_Slot]) -> Steps:
        """Room for the next steps of some rows; the signal of each answer that goes on will lie there."""
        steps = Steps(count, len(slots), self.task.signal.bytes_per_token, self.device)
        for row, slot in enumerate(slots):
            if not slot.ended:
                slot.parts.append((steps, row, 0))
        return steps

    def _place(self, slots: Sequence[_Slot], rows: Sequence[int]) -> None:
        """Give rows to slots."""
        self._slots = list(self._slots)  # passes that were launched keep the rows as they were
        for slot, row in zip(slots, rows, strict=True):
            self._slots[row].row, self._slots[row], slot.row = _NOWHERE, slot, row
            self._full_after[self._number + self.task.max_new_tokens - 2].append(slot)  # the last token is never read
            if self._steps is not None and not self._steps.full:
                slot.parts.append((self._steps, row, self._steps.used))
        self._free.difference_update(rows)

    def _empty_full_rows(self, step: int) -> None:
        """Free the rows that are as long as an answer may be after this step, and let them decode on from nothing.

        Nothing may be read behind them: the model's context, or its buffers, may end there.
        """
        full = [slot for slot in self._full_after.pop(step, ()) if slot.row != _NOWHERE]
        counts = [0] * len(self._slots)
        for slot in full:
            counts[slot.row] = self._runner.lengths[slot.row]
            self._full_after[step + self.task.max_new_tokens].append(slot)
            self._free.add(slot.row)
        if full:
            self._runner.take_back(counts)

    def _drawn(self, slots: Sequence[_Slot], count: int) -> torch.Tensor:
        """The next draws of each row's own stream: [count, row], float64; zeros where none are needed."""
        draws = torch.zeros(count, len(slots), dtype=torch.float64)
        if not self.task.sampling.greedy:
            for row, slot in enumerate(slots):
                if slot.uniforms is not None and not slot.ended:
                    draws[:, row] = slot.uniforms.take([0], count)[0]
        return on_device(draws, self.device)

    def _write(
        self, hidden: torch.Tensor, logits: torch.Tensor, uniforms: torch.Tensor, slots: Sequence[_Slot], steps: Steps
    ) -> torch.Tensor:
        """Draw a token a row and send it to the host with its signal; the ids: [row].

        hidden: [row, width], logits: [row, vocab], uniforms: [row].
        """
        drawn = next_ids(logits[:, : self.task.vocab], self.task.sampling, uniforms)
        own_ids = self._runner.head.ids
        ids = drawn if own_ids is None else own_ids[drawn]
        # what cannot be chosen from is known on the host with the ids, which are copied anyway
        known = ids.masked_fill(~are_numbers(logits[:, : self.task.vocab]), NOT_NUMBERS)
        wait = steps.add(known, self.task.signal.encode(hidden, logits))
        self._passes.append(_Pass(slots, steps, steps.used - 1, wait))
        return ids

    def _read(self, slot: _Slot, token: int) -> Iterator[Answer]:
        """Add a token to an answer; yields the answer if it ends. Raises DraftbenchError if it was no choice."""
        if token == NOT_NUMBERS:
            raise not_numbers(self.task.model, self.task.names[slot.index], len(slot.token_ids))
        slot.token_ids.append(token)
        if token in self.task.stop_ids:
            yield slot.answer("stop")
        elif len(slot.token_ids) == self.task.max_new_tokens:
            yield slot.answer("length")
        if slot.ended and slot.row != _NOWHERE:
            self._free.add(slot.row)
