"""Speed on the clock: the same prompts decoded in several ways in turn.

`plain` and `speculative` are our own loops; `transformers` is the library's plain `generate`,
which says whether our plain loop is a fair one to be faster than. The ways take turns prompt by
prompt, each going first equally often, after a warm-up that is not counted, at batch size 1,
and what is compared is the ratio on the same prompts: machines drift, ratios less so. Emitted
tokens are counted, never re-tokenised text.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from engine.decode import bare
from engine.decode.events import Round
from engine.decode.settings import DecodeSettings
from engine.decode.speculative import plain_decode, speculative_decode
from engine.progress import SILENT, TIMING, Progress
from engine.records.speed import ForwardSeconds, TimeSplit

WAYS = ("plain", "speculative", "transformers")
Way = TypeVar("Way")
_WARM_UP_TOKENS = 8  # two rounds and more, after the prompt


@dataclass(frozen=True)
class TimedAnswer:
    """One prompt decoded one way: seconds from the first forward, prefill included, to the last token."""

    prompt_id: str
    way: str  # one of WAYS
    tokens: int
    seconds: float
    rounds: list[Round]  # none of `generate`, which tells nothing on its way


def time_ways(
    target: Any,
    draft: Any,
    prompts: Mapping[str, Sequence[int]],
    settings: DecodeSettings,
    *,
    ways: Sequence[str] = WAYS,
    progress: Progress = SILENT,
) -> list[TimedAnswer]:
    """Decode each prompt (token ids by its id) in each of the ways, in a turning order.

    The end-of-sequence token does not stop them, so that all ways do the same amount of work.
    """
    settings = replace(settings, stop_ids=frozenset())

    def plain(ids: Sequence[int], tokens: int) -> tuple[int, list[Round]]:
        return _counted(plain_decode(target, [ids], replace(settings, max_new_tokens=tokens)))

    def speculative(ids: Sequence[int], tokens: int) -> tuple[int, list[Round]]:
        return _counted(speculative_decode(target, draft, [ids], replace(settings, max_new_tokens=tokens)))

    def transformers(ids: Sequence[int], tokens: int) -> tuple[int, list[Round]]:
        return len(bare.generate(target, ids, settings.sampling, max_new_tokens=tokens, seed=settings.seed)), []

    decode = dict(zip(WAYS, (plain, speculative, transformers), strict=True))
    timed = []
    for ids, tokens in _warm_up(target, list(prompts.values()), settings.max_new_tokens):
        for name in ways:
            decode[name](ids, tokens)
            progress.stop_if_asked()
    progress.start(TIMING, len(ways) * len(prompts) * settings.max_new_tokens, "tokens")
    for number, (prompt_id, ids) in enumerate(prompts.items()):
        for name in turn(ways, number):
            began = time.perf_counter()
            tokens, rounds = decode[name](ids, settings.max_new_tokens)
            seconds = time.perf_counter() - began
            timed.append(TimedAnswer(prompt_id, name, tokens, seconds, rounds))
            progress.advance(settings.max_new_tokens)
            progress.stop_if_asked()
    progress.finish()
    return timed


def _warm_up(target: Any, prompts: Sequence[Sequence[int]], tokens: int) -> list[tuple[Sequence[int], int]]:
    """Prompts to decode before the timing, and how many tokens of each.

    On a GPU all of them, whole: steps are recorded for each shape when it is first met, and prompts of other lengths
    meet others. A CPU has nothing to prepare but its libraries.
    """
    if target.device.type == "cpu":
        return [(prompts[0], min(tokens, _WARM_UP_TOKENS))]
    return [(ids, tokens) for ids in prompts]


def turn(ways: Sequence[Way], number: int) -> list[Way]:
    """The order of the ways at the prompt of this number.

    Each way goes first, second and last equally often, and the next time round the order is
    reversed, so that none always follows the same other one.
    """
    start, reverse = number % len(ways), number // len(ways) % 2
    order = [*ways[start:], *ways[:start]]
    return order[::-1] if reverse else order


def _counted(rounds: Iterator[Round]) -> tuple[int, list[Round]]:
    listed = list(rounds)
    return sum(len(r.emitted) for r in listed), listed


def forward_times(timed: Sequence[TimedAnswer], num_draft_tokens: int) -> ForwardSeconds:
    """Median times of the forwards in timed answers, a verification's at a gamma of `num_draft_tokens`.

    Where so many were never proposed, as every answer was shorter or gamma adapted below it, that is what it grows to
    from a plain step and a verification at the gamma that was proposed the most often: by as much for each token.
    """
    plain_s = statistics.median(r.verify_s for t in timed if t.way == "plain" for r in t.rounds[1:])
    answers = [t.rounds for t in timed if t.way == "speculative"]
    later = [r for rounds in answers for r in rounds[1:] if r.drafted]
    drafted = later or [r for rounds in answers for r in rounds if r.drafted]
    counts = Counter(r.drafted for r in drafted)
    gamma = num_draft_tokens if counts[num_draft_tokens] else max(counts, key=lambda each: (counts[each], each))
    rounds = [r for r in drafted if r.drafted == gamma]
    verify_s = statistics.median(r.verify_s for r in rounds)
    if gamma != num_draft_tokens:
        verify_s = max(0.0, plain_s + (verify_s - plain_s) * num_draft_tokens / gamma)
    return ForwardSeconds(
        plain_s=plain_s,
        draft_s=statistics.median(r.draft_s / r.drafted for r in rounds),
        verify_s=verify_s,
        overhead_s=statistics.median(r.overhead_s for r in rounds),
        num_draft_tokens=num_draft_tokens,
    )


def time_split(timed: Sequence[TimedAnswer]) -> TimeSplit:
    """Shares of speculative decoding's time spent drafting, verifying and on everything else."""
    rounds = [r for t in timed if t.way == "speculative" for r in t.rounds]
    draft, verify = sum(r.draft_s for r in rounds), sum(r.verify_s for r in rounds)
    overhead = sum(r.overhead_s for r in rounds)
    whole = draft + verify + overhead
    return TimeSplit(draft=draft / whole, verify=verify / whole, overhead=overhead / whole)


def threads() -> int:
    """Threads torch computes with: part of the conditions of a timing."""
    return torch.get_num_threads()
