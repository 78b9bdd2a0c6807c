"""What comparisons are made of: runs, pairs of them under one seed, and the places in which a claim is tested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.findings.claims import SEEDS, Facts

_WHERE = ("domain", "scenario", "train.mode", "loss")  # what names a place for people

Side = tuple[tuple[str, int], ...]  # runs whose sums are added, each with its sign


@dataclass(frozen=True)
class Run:
    """A finished run with the facts that decide what it may be compared with."""

    id: str
    facts: Facts
    effort: Mapping[str, Any] = field(default_factory=dict)  # steps and tokens of its training
    config: Mapping[str, Any] = field(default_factory=dict)
    draft_sha256: str | None = None  # of the weights it was measured with

    @property
    def seed(self) -> tuple[Any, ...]:
        return tuple(self.facts.get(key) for key in SEEDS)


@dataclass(frozen=True)
class Pair:
    """One comparison under one seed. A side is a run, or a difference of two (the lead of one over the other)."""

    base: Side
    other: Side
    seed: tuple[Any, ...]
    base_draft: str = "trained"
    other_draft: str = "trained"

    @property
    def runs(self) -> list[str]:
        return [run for run, _ in (*self.base, *self.other)]


@dataclass(frozen=True)
class Place:
    """Comparable pairs of one place and schedule, one a seed.

    Places of one `key` and `effort` differ in the schedule of training only; the one of the lowest
    `rank` is the usual one.
    """

    where: Mapping[str, Any]
    pairs: list[Pair]
    key: str
    effort: str = ""
    schedule: str = ""
    rank: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Found:
    """A pair before it is sorted into its place."""

    where: Mapping[str, Any]
    pair: Pair
    schedule: str
    rank: tuple[Any, ...]
    effort: str = ""


def first_of_each(runs: Iterable[Run], *keys: str) -> dict[tuple[Any, ...], Run]:
    """The first run (the newest, in lists of newest first) of each combination of these facts."""
    found: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        found.setdefault(tuple(run.facts[key] for key in keys), run)
    return found


def where_of(run: Run) -> dict[str, Any]:
    """What names a place for people."""
    return {key: run.facts.get(key) for key in _WHERE}
