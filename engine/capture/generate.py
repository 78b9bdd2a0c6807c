"""Generate the target's answers to many prompts, in a batch whose rows are refilled as answers end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from engine.capture.answer import Answer
from engine.capture.grouping import Family, families, read_together
from engine.capture.rows import Rows, Task
from engine.capture.signal import SignalFormat
from engine.decode.sampling import Sampling
from engine.decode.speculative import check_prompts
from engine.errors import is_out_of_memory

_REFILL_SHARE = 8  # new prompts enter once so large a part of the rows is free, since each entry costs a forward pass
PASS_TOKENS = 16  # read on a CPU in the time that a forward pass costs beside its tokens
_GPU_PASS_TOKENS = 1024  # on a GPU, where each width is also one more shape
# With none left, free rows are dropped once they are so large a part, since that copies the cache. On a GPU a step of
# another number of rows is also recorded anew, which takes as long as dozens of steps.
_SHRINK_SHARE, _GPU_SHRINK_SHARE = 1 / 4, 7 / 8


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
    halved: Callable[[int], None] | None = None,
    vocab: int | None = None,
) -> Iterator[Answer]:
    """Yield answers in the order in which they finish, at batch size 1 that of the prompts; `index` is the prompt's.

    `before_forward` is called before each forward pass; it may raise to stop. `halved`: where the memory does not
    suffice, the batch is halved and its answers are begun again, and this is called with the new size; without it the
    error is raised. `vocab`: rows of the target's head if `model` is a draft, which writes only ids of its target.

    Each prompt has its own random stream, seeded by its name, so its answer does not depend on the other prompts in the
    batch (up to the rounding of batched kernels).

    Raises, with the first answer, what `speculative_decode` raises, and ValueError for a length or a batch below 1.
    """
    check_prompts(prompts, names)
    if min(max_new_tokens, batch_size) < 1:
        raise ValueError(f"max_new_tokens and batch_size count from 1, got {max_new_tokens} and {batch_size}")
    task = Task(model, prompts, names, sampling, max_new_tokens, stop_ids, seed, signal, vocab)
    waiting, size = list(range(len(prompts))), batch_size
    while waiting:
        size, unanswered = min(size, len(waiting)), set(waiting)
        try:
            for answer in _in_rows(task, size, waiting, before_forward):
                unanswered.remove(answer.index)
                yield answer
        except Exception as error:
            if halved is None or size == 1 or not is_out_of_memory(error):
                raise
        waiting = sorted(unanswered)
        if waiting:  # outside of `except`, where the error still holds the memory
            size //= 2
            assert halved is not None
            halved(size)


def _in_rows(task: Task, size: int, indices: Sequence[int], before_forward: Callable[[], None]) -> Iterator[Answer]:
    """Answer some prompts of the task, `size` at a time."""
    on_gpu = task.model.device.type == "cuda"
    pass_tokens = _GPU_PASS_TOKENS if on_gpu else PASS_TOKENS
    rows = Rows(task, size, lag=1 if on_gpu else 0)
    shrink_share = _GPU_SHRINK_SHARE if on_gpu else _SHRINK_SHARE
    refill_at = 1 if rows.apart else max(1, size // _REFILL_SHARE)
    # One at a time nothing is gained by an order: then it is that of the prompts, on every device and after any kill.
    alone = [Family([i]) for i in indices]
    waiting = deque(
        alone if size == 1 else families(task.prompts, indices, None if rows.apart or on_gpu else PASS_TOKENS)
    )
    while waiting or rows.busy:
        if waiting and (rows.free >= refill_at or not rows.busy):
            for group in read_together(_taken(waiting, rows.free), task.prompts, pass_tokens):
                before_forward()
                rows.enter(group)
        else:
            before_forward()
            rows.step()
        yield from rows.finished()
        if not waiting and rows.busy and (rows.apart or rows.free >= shrink_share * (rows.free + rows.busy)):
            rows.shrink()
    yield from rows.finished(lag=0)
    rows.close()


def _taken(waiting: deque[Family], count: int) -> list[Family]:
    """Take the next `count` prompts, or all that are left. A few of a family may gain nothing by what they share."""
    taken: list[Family] = []
    while waiting and count:
        family, rest = waiting.popleft().split(count)
        if rest.indices:
            waiting.appendleft(rest)
        count -= len(family.indices)
        pays = (len(family.indices) - 1) * family.shared >= PASS_TOKENS
        taken += [family] if pays else [Family([i]) for i in family.indices]
    return taken
