"""AIPerf: `spec_decode_acceptance` in the lines of its `profile_export.jsonl`, or such records by themselves.

The record is the same for every engine: `acceptance_histogram` has for each number of accepted tokens the steps with
it, without the target's own token and without numbers that never occurred; `num_spec_steps` are rounds. Source: AIPerf
0.14, `src/aiperf/common/models/spec_decode_models.py` (SpecDecodeAcceptanceRecord) and its tutorial
docs/tutorials/spec-decode-metrics.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.deploy.readers.reading import (
    Located,
    Reading,
    as_whole,
    brief,
    check_rate,
    checked,
    draft_tokens,
    of_histogram,
    optional_whole,
    part,
    place,
    refused,
    the_gamma,
    unread,
    unsaid,
    whole,
    without_figures,
    words,
)
from engine.records.served import RoundTotals, added

_SERVERS = {"vllm": "vllm", "sglang": "sglang", "tensorrt_llm": "tensorrt-llm"}
_KNOWN = {
    "engine",
    "mean_acceptance_length",
    "draft_acceptance_rate",
    "acceptance_histogram",
    "num_accepted_draft_tokens",
    "num_draft_tokens",
    "num_spec_steps",
    "num_spec_tokens",
    "completion_tokens",
    "per_step_accepted",
    "per_step_drafted",
}


def claims(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is such a record, or a line that holds one."""
    return bool(_record(value))


def read(values: Sequence[Located]) -> Reading:
    """The figures of some records. Raises DraftbenchError."""
    reporting = [located for located in values if claims(located.value)]
    requests, gammas, engines, notes = [], [], set(), without_figures(len(values) - len(reporting), len(values))
    for value, where in reporting:
        record = _record(value)
        totals, gamma = _request(record, where)
        requests.append(totals)
        gammas.append(gamma)
        engines.add(words(record, "engine") or "unknown")
        notes += [note for note in unread(record, _KNOWN, "spec_decode_acceptance") if note not in notes]
    notes += unsaid(gammas, "num_spec_tokens")
    if len(engines) > 1:
        raise refused(
            f"{reporting[0].where}: records of {', '.join(sorted(engines))}",
            "figures of several servers cannot be compared with one prediction",
            "import those of each server on their own",
        )
    (engine,) = engines
    return Reading(
        _SERVERS.get(engine, engine),
        f"AIPerf's records of {engine}",
        added(requests),
        tuple(requests),
        gamma=the_gamma(gammas, reporting[0].where),
        notes=tuple(notes),
    )


def _record(value: Mapping[str, Any]) -> Mapping[str, Any]:
    held = part(value, "spec_decode_acceptance")
    if held:
        return held
    return value if "engine" in value and "acceptance_histogram" in value else {}


def _request(record: Mapping[str, Any], where: str) -> tuple[RoundTotals, int | None]:
    rounds, proposed, accepted = (
        whole(record, name, where) for name in ("num_spec_steps", "num_draft_tokens", "num_accepted_draft_tokens")
    )
    gamma = draft_tokens(record, where)
    check_rate(record.get("mean_acceptance_length"), accepted, rounds, f"{where}: mean_acceptance_length", plus=1.0)
    check_rate(record.get("draft_acceptance_rate"), accepted, proposed, f"{where}: draft_acceptance_rate")
    places = of_histogram(_dense(record.get("acceptance_histogram"), gamma, where), rounds, accepted, where)
    totals = RoundTotals(
        requests=1,
        rounds=rounds,
        proposed=proposed,
        accepted=accepted,
        accepted_at=places,
        emitted=optional_whole(record, "completion_tokens", where),
    )
    return checked(totals, where, gamma), gamma


def _dense(histogram: Any, gamma: int | None, where: str) -> list[int]:
    """A histogram without empty numbers -> a list from 0 on."""
    if not isinstance(histogram, Mapping):
        raise refused(f"{where}: acceptance_histogram is not an object", "it maps accepted tokens to steps")
    named = f"{where}: acceptance_histogram"
    counts = {
        place(str(name), f"a key of {named}"): as_whole(count, f"{named}[{brief(name)}]")
        for name, count in histogram.items()
    }
    most = max([*counts, gamma or 0])
    return [counts.get(number, 0) for number in range(most + 1)]
