"""Take nested subsets of prompts, for curves over the amount of training data; split held-out prompts, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from engine.chat.prompt import Prompt
from engine.errors import DraftbenchError


def nested_subset(prompts: Sequence[Prompt], count: int | None) -> list[Prompt]:
    """Return `count` of the prompts in their order; all of them if `count` is None.

    The prompts whose ids have the smallest sha256 are taken. A smaller subset is therefore part of every larger one,
    whatever the order of the file and the seed of the run, and is as mixed as the whole. Raises DraftbenchError if
    there are fewer than `count`.
    """
    if count is None:
        return list(prompts)
    if count > len(prompts):
        raise DraftbenchError(
            f"prompts.train_prompts is {count:,}, but there are {len(prompts):,} training prompts",
            "a curve over the amount of data is wrong if a point has less data than its label says",
            f"set prompts.train_prompts to at most {len(prompts)}, or give more prompts.train",
        )
    ranked = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.id.encode("utf-8")).digest())
    subset = {prompt.id for prompt in ranked[:count]}
    return [prompt for prompt in prompts if prompt.id in subset]


def distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts without those that are an earlier one again, messages and tools alike.

    An interval over prompts takes each for a sample of its own, so a repeat would make it too narrow.
    """
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        first.setdefault(prompt.key(), prompt)
    return list(first.values())


def split_heldout(prompts: Sequence[Prompt], watched: int, measured: int | None) -> tuple[list[Prompt], list[Prompt]]:
    """Split the distinct held-out prompts into those watched in training, at most the first quarter, and those measured
    on. Raises DraftbenchError if there are fewer than two."""
    once = distinct(prompts)
    few = min(watched, max(1, len(once) // 4))
    if len(once) < 2:
        repeats = f", and {len(prompts) - 1} repeat it" if len(prompts) > 1 else ""
        raise DraftbenchError(
            f"{len(once)} held-out prompt is not enough{repeats}",
            "one part selects the draft, another measures it",
            "give at least two, better fifty, in prompts.heldout",
        )
    rest = once[few:]
    return once[:few], rest if measured is None else rest[:measured]
