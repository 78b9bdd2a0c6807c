"""What a reader should know of a comparison's fairness, in words."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence

from engine.findings.efforts import TOLERANCE
from engine.findings.pairs import Pair, Place, SignedRuns
from engine.findings.runs import Run

_SIDES: tuple[Callable[[Pair], SignedRuns], ...] = (lambda pair: pair.base, lambda pair: pair.other)
_MOST = 3


def unequal_training(
    compared: Sequence[Pair], pairs: Sequence[Pair], known: Mapping[str, Run], *, of_queries: bool = True
) -> str:
    """How the training of the two sides of `compared` differed in amount, and which drafts of `pairs` kept their
    first weights: part of the effect may be that. `of_queries`: as in `unequal_effort`."""
    sentences = (
        unequal_effort(compared, known, of_queries=of_queries),
        unequal_choice(compared, known),
        other_choice(compared, known),
        untrained(pairs, known),
    )
    return " ".join(filter(None, sentences))


def unequal_effort(pairs: Sequence[Pair], known: Mapping[str, Run], *, of_queries: bool = True) -> str:
    """Says so if the two sides were trained on different amounts.

    `of_queries`: whether the number of queries is one of them; not where the claim is about it.
    """
    amounts, modes = [], {known[run].facts["train.mode"] for pair in pairs for run in pair.runs}
    tolerance = TOLERANCE if len(modes) > 1 else 0.0  # two modes never see exactly as much
    for key, unit in (("n_train", "queries"), ("steps_done", "optimiser steps"), ("tokens_seen", "target tokens")):
        sides = _efforts(pairs, known, key)
        if sides is None or (key == "n_train" and not of_queries):
            continue
        base, other = (sum(side) / len(side) for side in sides)
        if base and abs(other / base - 1) > tolerance:
            amounts.append(f"{base:,.0f} against {other:,.0f} {unit}")
    if not amounts:
        return ""
    if not of_queries:
        return f"More queries were more training too: {', '.join(amounts)}."
    return f"The two sides were trained on different amounts: {', '.join(amounts)}{_versions(pairs, known)}."


def _versions(pairs: Sequence[Pair], known: Mapping[str, Run]) -> str:
    """', by different versions of the code (34f6251 against d35f469)' where they were: that may be why."""
    sides = [
        sorted({str(known[run].effort.get("commit")) for pair in pairs for run, _ in side(pair)}) for side in _SIDES
    ]
    if sides[0] == sides[1] or "None" in (*sides[0], *sides[1]):
        return ""
    return f", by different versions of the code ({' against '.join(' and '.join(side) for side in sides)})"


def unequal_choice(pairs: Sequence[Pair], known: Mapping[str, Run]) -> str:
    """Says so if the measured weights were chosen from other numbers of evaluations: the best of more is better."""
    sides = _efforts(pairs, known, "evaluations")
    if sides is None:
        return ""
    base, other = (sorted(set(map(int, side))) for side in sides)
    if base == other:
        return ""
    counts = " against ".join(f"{side[0]} to {side[-1]}" if len(side) > 1 else str(side[0]) for side in (base, other))
    return f"The best weights of {counts} evaluations during training were measured."


def other_choice(pairs: Sequence[Pair], known: Mapping[str, Run]) -> str:
    """Says so if the measured weights were chosen at other temperatures: they are the best at those."""
    sides = [{known[run].effort.get("watched_at") or () for pair in pairs for run, _ in side(pair)} for side in _SIDES]
    if sides[0] == sides[1] or () in sides[0] | sides[1]:  # of an earlier version it is not known
        return ""
    words = (" or ".join(" and ".join(f"{t:g}" for t in watched) for watched in sorted(side)) for side in sides)
    return f"The weights were chosen by acceptance at T = {' against T = '.join(words)}."


def _efforts(pairs: Sequence[Pair], known: Mapping[str, Run], key: str) -> list[list[float]] | None:
    """An amount for every run of the two sides; None if it is not known of all of them."""
    sides = [[known[run].effort.get(key) for pair in pairs for run, _ in side(pair)] for side in _SIDES]
    if not all(value for side in sides for value in side):
        return None
    return [[float(value) for value in side if value] for side in sides]


def other_texts(left_out: int) -> str:
    """Says so if prompts were left out since the target's answers to them differ."""
    if not left_out:
        return ""
    prompts = "1 prompt that the target answers" if left_out == 1 else f"{left_out} prompts that the target answers"
    return f"Left out: {prompts} otherwise in the two measurements."


def unmeasured(pairs: int, rate: str) -> str:
    """Says so if seeds were left out since an earlier version measured a side of them, without this rate."""
    if not pairs:
        return ""
    seeds = "1 seed" if pairs == 1 else f"{pairs} seeds"
    return f"Left out: {seeds} measured by an earlier version without {rate} (`draftbench measure RUN` adds it)."


def untrained(pairs: Sequence[Pair], known: Mapping[str, Run]) -> str:
    """Says so if drafts were measured with the weights they began with: then the training is not what is compared."""
    drafts = list(dict.fromkeys(run for pair in pairs for run in pair.runs))
    first = sum(known[run].effort.get("best_step") == 0 for run in drafts)
    if not first:
        return ""
    return (
        f"{first} of {len(drafts)} drafts {'is' if first == 1 else 'are'} as before training: "
        "no step did better on the watched prompts."
    )


def other_schedule(place: Place, usual: Place, known: Mapping[str, Run]) -> str:
    """How the training of a place that does not count differs from that of the one that does."""
    mine, theirs = (_settings(known, one) for one in (place, usual))
    differing = [key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)]
    values = (f"{key} {mine.get(key, 'unset')} instead of {theirs.get(key, 'unset')}" for key in differing[:_MOST])
    return f"Another schedule of training than the usual one ({', '.join(values)}): shown, not counted."


def _settings(known: Mapping[str, Run], place: Place) -> dict[str, str]:
    """The training settings of a place's first pair, of both sides."""
    settings: dict[str, str] = {}
    for run in place.pairs[0].runs:
        facts = known[run].facts
        mode = f"{facts['train.mode']} " if place.effort else ""
        settings |= {mode + key: _brief(value) for key, value in facts.items() if key.startswith("train.")}
    return settings


def _brief(value: object) -> str:
    try:
        return str(ast.literal_eval(str(value)))
    except (ValueError, SyntaxError):
        return str(value)
