"""Which runs were measured alike. Only their figures mean the same thing, so only they stand on one axis unremarked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from engine.explore.figures import Figure

# What a figure depends on besides the draft, by its kind: column of the wide table -> in words. As
# `engine.measure.compare.MUST_MATCH`, and the target and its prompts, which a comparison of two runs pairs by answer.
_TEXT = {
    "target": "target",
    "heldout_hash": "held-out prompts",
    "measure.max_new_tokens": "length of the answers",
    "measure.seed": "seed of the measurement",
}
_ARITHMETIC = {"dtype": "precision", "quantize": "rounding of the weights", "device": "device"}
_SAMPLING = {"acceptance_rule": "acceptance rule", "measure.top_p": "top-p", "measure.top_k": "top-k"}
_ROUNDS = {"num_draft_tokens": "gamma", "measure.adaptive": "adaptive gamma", "measure.proposals": "way of proposing"}
_CLOCK = {
    "processor": "processor",
    "threads": "threads",
    "measure.speed_temperature": "temperature of the timing",
    "measure.speed_tokens": "tokens timed",
}
DEPENDS_ON: dict[str, dict[str, str]] = {
    "rate": _TEXT | _ARITHMETIC | _SAMPLING,
    "sampled rate": _TEXT | _ARITHMETIC | _SAMPLING | _ROUNDS,
    "speed": _TEXT | _ARITHMETIC | _ROUNDS | _CLOCK,
    "cost": {"target": "target"},
    "setting": {},
}


@dataclass(frozen=True)
class Difference:
    """A condition in which runs differ: its column, in words, and the number of runs by value, most first."""

    column: str
    words: str
    counts: dict[str, int]


def differing(table: pd.DataFrame, figures: Iterable[Figure]) -> list[Difference]:
    """What the figures depend on and the runs of a wide table differ in, so that they are not comparable."""
    depends = {column: words for figure in figures for column, words in DEPENDS_ON[figure.kind].items()}
    found = []
    for column, words in depends.items():
        if column not in table:
            continue
        values = table[column].str[:8] if column == "heldout_hash" else table[column]
        counts = values.astype(object).where(values.notna(), "none").astype(str).value_counts()
        if len(counts) > 1:
            found.append(Difference(column, words, {str(value): int(n) for value, n in counts.items()}))
    return found


def measured_alike(table: pd.DataFrame) -> pd.Series[str]:
    """For each run the name of its group, the runs with the same target and held-out prompts; '' if not measured.

    The name is a short hash, the same on every machine, for an address.
    """
    measured = table.heldout_hash.notna()
    both = table.target.fillna("unknown") + " " + table.heldout_hash.fillna("")
    names = {value: hashlib.sha1(value.encode(), usedforsecurity=False).hexdigest()[:8] for value in both.unique()}
    named: pd.Series[str] = both.map(names).where(measured, "")
    return named
