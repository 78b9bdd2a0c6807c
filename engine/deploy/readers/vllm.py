"""vLLM: `metrics.speculative_decoding` of its answers.

Written by vLLM from 0.32 on with `--per-request-spec-decode-metrics summary` or `detailed`; null without it and for
`n` > 1. A round with a proposal is a step, and the target's own token is in no count. `num_draft_tokens` is without
tokens that a grammar ruled out. Tokens accepted after the end of the answer are counted. Source: vLLM 0.32,
`vllm/entrypoints/generate/base/protocol.py`, `vllm/v1/core/sched/scheduler.py`,
docs/features/speculative_decoding/acceptance_metrics.md, which calls the shape experimental.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.deploy.readers.reading import (
    Located,
    Reading,
    check_rate,
    checked,
    contradiction,
    counts_list,
    draft_tokens,
    missing,
    of_histogram,
    one_of,
    optional_whole,
    part,
    seconds,
    the_gamma,
    unread,
    whole,
    without_figures,
    words,
)
from engine.records.served import RoundTotals, added

_MOST_STEPS = 10_000_000  # of one answer
_KNOWN = {
    "mean_acceptance_length",
    "draft_acceptance_rate",
    "acceptance_histogram",
    "acceptance_histogram_by_draft_length",
    "num_spec_steps",
    "num_accepted_draft_tokens",
    "num_draft_tokens",
    "num_spec_tokens",
    "per_step_accepted",
    "per_step_drafted",
}


def claims(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is an answer of vLLM with figures of speculation."""
    return isinstance(part(value, "metrics").get("speculative_decoding"), Mapping)


def read(values: Sequence[Located]) -> Reading:
    """The figures of some answers; a streamed one is its last chunk. Raises DraftbenchError."""
    reporting = [located for located in values if claims(located.value)]
    requests, gammas, speeds, notes = [], [], [], without_figures(len(values) - len(reporting), len(values))
    for value, where in reporting:
        figures = part(value, "metrics", "speculative_decoding")
        totals, gamma = _request(figures, part(value, "usage"), where)
        requests.append(totals)
        gammas.append(gamma)
        notes += [note for note in unread(figures, _KNOWN, "metrics.speculative_decoding") if note not in notes]
        taken = seconds(part(value, "metrics"), "generation_time_ms", where, per_unit=1e-3)
        if taken and totals.emitted:
            speeds.append((totals.emitted, taken))
    return Reading(
        "vllm",
        "vLLM's answers, metrics.speculative_decoding",
        added(requests),
        tuple(requests),
        gamma=the_gamma(gammas, reporting[0].where),
        model=one_of([words(value, "model") for value, _ in reporting]),
        prompt_tokens=_prompt_tokens(reporting),
        seconds_by_request=tuple(speeds),
        notes=tuple(notes),
    )


def _request(figures: Mapping[str, Any], usage: Mapping[str, Any], where: str) -> tuple[RoundTotals, int]:
    rounds, proposed, accepted = (
        whole(figures, name, where) for name in ("num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens")
    )
    gamma = draft_tokens(figures, where)
    if gamma is None:
        raise missing(where, "num_spec_tokens")
    histogram = counts_list(figures.get("acceptance_histogram"), f"{where}: acceptance_histogram")
    if len(histogram) != gamma + 1:
        raise contradiction(where, f"a histogram of {len(histogram)} counts", f"num_spec_tokens is {gamma}")
    places = of_histogram(histogram, rounds, accepted, where)
    check_rate(figures.get("mean_acceptance_length"), accepted, rounds, f"{where}: mean_acceptance_length", plus=1.0)
    check_rate(figures.get("draft_acceptance_rate"), accepted, proposed, f"{where}: draft_acceptance_rate")
    for name, total in (("per_step_accepted", accepted), ("per_step_drafted", proposed)):
        if figures.get(name) in (None, []):
            continue
        steps = counts_list(figures[name], f"{where}: {name}", _MOST_STEPS)
        if len(steps) != rounds or sum(steps) != total:
            raise contradiction(
                where, f"{name} has {len(steps)} steps", f"{rounds} steps and {total} tokens are reported"
            )
    emitted = optional_whole(usage, "completion_tokens", where)
    totals = RoundTotals(
        requests=1, rounds=rounds, proposed=proposed, accepted=accepted, accepted_at=places, emitted=emitted
    )
    return checked(totals, where, gamma), gamma


def _prompt_tokens(values: Sequence[Located]) -> int | None:
    counts = [optional_whole(part(value, "usage"), "prompt_tokens", where) for value, where in values]
    return None if None in counts else sum(count for count in counts if count is not None)
