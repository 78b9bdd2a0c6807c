"""Speed on the clock: plain and speculative decoding of the same prompts in turn.

The two alternate prompt by prompt (A B, B A, ...), after a warm-up that is not counted, at
batch size 1, and what is compared is the ratio of each pair: machines drift, ratios less so.
Emitted tokens are counted, never re-tokenised text.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.decode.events import Round
from engine.decode.sampling import Sampling
from engine.decode.speculative import DraftLength, plain_decode, speculative_decode
from engine.progress import SILENT, Progress


@dataclass(frozen=True)
class TimedAnswer:
    """One prompt decoded one way: seconds from the first forward, prefill included, to the last token."""

    prompt_id: str
    way: str  # "plain" or "speculative"
    tokens: int
    seconds: float
    rounds: list[Round]


@dataclass(frozen=True)
class ForwardTimes:
    """Median seconds of one forward of each kind, rounds with a prefill left out.

    `verify_s` is a target forward over gamma + 1 tokens, `plain_s` over one; `overhead_s` is
    everything else in a round.
    """

    plain_s: float
    draft_s: float
    verify_s: float
    overhead_s: float
    num_draft_tokens: int

    @property
    def cost_ratio(self) -> float:
        """c: one draft forward over one target forward of a single token."""
        return self.draft_s / self.plain_s


def time_pairs(
    target: Any,
    draft: Any,
    prompts: Sequence[Sequence[int]],
    prompt_ids: Sequence[str],
    sampling: Sampling,
    make_length: Callable[[], DraftLength],
    *,
    max_new_tokens: int,
    seed: int,
    progress: Progress = SILENT,
) -> list[TimedAnswer]:
    """Two answers a prompt, one plain and one speculative, in alternating order.

    The end-of-sequence token does not stop them, so that both ways do the same amount of work.
    """
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop_ids": frozenset(), "seed": seed}

    def plain(ids: Sequence[int]) -> Iterator[Round]:
        return plain_decode(target, [ids], sampling, **options)

    def speculative(ids: Sequence[int]) -> Iterator[Round]:
        return speculative_decode(target, draft, [ids], sampling, length=make_length(), **options)

    ways = {"plain": plain, "speculative": speculative}
    for way in ways.values():
        list(way(prompts[0]))  # warm-up
    timed = []
    progress.start("speed", 2 * len(prompts), "answers")
    for number, (ids, prompt_id) in enumerate(zip(prompts, prompt_ids, strict=True)):
        for name in sorted(ways, reverse=bool(number % 2)):
            began = time.perf_counter()
            rounds = list(ways[name](ids))
            seconds = time.perf_counter() - began
            timed.append(TimedAnswer(prompt_id, name, sum(len(r.emitted) for r in rounds), seconds, rounds))
            progress.advance(1)
            progress.stop_if_asked()
    progress.finish()
    return timed


def forward_times(timed: Sequence[TimedAnswer], num_draft_tokens: int) -> ForwardTimes:
    """Median times of the forwards in timed answers, at the fullest gamma."""
    plain = [r for t in timed if t.way == "plain" for r in t.rounds[1:]]
    rounds = [r for t in timed if t.way == "speculative" for r in t.rounds[1:] if r.drafted == num_draft_tokens]
    if not rounds:  # every answer was shorter than a proposal, or gamma adapted below it
        rounds = [r for t in timed if t.way == "speculative" for r in t.rounds if r.drafted]
    return ForwardTimes(
        plain_s=statistics.median(r.verify_s for r in plain),
        draft_s=statistics.median(r.draft_s / r.drafted for r in rounds),
        verify_s=statistics.median(r.verify_s for r in rounds),
        overhead_s=statistics.median(r.overhead_s for r in rounds),
        num_draft_tokens=num_draft_tokens,
    )


def time_split(timed: Sequence[TimedAnswer]) -> dict[str, float]:
    """Shares of speculative decoding's time spent drafting, verifying and on everything else."""
    rounds = [r for t in timed if t.way == "speculative" for r in t.rounds]
    parts = {
        "draft": sum(r.draft_s for r in rounds),
        "verify": sum(r.verify_s for r in rounds),
        "overhead": sum(r.overhead_s for r in rounds),
    }
    whole = sum(parts.values())
    return {name: seconds / whole for name, seconds in parts.items()}


def threads() -> int:
    """Threads torch computes with: part of the conditions of a timing."""
    return torch.get_num_threads()
