"""Prometheus text: the counters of a server's `/metrics`, after less before.

A counter runs from the server's start, so two scrapes around the requests are needed; one alone is of everything since
then, and says so. Series are matched by all their labels and then added over engines and workers. A counter that fell
means a restart in between, and what was counted before it is lost, so that is refused.

- vLLM: `vllm:spec_decode_num_drafts`, `..._num_draft_tokens`, `..._num_accepted_tokens` and, by `position` from 0,
  `..._num_accepted_tokens_per_pos`; the target's own token is in none (vLLM 0.32, `vllm/v1/spec_decode/metrics.py`).
- llama-server with `--metrics`: the same names after `llamacpp:`; a draft is a verification (build 10434, looked at
  on a running server).
- TensorRT-LLM: `trtllm_spec_decode_num_draft_tokens` and `..._num_accepted_tokens` of iterations, without rounds; newer
  ones by `token_position`, `trtllm_spec_decode_drafted_tokens` and `..._accepted_tokens`, of finished requests
  (`tensorrt_llm/metrics`).
- SGLang counts rounds (`sglang:spec_verify_calls`) and tokens of the answers, and shows acceptance as a gauge of its
  last interval, which cannot be taken as that of some requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from engine.deploy.readers.reading import Reading, as_whole, brief, checked, contradiction, place, refused
from engine.errors import did_you_mean
from engine.records.served import RoundTotals

_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?:\{(?P<labels>(?:[^"{}]|"(?:[^"\\]|\\.)*")*)\})?'
    r"[ \t]+(?P<value>[^ \t#]+)(?:[ \t]+-?\d+(?:\.\d+)?)?(?:[ \t]+#.*)?[ \t]*"
)
_VALUE = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?i:nan|inf(?:inity)?)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,[ \t]*|$)')
_ESCAPES = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}
_MODEL_LABELS = ("model_name", "model")
_MOST_SERIES = 200_000

Series = tuple[str, frozenset[tuple[str, str]]]
"""A counter's name without `_total`, and its labels."""


@dataclass(frozen=True)
class _Names:
    """What a server calls its counters; of several names the first that it has counts."""

    prefix: str
    proposed: tuple[str, ...]
    accepted: tuple[str, ...]
    rounds: str = ""
    by_place: str = ""
    place_label: str = ""
    proposed_by_place: str = ""
    emitted: str = ""
    requests: str = ""
    prompts: tuple[str, ...] = ()


_VLLM = _Names(
    "vllm:",
    proposed=("spec_decode_num_draft_tokens",),
    accepted=("spec_decode_num_accepted_tokens",),
    rounds="spec_decode_num_drafts",
    by_place="spec_decode_num_accepted_tokens_per_pos",
    place_label="position",
    emitted="generation_tokens",
    requests="request_success",
    prompts=("prompt_tokens",),
)
_SERVERS = {
    "vllm": _VLLM,
    "llama.cpp": replace(
        _VLLM,
        prefix="llamacpp:",
        emitted="tokens_predicted",
        requests="",
        prompts=("prompt_tokens", "prompt_tokens_cached"),
    ),
    "tensorrt-llm": _Names(
        "trtllm_",
        proposed=("spec_decode_num_draft_tokens", "spec_decode_drafted_tokens"),
        accepted=("spec_decode_num_accepted_tokens", "spec_decode_accepted_tokens"),
        by_place="spec_decode_accepted_tokens",
        place_label="token_position",
        proposed_by_place="spec_decode_drafted_tokens",
        emitted="generation_tokens",
        requests="request_success",
        prompts=("prompt_tokens",),
    ),
    "sglang": _Names(
        "sglang:",
        proposed=(),
        accepted=(),
        rounds="spec_verify_calls",
        emitted="generation_tokens",
        requests="num_requests",
        prompts=("prompt_tokens",),
    ),
}


def claims_text(text: str) -> bool:
    """Whether a text holds metrics of a server that is known here."""
    return any(re.search(rf"^{re.escape(names.prefix)}\w+[ {{]", text, re.MULTILINE) for names in _SERVERS.values())


def read(
    after: str, where: str, before: str | None = None, before_where: str = "", model: str | None = None
) -> Reading:
    """The counters of `after` less those of `before`, if it is given.

    `model`: the one that is meant, where the server has several. Raises DraftbenchError.
    """
    last, first = samples(after, where), samples(before, before_where) if before is not None else {}
    server, names = _server(last, where)
    of_model, chosen = _of_model(last, server, model, where)
    if not any(series[0].startswith(f"{names.prefix}spec_") for series in of_model):
        raise refused(
            f"{where} has no counters of speculation",
            f"{server} is not speculating, or a proxy took them out",
            "start the server with the draft, and take /metrics from the server itself",
        )
    change = _change(of_model, _of_model(first, server, chosen, before_where)[0] if first else {}, names, where)
    totals, gamma = _totals(change, names, where)
    return Reading(
        server,
        f"Prometheus text of {server}, " + ("two scrapes" if before is not None else "one scrape"),
        totals,
        gamma=gamma,
        model=chosen,
        prompt_tokens=_sum(change, names.prefix, names.prompts),
        notes=tuple(_notes(change, totals, alone=before is None)),
    )


def samples(text: str, where: str) -> dict[Series, float]:
    """The samples of an exposition, without help, types and creation times. Raises DraftbenchError for a torn one."""
    read: dict[Series, float] = {}
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _SAMPLE.fullmatch(line.strip())
        value = _number(match["value"]) if match else None
        if match is None or value is None:
            raise refused(
                f"{where}, line {number} is not a sample: {brief(line)}",
                "the text is cut off, or is not Prometheus text",
            )
        if match["name"].endswith("_created"):
            continue
        series = match["name"].removesuffix("_total"), frozenset(_labels(match["labels"], f"{where}, line {number}"))
        if series in read:
            raise contradiction(f"{where}, line {number}", f"{match['name']} comes twice", "with the same labels")
        read[series] = value
        if len(read) > _MOST_SERIES:
            raise refused(f"{where} has more than {_MOST_SERIES:,} series", "a server has some hundreds")
    if lines and not text.endswith("\n") and "spec_" in lines[-1]:
        raise refused(f"{where} ends within {brief(lines[-1])}", "the last number may be cut off")
    return read


def _number(text: str) -> float | None:
    return float(text) if _VALUE.fullmatch(text) else None


def _labels(text: str | None, where: str) -> Iterable[tuple[str, str]]:
    place = 0
    while text and place < len(text.rstrip(", \t")):
        match = _LABEL.match(text, place)
        if match is None:
            raise refused(
                f"{where}: labels {brief(text)} cannot be read", "the text is cut off, or is not Prometheus text"
            )
        yield match[1], re.sub(r"\\[n\"\\]", lambda escape: _ESCAPES[escape[0]], match[2])
        place = match.end()


def _server(read: Mapping[Series, float], where: str) -> tuple[str, _Names]:
    matches = [
        (server, names) for server, names in _SERVERS.items() if any(name.startswith(names.prefix) for name, _ in read)
    ]
    if len(matches) != 1:
        raise refused(
            f"{where} has metrics of {' and '.join(server for server, _ in matches) or 'no known server'}",
            "the counters of one server are compared with the prediction for its sampling rule",
            f"take /metrics of one server: {', '.join(_SERVERS)}",
        )
    return matches[0]


def _of_model(
    read: Mapping[Series, float], server: str, model: str | None, where: str
) -> tuple[dict[Series, float], str | None]:
    """The series of one model, and its name; those without a model's name belong to all."""
    prefix = _SERVERS[server].prefix
    of = {series: _model(series) for series in read if series[0].startswith(f"{prefix}spec_")}
    names = sorted({name for name in of.values() if name is not None})
    if model is not None and names and model not in names:
        raise refused(
            f"{where} has no model {model!r}", "its counters belong to other models", did_you_mean(model, names)
        )
    if model is None and len(names) > 1:
        raise refused(
            f"{where} has counters of {len(names)} models: {', '.join(names[:6])}",
            "each has a draft of its own",
            "name one with --model",
        )
    chosen = model if model is not None else next(iter(names), None)
    return {
        series: value for series, value in read.items() if chosen is None or _model(series) in (None, chosen)
    }, chosen


def _model(series: Series) -> str | None:
    labels = dict(series[1])
    return next((labels[name] for name in _MODEL_LABELS if name in labels), None)


def _change(
    after: Mapping[Series, float], before: Mapping[Series, float], names: _Names, where: str
) -> dict[Series, int]:
    wanted = {
        f"{names.prefix}{name}"
        for name in (
            *(*names.proposed, *names.accepted, *names.prompts),
            *(names.rounds, names.by_place, names.proposed_by_place, names.emitted, names.requests),
        )
        if name
    }
    gone = [name for name, labels in before if name in wanted and (name, labels) not in after]
    if gone:
        raise refused(
            f"{where} has lost a series of {gone[0]} that the first scrape has",
            "what that engine did is not counted any more",
            "take both scrapes from the same running server",
        )
    change = {}
    for (name, labels), value in after.items():
        if name not in wanted:
            continue
        end, start = as_whole(value, f"{where}: {name}"), as_whole(before.get((name, labels), 0.0), f"{where}: {name}")
        if end < start:
            raise refused(
                f"{where}: {name} fell from {start:,} to {end:,}",
                "the server was restarted between the scrapes, or they are in the wrong order: what it counted before "
                "is lost",
                "give the earlier scrape first, or take two scrapes of one running server",
            )
        change[name, labels] = end - start
    return change


def _sum(change: Mapping[Series, int], prefix: str, names: Iterable[str]) -> int | None:
    """The sum over all series of all names; None where the server has none of them."""
    wanted = {f"{prefix}{name}" for name in names if name}
    values = [value for (name, _), value in change.items() if name in wanted]
    return sum(values) if values else None


def _first(change: Mapping[Series, int], prefix: str, names: Iterable[str]) -> int | None:
    return next((total for name in names if (total := _sum(change, prefix, [name])) is not None), None)


def _places(change: Mapping[Series, int], prefix: str, counter: str, label: str, where: str) -> list[int] | None:
    """A counter by place in the proposal, from the first one; None where the server has none."""
    counts: dict[int, int] = {}
    for (name, labels), value in change.items():
        written = dict(labels).get(label)
        if name != f"{prefix}{counter}" or not counter or written is None:
            continue
        number = place(written, f"{where}: {label}")
        counts[number] = counts.get(number, 0) + value
    if counts and sorted(counts) != list(range(len(counts))):
        raise refused(f"{where}: places {sorted(counts)[:12]} of {counter}", "one of those before the last is missing")
    return [counts[number] for number in sorted(counts)] or None


def _totals(change: Mapping[Series, int], names: _Names, where: str) -> tuple[RoundTotals, int | None]:
    prefix = names.prefix
    places = _places(change, prefix, names.by_place, names.place_label, where)
    proposed_places = _places(change, prefix, names.proposed_by_place, names.place_label, where)
    rounds = _sum(change, prefix, [names.rounds])
    if rounds is None and proposed_places:
        rounds = proposed_places[0]
    proposed, accepted = _first(change, prefix, names.proposed), _first(change, prefix, names.accepted)
    if not (proposed if proposed is not None else rounds):
        raise refused(
            f"{where}: nothing was proposed between the scrapes",
            "there is nothing to compare",
            "send requests between the first scrape and the second",
        )
    if places is not None and accepted is not None and sum(places) != accepted and names.proposed_by_place:
        places = None  # of other requests: those that are finished
    totals = RoundTotals(
        requests=_sum(change, prefix, [names.requests]),
        rounds=rounds,
        proposed=proposed,
        accepted=accepted,
        accepted_at=places,
        emitted=_sum(change, prefix, [names.emitted]),
    )
    gamma = len(places) if places else None
    return checked(totals, where, gamma), gamma


def _notes(change: Mapping[Series, int], totals: RoundTotals, *, alone: bool) -> list[str]:
    notes = ["the server's own counts: they include other requests of that time"]
    if alone:
        notes.append("one scrape: everything since the server was started, its warm-up included")
    engines = {value for _, labels in change for name, value in labels if name in ("engine", "worker", "dp_rank")}
    if len(engines) > 1:
        notes.append(f"added over {len(engines)} engines")
    if totals.accepted is None:
        notes.append(
            "SGLang counts no accepted tokens here, and shows acceptance as a gauge of its last interval, which is not "
            "read; the meta_info of its answers has both"
        )
    return notes
