"""What comparisons are made of: pairs of runs under one seed, and the places in which a claim is tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.findings.runs import Run

_WHERE = ("domain", "scenario", "train.mode", "loss")  # what names a place for people

SignedRuns = tuple[tuple[str, int], ...]  # ids of runs whose sums are added, each with its sign


@dataclass(frozen=True)
class Pair:
    """One comparison under one seed. A side is a run, or a difference of two (the lead of one over the other)."""

    base: SignedRuns
    other: SignedRuns
    seed: tuple[Any, ...]
    base_draft: str = "trained"
    other_draft: str = "trained"

    @property
    def runs(self) -> list[str]:
        return [run for run, _ in (*self.base, *self.other)]


@dataclass(frozen=True)
class PlacedPair:
    """A pair with the place that it belongs to."""

    where: Mapping[str, Any]
    pair: Pair
    schedule: str
    rank: tuple[Any, ...]
    effort: str = ""


@dataclass(frozen=True)
class Place:
    """Comparable pairs of one place and schedule, one per seed.

    Places of one `key` and `effort` differ in the schedule of training only; the one of the lowest `rank` is the usual
    one.
    """

    where: Mapping[str, Any]
    pairs: list[Pair]
    key: str
    effort: str = ""
    schedule: str = ""
    rank: tuple[Any, ...] = ()


def place_name(run: Run) -> dict[str, Any]:
    """The facts that name a place for people."""
    return {key: run.facts.get(key) for key in _WHERE}
