"""LM Studio: `stats` of its REST API (`/api/v0`), `usage` of newer builds, or the stats of its SDKs.

`total_draft_tokens_count` proposed tokens are `accepted_`, `rejected_` and `ignored_draft_tokens_count` together. The
documentation names the three without saying what an ignored one is; they stand for tokens proposed and never judged,
so they are proposed here, as discarded tokens are elsewhere, and reported. Rounds and gamma are not counted. SDKs write
the same names in camel case. Source: lmstudio.ai/docs, API changelog 0.3.10; lmstudio-js, `LLMPredictionStats`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.deploy.readers.reading import (
    Located,
    Reading,
    checked,
    contradiction,
    one_of,
    optional_whole,
    part,
    refused,
    seconds,
    without_figures,
    words,
)
from engine.records.served import RoundTotals, added

_NAMES = ("total", "accepted", "rejected", "ignored")


def claims(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is an answer of LM Studio, or stats of its SDK, with figures of a draft."""
    return bool(_figures(value))


def read(values: Sequence[Located]) -> Reading:
    """The figures of some answers. Raises DraftbenchError."""
    reporting = [located for located in values if claims(located.value)]
    requests, speeds, ignored = [], [], 0
    for value, where in reporting:
        counts = {name: _count(_figures(value), name, where) for name in _NAMES}
        totals, unjudged = _request(counts, _emitted(value, where), where)
        requests.append(totals)
        ignored += unjudged
        taken = seconds(part(value, "stats"), "generation_time", where)
        if taken and totals.emitted:
            speeds.append((totals.emitted, taken))
    if not any(totals.proposed for totals in requests):
        raise refused(
            f"{reporting[0].where}: no tokens were proposed",
            "there is nothing to compare",
            'name the draft in the request: "draft_model": "..."',
        )
    return Reading(
        "lm-studio",
        "LM Studio's answers, stats",
        added(requests),
        tuple(requests),
        model=one_of([words(value, "model") for value, _ in reporting]),
        version=one_of([words(part(value, "runtime"), "version") for value, _ in reporting]),
        seconds_by_request=tuple(speeds),
        notes=(
            *without_figures(len(values) - len(reporting), len(values)),
            *([f"{ignored:,} proposed tokens were ignored: never judged, and counted as proposed"] if ignored else []),
            "LM Studio counts no rounds, so there are no tokens per round and no acceptance by place",
        ),
    )


def _figures(value: Mapping[str, Any]) -> Mapping[str, Any]:
    for holder in (part(value, "stats"), part(value, "usage"), value):
        if any(name in holder for name in (*_spelled("accepted"), *_spelled("total"))):
            return holder
    return {}


def _spelled(name: str) -> tuple[str, str]:
    return f"{name}_draft_tokens_count", f"{name}DraftTokensCount"


def _count(figures: Mapping[str, Any], name: str, where: str) -> int | None:
    return next(
        (optional_whole(figures, spelled, where) for spelled in _spelled(name) if figures.get(spelled) is not None),
        None,
    )


def _emitted(value: Mapping[str, Any], where: str) -> int | None:
    emitted = optional_whole(part(value, "usage"), "completion_tokens", where)
    if emitted is not None:
        return emitted
    holder = part(value, "stats") or value
    return optional_whole(holder, "predictedTokensCount", where)


def _request(counts: Mapping[str, int | None], emitted: int | None, where: str) -> tuple[RoundTotals, int]:
    accepted, rejected, ignored = counts["accepted"], counts["rejected"], counts["ignored"] or 0
    if accepted is None or (rejected is None and counts["total"] is None):
        raise refused(
            f"{where}: accepted and rejected draft tokens are not both counted", "a part of the stats is missing"
        )
    judged = accepted + (rejected if rejected is not None else 0)
    total = counts["total"] if counts["total"] is not None else judged + ignored
    if rejected is not None and total != judged + ignored:
        raise contradiction(
            where, f"{total} draft tokens", f"{accepted} accepted, {rejected} rejected, {ignored} ignored"
        )
    totals = RoundTotals(requests=1, proposed=total, accepted=accepted, emitted=emitted)
    return checked(totals, where), ignored
