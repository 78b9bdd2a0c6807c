"""Generate the target's answers to many prompts, in a batch whose free slots are refilled as rows finish."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from engine.capture.grouping import FORWARD_TOKENS, group_by_length
from engine.capture.signal import SignalFormat
from engine.decode.runner import AnyRunner, runner_for
from engine.decode.sampling import Sampling, Uniforms, next_ids

_REFILL_SHARE = 4  # new prompts enter once a quarter of the slots is free, since each entry costs a prefill


@dataclass(frozen=True)
class Answer:
    """The target's answer to a prompt, with its signal: [token, bytes_per_token] uint8.

    `beside`: other values that the capture it was copied from stores beside it.
    """

    index: int
    token_ids: list[int]
    finish_reason: str
    signal: torch.Tensor
    beside: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Slot:
    index: int
    uniforms: Uniforms
    token_ids: list[int] = field(default_factory=list)
    signal: list[torch.Tensor] = field(default_factory=list)


@torch.no_grad()
def answer_prompts(
    model: Any,
    prompts: Sequence[Sequence[int]],
    names: Sequence[str],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    stop_ids: frozenset[int],
    seed: int,
    batch_size: int,
    signal: SignalFormat,
    before_forward: Callable[[], None] = lambda: None,
    vocab: int | None = None,
) -> Iterator[Answer]:
    """Yield answers in the order in which they finish; `index` is that of the prompt.

    `before_forward` is called before each forward pass; it may raise to stop. `vocab`: rows of the target's head if
    `model` is a draft, which writes only ids of its target.

    Each prompt has its own random stream, seeded by its name, so its answer does not depend on the other prompts in the
    batch (up to the rounding of batched kernels).
    """
    waiting = deque(sorted(range(len(prompts)), key=lambda i: len(prompts[i])))  # neighbours need little padding
    slots: list[_Slot] = []
    fresh_runner = partial(runner_for, model, is_draft=vocab is not None)
    runner = fresh_runner()
    while waiting or slots:
        before_forward()
        free = batch_size - len(slots)
        if waiting and (free >= max(1, batch_size // _REFILL_SHARE) or not slots):
            taken = [waiting.popleft() for _ in range(min(free, len(waiting)))]
            for group in group_by_length([len(prompts[i]) for i in taken], FORWARD_TOKENS):
                fresh = [_Slot(taken[i], Uniforms(seed, [names[taken[i]]])) for i in group]
                entering = fresh_runner()
                _step(entering, fresh, [list(prompts[slot.index]) for slot in fresh], sampling, signal, vocab)
                runner.join(entering)
                slots += fresh
        else:
            _step(runner, slots, [slot.token_ids[-1:] for slot in slots], sampling, signal, vocab)
        going = []
        for row, slot in enumerate(slots):
            stopped = slot.token_ids[-1] in stop_ids
            if stopped or len(slot.token_ids) >= max_new_tokens:
                yield Answer(slot.index, slot.token_ids, "stop" if stopped else "length", torch.stack(slot.signal))
            else:
                going.append(row)
        if len(going) < len(slots):
            slots = [slots[row] for row in going]
            runner = runner if slots else fresh_runner()
            runner.keep_rows(going)


def _step(
    runner: AnyRunner,
    slots: list[_Slot],
    pending: list[list[int]],
    sampling: Sampling,
    signal: SignalFormat,
    vocab: int | None,
) -> None:
    """Run one forward pass, which adds a token and its signal to every slot."""
    logits = runner.feed(pending, last=1)[:, -1]
    raw = signal.encode(runner.hidden[:, -1], logits)
    uniforms = torch.cat([slot.uniforms.take([0], 1)[:, 0] for slot in slots])
    drawn = next_ids(logits[:, :vocab], sampling, uniforms)
    ids = drawn if runner.head.ids is None else runner.head.ids[drawn]
    for slot, token, row in zip(slots, ids.tolist(), raw, strict=True):
        slot.token_ids.append(token)
        slot.signal.append(row)
