"""The paper's claims tested on whatever runs there are.

Two runs are compared only if they differ in nothing but what the claim is about, on the same
held-out prompts, and paired by prompt. Repetitions with other seeds are averaged within each
prompt; the prompt is what the bootstrap resamples, and no claim is called reproduced before
three seeds point the same way. A claim's verdict is that of its weakest cell; beside it stands the
effect over all cells (how: `pooling`). Offline against online is judged at each kind of effort on its
own (why: `efforts`), and the headline is the one at the modes' own schedules. A comparison is of one temperature; what
is pooled over several is named with them and stands beside the effect at each, which is what the paper reports.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from engine.findings.claim import Claim
from engine.findings.claims import CLAIMS
from engine.findings.efforts import EFFORTS
from engine.findings.pairs import Pair, Place
from engine.findings.pooling import Part, Side, Tables, effect, seed_mean, table_of, tables_of, temperatures_of
from engine.findings.remarks import other_schedule, other_texts, unmeasured
from engine.findings.runs import Run
from engine.findings.verdicts import ENOUGH_SEEDS, FEW, NOT, contrary_by_chance, judge_cell, overall
from engine.measure.compare import Paired, Sums, paired, same_answers
from engine.measure.definitions import RATES
from engine.records.interval import Interval
from engine.records.record import Real

LoadSums = Callable[[list[str]], pd.DataFrame]  # as `queries.prompt_sums`


@dataclass(frozen=True)
class Cell:
    """A claim in one place (domain, scenario, mode, loss, size) at one temperature, its seeds together."""

    where: Mapping[str, Any]
    temperature: float
    pairs: tuple[Pair, ...]
    relative: Interval  # other / base - 1; NaN where a ratio makes no sense
    absolute: Interval  # other - base, in acceptance
    base_rate: Real
    other_rate: Real
    by_seed: tuple[Real, ...]  # the absolute difference of each seed
    verdict: str
    reason: str
    remark: str = ""  # what a reader should know of the comparison's fairness
    effort: str = ""  # for claims on modes
    counts: bool = True  # False: not of the usual schedule, shown but not judged

    @property
    def runs(self) -> list[str]:
        return list(dict.fromkeys(run for pair in self.pairs for run in pair.runs))


@dataclass(frozen=True)
class Pooled:
    """The effect over several cells, and what a claim of them alone would be called."""

    relative: Interval
    absolute: Interval
    base_rate: Real
    other_rate: Real
    by_seed: tuple[Real, ...]  # of the seeds that every cell has
    temperatures: tuple[float, ...]  # averaged over
    n_cells: int
    runs: tuple[str, ...]
    verdict: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """A verdict with the cells it rests on, all of one kind of effort where the claim knows several."""

    effort: str
    verdict: str
    reason: str
    cells: tuple[Cell, ...]
    pooled: Pooled | None = None
    by_domain: Mapping[str, Pooled] = field(default_factory=dict)
    by_temperature: Mapping[float, Pooled] = field(default_factory=dict)  # the whole again, at each alone


@dataclass(frozen=True)
class Finding:
    """A claim with all that is known about it. The first outcome is the headline."""

    claim: Claim
    outcomes: tuple[Outcome, ...]

    @property
    def headline(self) -> Outcome:
        return self.outcomes[0]

    @property
    def verdict(self) -> str:
        return self.headline.verdict

    @property
    def reason(self) -> str:
        return self.headline.reason

    @property
    def fairness(self) -> str:
        """How many of the comparisons that count have a remark, with the most frequent one; '' if none has."""
        counted = [cell for cell in self.cells if cell.counts]
        remarks = Counter(cell.remark for cell in counted if cell.remark)
        if not remarks:
            return ""
        (most, _), *_ = remarks.most_common(1)
        return f"{remarks.total()} of {len(counted)} comparisons have a remark on fairness. Most often: {most}"

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(cell for outcome in self.outcomes for cell in outcome.cells)


@dataclass(frozen=True)
class _Measured:
    """A cell with the sums that it and what is pooled of it are worked out from."""

    cell: Cell
    part: Part  # seeds averaged
    by_seed: Mapping[Any, Part]


def evaluate(runs: Sequence[Run], load_sums: LoadSums) -> list[Finding]:
    """Every claim's verdict. `runs`: newest first; `load_sums` returns the per-prompt sums of the runs it is given."""
    places = {key: claim.places(runs) for key, claim in CLAIMS.items()}
    needed = {run for of_claim in places.values() for place in of_claim for pair in place.pairs for run in pair.runs}
    tables = tables_of(load_sums(sorted(needed))) if needed else {}
    known = {run.id: run for run in runs}
    return [_finding(claim, places[key], tables, known) for key, claim in CLAIMS.items()]


def _finding(claim: Claim, places: Sequence[Place], tables: Tables, known: Mapping[str, Run]) -> Finding:
    usual = _usual(places)
    measured = [m for place in places for m in _cells(claim, place, usual[place.key, place.effort], tables, known)]
    measured.sort(key=lambda m: not m.cell.counts)
    efforts = EFFORTS if claim.by_effort else ("",)
    return Finding(claim, tuple(_outcome(claim, e, [m for m in measured if m.cell.effort == e]) for e in efforts))


def _usual(places: Iterable[Place]) -> dict[tuple[str, str], Place]:
    """Of the places that differ in the schedule only, the one that counts."""
    usual: dict[tuple[str, str], Place] = {}
    for place in sorted(places, key=lambda place: place.rank):
        usual.setdefault((place.key, place.effort), place)
    return usual


def _outcome(claim: Claim, effort: str, measured: Sequence[_Measured]) -> Outcome:
    counting = [m for m in measured if m.cell.counts]
    domains = _domains(counting)
    by_domain = {name: _pool(claim, [group]) for name, group in sorted(domains.items())}
    by_temperature = {
        t: _pool(claim, list(_domains([m for m in counting if m.cell.temperature == t]).values()))
        for t in sorted({m.cell.temperature for m in counting})
    }
    pooled = _pool(claim, list(domains.values())) if domains else None
    cells = _without_chance([m.cell for m in measured])
    counted = [cell for cell in cells if cell.counts]
    seen_in = {cell.where.get(claim.breadth[0]) for cell in counted if cell.verdict != FEW}
    verdict, reason = overall(claim, [(cell.verdict, cell.reason) for cell in counted], len(seen_in))
    return Outcome(effort, verdict, reason, cells, pooled, by_domain, by_temperature)


def _domains(measured: Iterable[_Measured]) -> dict[str, list[_Measured]]:
    domains: dict[str, list[_Measured]] = {}
    for m in measured:
        domains.setdefault(str(m.cell.where.get("domain")), []).append(m)
    return domains


def _without_chance(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Cells of too few seeds that speak against the claim are undecided where so many do by chance alone."""
    few = [cell for cell in cells if cell.counts and len(cell.by_seed) < ENOUGH_SEEDS]
    contrary, chance = contrary_by_chance([cell.verdict for cell in few])
    if not chance:
        return tuple(cells)
    remark = f"; so do {contrary} of {len(few)} comparisons with fewer than {ENOUGH_SEEDS} seeds, which may be chance"
    known = {id(cell) for cell in few if cell.verdict == NOT}
    return tuple(replace(c, verdict=FEW, reason=c.reason + remark) if id(c) in known else c for c in cells)


def _pool(claim: Claim, domains: Sequence[Sequence[_Measured]]) -> Pooled:
    """The cells of some domains as one; judged by the seeds that all of them have."""
    every = [m for group in domains for m in group]
    whole = effect([[m.part for m in group] for group in domains], ratio=claim.has_ratio)
    seeds = [seed for seed in every[0].by_seed if all(seed in m.by_seed for m in every)]
    by_seed = tuple(_difference([[m.by_seed[seed] for m in group] for group in domains]) for seed in seeds)
    verdict, reason = judge_cell(claim, whole.relative, whole.absolute, by_seed)
    return Pooled(
        whole.relative,
        whole.absolute,
        whole.base_rate,
        whole.other_rate,
        by_seed,
        tuple(sorted({m.cell.temperature for m in every})),
        len(every),
        tuple(dict.fromkeys(run for m in every for run in m.cell.runs)),
        verdict,
        reason,
    )


def _difference(domains: Sequence[Sequence[Part]]) -> float:
    return effect(domains, ratio=False, samples=1).absolute.value


def _cells(claim: Claim, place: Place, usual: Place, tables: Tables, known: Mapping[str, Run]) -> list[_Measured]:
    """One cell per temperature at which both sides were measured."""
    cells = []
    for temperature in temperatures_of((run for pair in place.pairs for run in pair.runs), tables):
        if claim.above_zero and temperature == 0:
            continue
        measured = _measure(claim, place, temperature, tables, known)
        if measured is not None:
            remarks = [claim.remark(measured.cell.pairs, known), measured.cell.remark]
            remarks += [] if place is usual else [other_schedule(place, usual, known)]
            cell = replace(measured.cell, remark=" ".join(filter(None, remarks)), counts=place is usual)
            cells.append(replace(measured, cell=cell))
    return cells


def _measure(
    claim: Claim, place: Place, temperature: float, tables: Tables, known: Mapping[str, Run]
) -> _Measured | None:
    """The effect of a place at one temperature; None if no prompt is common."""
    parts: dict[Pair, Part] = {}
    left_out: set[str] = set()
    not_measured = 0  # pairs
    for pair in place.pairs:
        a = table_of(pair.base, pair.base_draft, temperature, tables)
        b = table_of(pair.other, pair.other_draft, temperature, tables)
        if a is None or b is None:
            continue
        if claim.paired:
            both, same = paired(a, b, claim.rate), same_answers(a, b)[0].index
            left_out.update(a.index.intersection(b.index).difference(same))
            not_measured += both is None and len(same) > 0
        else:
            both = Paired(Sums.of(a, RATES[claim.rate]), Sums.of(b, RATES[claim.rate]))
        if both is not None:
            base_heldout, other_heldout = (known[side[0][0]].facts["heldout"] for side in (pair.base, pair.other))
            parts[pair] = (Side(str(base_heldout), both.a), Side(str(other_heldout), both.b))
    if not parts:
        return None
    part = (seed_mean([base for base, _ in parts.values()]), seed_mean([other for _, other in parts.values()]))
    whole = effect([[part]], ratio=claim.has_ratio)
    by_seed = tuple(other.sums.rate - base.sums.rate for base, other in parts.values())
    verdict, reason = judge_cell(claim, whole.relative, whole.absolute, by_seed)
    cell = Cell(
        place.where,
        temperature,
        tuple(parts),
        whole.relative,
        whole.absolute,
        whole.base_rate,
        whole.other_rate,
        by_seed,
        verdict,
        reason,
        " ".join(filter(None, (other_texts(len(left_out)), unmeasured(not_measured, claim.rate)))),
        place.effort,
    )
    return _Measured(cell, part, {pair.seed: part for pair, part in parts.items()})
