"""vLLM: the result file of `vllm bench serve --save-result`.

It reads the counters of `/metrics` before and after, so its figures are of everything that the server did meanwhile.
Acceptance by place is written as a share of rounds and is turned back into counts here. The acceptance rate is a
percentage, the acceptance length counts the target's own token. Source: vLLM 0.32, `vllm/benchmarks/serve.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.deploy.readers.reading import (
    MOST_PLACES,
    Located,
    Reading,
    brief,
    check_rate,
    checked,
    contradiction,
    optional_whole,
    quantity,
    refused,
    whole,
    without_figures,
    words,
)
from engine.numbers import is_number
from engine.records.served import RoundTotals

_NAMES = ("num_drafts", "draft_tokens", "accepted_tokens")
_NEAR = 0.01  # of a round: what is left of a count after its share was written and read


def claims(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is such a result, of a server that speculated."""
    return any(f"spec_decode_{name}" in value for name in _NAMES)


def read(values: Sequence[Located]) -> Reading:
    """The figures of one result. Raises DraftbenchError."""
    results = [located for located in values if claims(located.value)]
    if len(results) > 1:
        raise refused(
            f"{len(results)} results of vllm bench serve",
            "each has its own concurrency and prompts, so their sum says nothing about either",
            "import them one by one",
        )
    value, where = results[0]
    rounds, proposed, accepted = (whole(value, f"spec_decode_{name}", where) for name in _NAMES)
    check_rate(value.get("spec_decode_acceptance_rate"), accepted, proposed, f"{where}: acceptance rate", scale=100.0)
    check_rate(value.get("spec_decode_acceptance_length"), accepted, rounds, f"{where}: acceptance length", plus=1.0)
    places = _places(value.get("spec_decode_per_position_acceptance_rates"), rounds, where)
    totals = RoundTotals(
        requests=optional_whole(value, "completed", where),
        rounds=rounds,
        proposed=proposed,
        accepted=accepted,
        accepted_at=places,
        emitted=optional_whole(value, "total_output_tokens", where),
    )
    asked = optional_whole(value, "num_prompts", where)
    if asked is not None and (totals.requests or 0) > asked:
        raise contradiction(where, f"{totals.requests:,} requests were completed", f"{asked:,} prompts were sent")
    failed = optional_whole(value, "failed", where)
    return Reading(
        "vllm",
        "vllm bench serve",
        checked(totals, where, len(places) if places else None),
        gamma=len(places) if places else None,
        model=words(value, "model_id"),
        prompt_tokens=optional_whole(value, "total_input_tokens", where),
        concurrency=_concurrency(value, where),
        tokens_per_s=quantity(value, "output_throughput", where),
        notes=(
            "the server's own counts between two scrapes: they include other requests of that time",
            *without_figures(len(values) - 1, len(values)),
            *([f"{failed:,} requests failed"] if failed else []),
        ),
    )


def _places(rates: Any, rounds: int, where: str) -> list[int] | None:
    if rates in (None, []):
        return None
    is_list = isinstance(rates, list) and len(rates) <= MOST_PLACES
    if not is_list or not all(is_number(rate) and 0 <= rate <= 1 for rate in rates):
        why = f"it must be a list of at most {MOST_PLACES:,} shares of the rounds"
        raise refused(f"{where}: per-position rates {brief(rates)}", why)
    counts = [round(rate * rounds) for rate in rates]
    for rate, count in zip(rates, counts, strict=True):
        if abs(rate * rounds - count) > _NEAR:
            raise contradiction(
                where, f"a share of {rate} of the rounds", f"of {rounds:,} rounds that is not a whole number"
            )
    return counts


def _concurrency(value: Mapping[str, Any], where: str) -> int | None:
    asked = optional_whole(value, "max_concurrency", where)
    return asked if asked is not None else optional_whole(value, "max_concurrent_requests", where)
