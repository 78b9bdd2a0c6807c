"""Take nested subsets of prompts, for curves over the amount of training data, and split held-out prompts."""

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


def split_heldout(prompts: list[Prompt], watched: int, measured: int | None) -> tuple[list[Prompt], list[Prompt]]:
    """Split held-out prompts into those watched in training, at most the first quarter, and those measured on."""
    few = min(watched, max(1, len(prompts) // 4))
    if len(prompts) < 2:
        raise DraftbenchError(
            f"{len(prompts)} held-out prompt is not enough",
            "one part selects the draft, another measures it",
            "give at least two, better fifty, in prompts.heldout",
        )
    rest = prompts[few:]
    return prompts[:few], rest if measured is None else rest[:measured]
