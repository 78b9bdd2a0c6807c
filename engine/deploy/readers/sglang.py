"""SGLang: `meta_info` of its answers.

`spec_verify_ct` counts rounds. Accepted and proposed drafts, without the target's own token, are
`spec_num_correct_drafts` and `spec_num_proposed_drafts`; before, and still beside them, `spec_accepted_drafts` and
`spec_proposed_drafts`; in 0.5.3 to 0.5.9 `spec_accept_token_num` and `spec_draft_token_num`. Up to 2026 the proposed
ones are not counted but taken to be `spec_verify_ct` times the number of draft tokens less one. `spec_accept_rate` is
accepted over proposed. `spec_accept_length` is `completion_tokens` over `spec_verify_ct`: the first token of an answer,
which no round made, is in it, so it is not read. `spec_correct_drafts_histogram` (before: `spec_accept_histogram`)
has at j the rounds with j accepted tokens, and ends with the last that is not 0. Source: SGLang,
`srt/managers/tokenizer_manager.py` and its `fill_spec_decoding_meta`. In an answer of the chat API `meta_info` stands
in the choice (`return_meta_info: true`), in one of `/generate` at the top.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.deploy.readers.reading import (
    Located,
    Reading,
    check_rate,
    checked,
    choices,
    contradiction,
    counts_list,
    of_histogram,
    one_of,
    optional_whole,
    part,
    refused,
    seconds,
    unread,
    without_figures,
    words,
)
from engine.records.served import RoundTotals, added

_ACCEPTED = ("spec_num_correct_drafts", "spec_accepted_drafts", "spec_accept_token_num")
_PROPOSED = ("spec_num_proposed_drafts", "spec_proposed_drafts", "spec_draft_token_num")
_HISTOGRAM = ("spec_correct_drafts_histogram", "spec_accept_histogram")
_KNOWN = {*_ACCEPTED, *_PROPOSED, *_HISTOGRAM, "spec_verify_ct", "spec_accept_rate", "spec_accept_length"}


def claims(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is an answer of SGLang with figures of speculation."""
    return any(_speculated(meta) for meta in _meta_infos(value))


def read(values: Sequence[Located]) -> Reading:
    """The figures of some answers. Raises DraftbenchError."""
    requests, speeds, reporting, prompts, notes = [], [], 0, [], []
    for value, where in values:
        metas = [meta for meta in _meta_infos(value) if _speculated(meta)]
        reporting += bool(metas)
        for meta in metas:
            totals = _request(meta, value, where)
            requests.append(totals)
            prompts.append(optional_whole(meta, "prompt_tokens", where))
            taken = seconds(meta, "e2e_latency", where)
            if taken and totals.emitted:
                speeds.append((totals.emitted, taken))
            spoken = {name: entry for name, entry in meta.items() if str(name).startswith("spec_")}
            notes += [note for note in unread(spoken, _KNOWN, "meta_info") if note not in notes]
    return Reading(
        "sglang",
        "SGLang's answers, meta_info",
        added(requests),
        tuple(requests),
        model=one_of([words(value, "model") for value, _ in values]),
        prompt_tokens=None if None in prompts else sum(count for count in prompts if count is not None),
        seconds_by_request=tuple(speeds),
        notes=(*without_figures(len(values) - reporting, len(values)), *notes),
    )


def _meta_infos(value: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for holder in (value, *choices(value)):
        meta = holder.get("meta_info")
        if isinstance(meta, Mapping):
            yield meta


def _speculated(meta: Mapping[str, Any]) -> bool:
    return any(str(name).startswith("spec_") for name in meta)


def _request(meta: Mapping[str, Any], answer: Mapping[str, Any], where: str) -> RoundTotals:
    accepted, proposed = _first(meta, _ACCEPTED, where), _first(meta, _PROPOSED, where)
    rounds = optional_whole(meta, "spec_verify_ct", where)
    if accepted is None or proposed is None or rounds is None:
        raise refused(
            f"{where}: meta_info does not count {'accepted and proposed drafts' if accepted is None else 'its rounds'}",
            "spec_accept_length alone holds the first token of the answer, which no round made",
            "use SGLang 0.5.3 or newer, which counts them",
        )
    check_rate(meta.get("spec_accept_rate"), accepted, proposed, f"{where}: spec_accept_rate")
    emitted = optional_whole(meta, "completion_tokens", where)
    if emitted is None:
        emitted = optional_whole(part(answer, "usage"), "completion_tokens", where)
    check_rate(meta.get("spec_accept_length"), emitted or 0, rounds if emitted else 0, f"{where}: spec_accept_length")
    histogram = next((meta[name] for name in _HISTOGRAM if meta.get(name) not in (None, [])), None)
    places = None
    if histogram is not None:
        places = of_histogram(counts_list(histogram, f"{where}: histogram"), rounds, accepted, where)
    totals = RoundTotals(
        requests=1, rounds=rounds, proposed=proposed, accepted=accepted, accepted_at=places, emitted=emitted
    )
    return checked(totals, where)


def _first(meta: Mapping[str, Any], names: Sequence[str], where: str) -> int | None:
    """The count under one of the names that it had. Raises DraftbenchError if two of them differ."""
    counts = {name: optional_whole(meta, name, where) for name in names if meta.get(name) is not None}
    if len(set(counts.values())) > 1:
        one, other, *_ = counts.items()
        raise contradiction(where, f"{one[0]} is {one[1]}", f"{other[0]} is {other[1]}")
    return next(iter(counts.values()), None)
