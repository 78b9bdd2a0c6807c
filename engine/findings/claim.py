"""How a claim is tested: which runs may be compared for it, and which runs would decide it.

Two runs are compared only if they are equal in every fact but those that the claim is about. A claim of another kind
overrides `places` or `pairs` here; what it takes to get both sides of it is in `missing` and `counterparts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.findings import remarks
from engine.findings.efforts import Schedules, schedule
from engine.findings.pairs import Pair, Place, PlacedPair, place_name
from engine.findings.runs import SEEDS, Facts, Run, first_of_each, is_schedule
from engine.findings.study_grid import Settings

# Another mode of training sets its own schedule: all of `train` may differ then, but for what is taught.
ANY_TRAINING = "train.*"


@dataclass(frozen=True)
class MissingRun:
    """A run that would help to decide a claim: made like `run`, with `changes` set.

    Upper-case words in the changes are for the reader to fill in.
    """

    what: str
    run: str
    changes: tuple[str, ...]


@dataclass(frozen=True)
class BothSides:
    """The settings of a study that makes both sides of a claim: see `engine.study.spec`."""

    why: str
    axes: Settings
    grids: list[Settings] = field(default_factory=list)
    fixed: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """One claim. The measured effect is the acceptance of `other`, by `rate`, over that of `base`, less one."""

    key: str
    # among the paper's five, the fifth of which says two things; 'also' for what it says besides, from 6 on our own
    number: str
    title: str
    statement: str
    base: str  # words for the two sides
    other: str
    is_base: Callable[[Facts], bool]
    is_other: Callable[[Facts], bool]
    varies: frozenset[str]  # facts in which the two runs of a pair may differ
    sign: int  # of the effect that the paper reports
    band: tuple[float, float] | None = None  # of the effect, as the paper states it
    band_of: tuple[str, ...] = ("relative", "absolute")  # which differences the band may mean
    breadth: tuple[str, int] = ("", 0)  # in how many domains, or against how many losses, it must be seen
    must_differ: frozenset[str] = frozenset()  # facts that are equal only where the two sides are one and the same
    paired: bool = True  # by prompt: both sides answer the same held-out prompts
    by_effort: bool = False  # judged at each kind of effort (see `efforts`), the headline at the modes' own schedules
    has_ratio: bool = True  # False where the rate of a side may be zero or below
    told_apart: bool = True  # whether a fact of its own says which side a run is on
    rate: Literal["exact", "argmax"] = "exact"  # by which acceptance is compared
    above_zero: bool = False  # whether temperature 0 tells nothing: there all ways to propose are one
    of_paper: bool = True
    more_is_better: bool = True  # whether an effect above the band speaks for what the paper recommends

    @property
    def introduced(self) -> str:
        """The statement, and whose it is."""
        return f"The paper: {self.statement}" if self.of_paper else f"Not of the paper: {self.statement}"

    def may_differ(self, fact: str) -> bool:
        """Whether the two runs of a pair may differ in this fact."""
        return fact in self.varies or (ANY_TRAINING in self.varies and is_schedule(fact))

    def places(self, runs: Sequence[Run]) -> list[Place]:
        """The places in which the claim can be tested, each with its comparable pairs. `runs`: newest first.

        Of repetitions that are equal in everything, seeds included, the newest counts.
        """
        schedules = Schedules(runs)
        groups: dict[str, list[Run]] = {}  # equal in all that the claim holds fixed, seeds included
        for run in runs:
            fixed = sorted((fact, value) for fact, value in run.facts.items() if not self.may_differ(fact))
            groups.setdefault(repr(fixed), []).append(run)
        places: dict[str, Place] = {}
        for group in groups.values():
            for placed in self.pairs(group, schedules):
                key = self._place_key(group[0], placed.where)
                place = Place(placed.where, [], key, placed.effort, placed.schedule, placed.rank)
                places.setdefault(repr((key, placed.effort, placed.schedule)), place).pairs.append(placed.pair)
        return list(places.values())

    def _place_key(self, run: Run, where: Mapping[str, Any]) -> str:
        """Equal for pairs of one place under other seeds and schedules."""
        fixed = {
            fact: value
            for fact, value in run.facts.items()
            if not self.may_differ(fact) and not is_schedule(fact) and fact not in SEEDS
        }
        return repr((sorted(fixed.items()), sorted(where.items(), key=str)))

    def pairs(self, group: Sequence[Run], schedules: Schedules) -> list[PlacedPair]:
        """The pairs to compare among runs that are equal in all that the claim holds fixed; newest first."""
        others = [run for run in group if self.is_other(run.facts)]
        bases = [run for run in group if self.is_base(run.facts)]
        pairs = []
        for base in first_of_each(bases, "loss", "n_train").values():
            other = self._counterpart(base, others, bases)
            if other is not None:
                sizes = [str(run.facts["n_train"]) for run in (base, other) if run.facts.get("n_train")]
                against = {"against": base.facts["loss"]} if self.breadth[0] == "against" else {}
                queries = " and ".join(dict.fromkeys(sizes))
                pairs.append(placed_pair(base, other, schedules, queries=queries, **against))
        return pairs

    def _counterpart(self, base: Run, others: Sequence[Run], bases: Sequence[Run]) -> Run | None:
        """The run to compare the base with: really another one, and of the nearest number of queries.

        A run of 50 queries must not be compared with one of 200 where another base has 200: each must be the nearest
        of the other. Of equally near ones the newest.
        """
        different = [run for run in others if all(run.facts[fact] != base.facts[fact] for fact in self.must_differ)]
        if not different:
            return None
        nearest = min(different, key=lambda run: _apart(run, base))
        rivals = [run for run in bases if all(nearest.facts[fact] != run.facts[fact] for fact in self.must_differ)]
        return nearest if _apart(nearest, base) <= min(_apart(nearest, run) for run in rivals) else None

    def remark(self, pairs: Sequence[Pair], known: Mapping[str, Run]) -> str:
        """What a reader should know of the fairness of these comparisons; empty if nothing."""
        return remarks.unequal_training(pairs, pairs, known)

    def start(self, runs: Sequence[Run]) -> Run | None:
        """The run that a study of both sides starts from: the newest one that is on a side, else the newest."""
        sides = (self.is_other, self.is_base, lambda facts: True)
        return next((run for is_side in sides for run in runs if is_side(run.facts)), None)

    def missing(self, start: Run) -> BothSides:
        """The study that makes both sides of the claim, with everything else as in `start`."""
        raise NotImplementedError

    def counterparts(self, start: Run) -> list[MissingRun]:
        """Single runs that make the other side of `start`, and this side too where it is neither."""
        raise NotImplementedError


def ordinal(number: str) -> str:
    """A claim's number before its title: '3.', or 'Also:' for what the paper does not number."""
    return "Also:" if number == "also" else f"{number}."


def placed_pair(base: Run, other: Run, schedules: Schedules, **where: Any) -> PlacedPair:
    """Two runs as a pair, in the place and on the schedule of `other`."""
    pair = Pair(((base.id, 1),), ((other.id, 1),), other.seed)
    return PlacedPair(place_name(other) | where, pair, schedule(other), schedules.rank(other))


def _apart(a: Run, b: Run) -> float:
    """How far two numbers of queries lie apart, as the absolute logarithm of their ratio."""
    return abs(math.log((a.facts.get("n_train") or 1) / (b.facts.get("n_train") or 1)))
