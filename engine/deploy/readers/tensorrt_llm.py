"""TensorRT-LLM: `specDecodingStats` of its iterations, or `speculative_decoding` in the choices of its answers.

Iteration statistics (`trtllm-serve`'s `/metrics`, `LLM.get_stats()`, with `enable_iter_perf_stats`) are of one
iteration each: `numDraftTokens` proposed and `numAcceptedTokens` accepted tokens of `numRequestsWithDraftTokens`
requests, so the latter, added up, are the rounds; `acceptanceLength` counts the target's own token. Under attention
data parallelism each rank repeats rank 0's figures. Per-request figures name accepted, proposed tokens and steps
`total_accepted_draft_tokens`, `total_draft_tokens`, `num_spec_steps`; `num_spec_tokens` is null under
`draft_len_schedule`. Source: TensorRT-LLM, `cpp/include/tensorrt_llm/executor/types.h` (SpecDecodingStats),
`tests/unittest/llmapi`; AIPerf 0.14's adapter for the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.deploy.readers.reading import (
    Located,
    Reading,
    brief,
    check_rate,
    checked,
    choices,
    counts_list,
    draft_tokens,
    of_histogram,
    one_of,
    optional_whole,
    part,
    refused,
    the_gamma,
    unsaid,
    whole,
    without_figures,
    words,
)
from engine.records.served import RoundTotals, added


def claims(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is an iteration or an answer of TensorRT-LLM with figures of speculation."""
    return isinstance(value.get("specDecodingStats"), Mapping) or any(_payloads(value))


def read(values: Sequence[Located]) -> Reading:
    """The figures of some iterations or some answers. Raises DraftbenchError."""
    iterations = [located for located in values if "specDecodingStats" in located.value]
    answers = [located for located in values if any(_payloads(located.value))]
    if iterations and answers:
        raise refused(
            f"{values[0].where}: iterations and answers together",
            "both count the same rounds",
            "import one of the two",
        )
    return _iterations(iterations, len(values)) if iterations else _answers(answers, len(values))


def _iterations(values: Sequence[Located], of: int) -> Reading:
    repeated = silent = 0
    parts, seen = [], dict[int, str]()
    for value, where in values:
        stats = value.get("specDecodingStats")
        if optional_whole(value, "attentionDpRank", where):
            repeated += 1
            continue
        if stats is None:
            silent += 1
            continue
        if not isinstance(stats, Mapping):
            raise refused(f"{where}: specDecodingStats is {brief(stats)}", "it must be an object of counts")
        iteration = optional_whole(value, "iter", where)
        if iteration is not None and iteration in seen:
            raise refused(
                f"{where} and {seen[iteration]} are both iteration {iteration}",
                "counted twice, the same rounds would look like more evidence than there is",
                "give each iteration once, and those of another server, or from after a restart, on their own",
            )
        seen |= {} if iteration is None else {iteration: where}
        proposed, accepted, rounds = (
            whole(stats, name, where) for name in ("numDraftTokens", "numAcceptedTokens", "numRequestsWithDraftTokens")
        )
        if not proposed:
            continue
        check_rate(stats.get("acceptanceLength"), accepted, rounds, f"{where}: acceptanceLength", plus=1.0)
        parts.append(checked(RoundTotals(rounds=rounds, proposed=proposed, accepted=accepted), where))
    if not parts:
        raise refused(
            f"{values[0].where}: no iteration with a proposed token",
            "there is nothing to compare",
            "set a speculative_config, and enable_iter_perf_stats before the requests",
        )
    return Reading(
        "tensorrt-llm",
        "TensorRT-LLM's iterations, specDecodingStats",
        added(parts),
        notes=(
            "counted by iteration: other requests of that time are in the figures",
            *([f"{repeated:,} records of other ranks, which repeat those of rank 0, are left out"] if repeated else []),
            *without_figures(of - len(values) + silent, of),
        ),
    )


def _answers(values: Sequence[Located], of: int) -> Reading:
    requests, gammas = [], []
    for value, where in values:
        emitted = optional_whole(part(value, "usage"), "completion_tokens", where)
        payloads = list(_payloads(value))
        for payload in payloads:
            totals, gamma = _request(payload, emitted if len(payloads) == 1 else None, where)
            requests.append(totals)
            gammas.append(gamma)
    return Reading(
        "tensorrt-llm",
        "TensorRT-LLM's answers, speculative_decoding",
        added(requests),
        tuple(requests),
        gamma=the_gamma(gammas, values[0].where),
        model=one_of([words(value, "model") for value, _ in values]),
        notes=(*without_figures(of - len(values), of), *unsaid(gammas, "num_spec_tokens")),
    )


def _payloads(value: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for choice in choices(value):
        payload = choice.get("speculative_decoding")
        if isinstance(payload, Mapping):
            yield payload


def _request(payload: Mapping[str, Any], emitted: int | None, where: str) -> tuple[RoundTotals, int | None]:
    accepted, proposed, rounds = (
        whole(payload, name, where) for name in ("total_accepted_draft_tokens", "total_draft_tokens", "num_spec_steps")
    )
    check_rate(payload.get("acceptance_rate"), accepted, proposed, f"{where}: acceptance_rate")
    gamma = draft_tokens(payload, where)
    histogram = payload.get("acceptance_histogram")
    places = None
    if histogram is not None:
        places = of_histogram(counts_list(histogram, f"{where}: acceptance_histogram"), rounds, accepted, where)
    totals = RoundTotals(
        requests=1, rounds=rounds, proposed=proposed, accepted=accepted, accepted_at=places, emitted=emitted
    )
    return checked(totals, where, gamma), gamma
