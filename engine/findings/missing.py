"""What would decide a claim: the study to run, single runs to begin with, and pairs that are nearly comparable."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.findings.claim import BothSides, Claim, MissingRun
from engine.findings.claims import MATCH, OTHER_LOSSES
from engine.findings.evaluate import Cell, Finding
from engine.findings.runs import SEEDS, Run
from engine.findings.study_grid import MissingStudy, grid_of, study_recipe
from engine.findings.verdicts import ENOUGH_SEEDS, FEW, NOT
from engine.numbers import LEAST_PROMPTS

_NEAR = ("target", "domain", "heldout")  # what two nearly comparable runs must have in common
_MOST = 4
MOST_COMMANDS = 4  # a study of so few runs is also shown as commands


@dataclass(frozen=True)
class Wanted:
    """What would decide a claim: a study, single runs to begin with, and pairs that are nearly comparable.

    `near`: (base, other, fact -> both values in words), the nearest first.
    """

    study: MissingStudy | None
    runs: tuple[MissingRun, ...] = ()
    near: tuple[tuple[str, str, Mapping[str, tuple[str, str]]], ...] = ()


def wanted(finding: Finding, runs: Sequence[Run], runs_folder: Path) -> Wanted:
    """What would decide the claim. `runs`: those that took part, newest first, in `runs_folder`."""
    near: list[tuple[str, str, dict[str, tuple[Any, Any]]]] = []
    if finding.verdict == FEW and not finding.cells:
        near = near_misses(finding.claim, runs)
    said = tuple((base, other, {key: (str(a), str(b)) for key, (a, b) in odd.items()}) for base, other, odd in near)
    study = missing_study(finding, runs, runs_folder)
    if study is None or (study.n_runs > MOST_COMMANDS and finding.headline.cells):
        return Wanted(study, (), said)
    first = tuple(missing_runs(finding, runs))
    return Wanted(replace(study, commands=tuple(command(one, runs_folder) for one in first)), first, said)


def undecided(finding: Finding) -> bool:
    """Whether more runs could change what is said of the claim."""
    return finding.verdict == FEW or any(len(cell.by_seed) < ENOUGH_SEEDS for cell in _counted(finding))


def _counted(finding: Finding) -> list[Cell]:
    return [cell for cell in finding.headline.cells if cell.counts]


# ---- single runs ----------------------------------------------------------------------------


def missing_runs(finding: Finding, runs: Sequence[Run]) -> list[MissingRun]:
    """Runs that would decide the finding, at most a few; none if there is no run to start from.

    More drafts for a claim that is not paired are asked for as a study only: see `missing_study`.
    """
    counted = _counted(finding)
    short = [cell for cell in counted if len(cell.pairs) < ENOUGH_SEEDS]
    if short and finding.claim.paired:
        return _under_new_seeds(max(short, key=lambda cell: len(cell.pairs)), {run.id: run for run in runs})
    start = finding.claim.start(runs)
    if counted or start is None:  # enough of each, but perhaps not of enough domains or losses
        return []
    return finding.claim.counterparts(start)[:_MOST]


def _under_new_seeds(cell: Cell, known: Mapping[str, Run]) -> list[MissingRun]:
    """The same pair under seeds that it was not run with."""
    seeds = _new_seeds((known[run] for run in cell.runs), ENOUGH_SEEDS - len(cell.pairs))
    return [
        MissingRun(f"{known[run].facts['loss']}, seed {seed}", run, (f"train.seed={seed}",))
        for seed in seeds
        for run in dict.fromkeys(cell.pairs[0].runs)
    ][:_MOST]


def command(missing: MissingRun, runs_folder: Path) -> str:
    """The line that makes the missing run."""
    recipe = runs_folder / missing.run / "config.yaml"
    changes = " ".join(f"--set {shlex.quote(change)}" for change in missing.changes)
    return f"draftbench run {shlex.quote(str(recipe))} {changes}"


# ---- a study --------------------------------------------------------------------------------


def missing_study(finding: Finding, runs: Sequence[Run], runs_folder: Path | None = None) -> MissingStudy | None:
    """The study that would decide the finding; None if it is decided, or if there is no run to start from.

    `runs`: those that took part, newest first; the study's base is the recipe of one of them in `runs_folder`.
    """
    folder = runs_folder or Path("RUNS")
    known = {run.id: run for run in runs}
    counted = _counted(finding)
    short = [cell for cell in counted if len(cell.by_seed) < ENOUGH_SEEDS]
    if not counted:
        start = finding.claim.start(runs)
        if start is None:
            return None
        seeds = list(range(ENOUGH_SEEDS)) if finding.claim.paired else [0]
        return _study(finding.claim, start, finding.claim.missing(start), seeds, folder)
    if short and not finding.claim.paired:
        return _more_sources(finding, short, known, folder)
    if not short:
        return _more_places(finding, known, folder)
    study = _more_seeds(finding, short, known, folder)
    if any(math.isnan(cell.absolute.low) for cell in counted):
        prompts = f"first name at least {LEAST_PROMPTS} held-out prompts in it (prompts.heldout)"
        study = replace(study, why=f"{study.why}; {prompts}: fewer give no interval")
    return study


def _more_seeds(finding: Finding, short: Sequence[Cell], known: Mapping[str, Run], folder: Path) -> MissingStudy:
    """The same grid under the seeds that it lacks."""
    places = {repr(sorted(cell.where.items(), key=str)) for cell in short}
    cells = [c for c in finding.cells if c.counts and repr(sorted(c.where.items(), key=str)) in places]
    runs = list({run: known[run] for cell in cells for run in cell.runs}.values())
    have = max(len(cell.by_seed) for cell in short)
    seeds = _new_seeds(runs, ENOUGH_SEEDS - have)
    why = f"{have} of {ENOUGH_SEEDS} seeds so far: the same grid under {len(seeds)} more"
    name = f"{finding.claim.key}-seeds".replace("_", "-")
    return grid_of(name, why, runs, seeds, folder, _missing_efforts(finding))


def _more_sources(finding: Finding, short: Sequence[Cell], known: Mapping[str, Run], folder: Path) -> MissingStudy:
    """More general drafts: each is another seed of the claim, once a domain run starts from it."""
    have = max(len(cell.by_seed) for cell in short)
    source = known[short[0].pairs[0].base[0][0]]
    seeds = _new_seeds([source], ENOUGH_SEEDS - have)
    why = (
        f"{have} of {ENOUGH_SEEDS} seeds so far: {ENOUGH_SEEDS - have} more general drafts; then, from each, a run per "
        "domain with draft.checkpoint=ITS_RUN_ID and train.max_steps=1, which measures it untrained"
    )
    return _study(finding.claim, source, BothSides(why, {}), seeds, folder)


def _more_places(finding: Finding, known: Mapping[str, Run], folder: Path) -> MissingStudy | None:
    """What is missing though every comparison has its seeds: another loss, or runs of equal effort."""
    claim, cells = finding.claim, _counted(finding)
    seeds = sorted({int(known[run].facts["train.seed"]) for run in cells[0].runs})
    efforts = _missing_efforts(finding)
    if efforts:
        runs = [known[run] for run in dict.fromkeys(run for cell in cells for run in cell.runs)]
        return grid_of(f"{claim.key}-effort", "no run of equal effort yet", runs, seeds, folder, efforts)
    against = {cell.where.get("against") for cell in cells}
    if claim.breadth[0] == "against" and len(against) < claim.breadth[1] and finding.verdict != NOT:
        axes = {"loss": [name for name in OTHER_LOSSES if name not in against][:1]}
        both = BothSides("it must beat another loss too", axes)
        return _study(claim, known[cells[0].runs[-1]], both, seeds, folder)
    return None


def _missing_efforts(finding: Finding) -> list[str]:
    return [MATCH[outcome.effort] for outcome in finding.outcomes if outcome.effort in MATCH and not outcome.cells]


def _new_seeds(runs: Iterable[Run], how_many: int) -> list[int]:
    used = {str(run.facts["train.seed"]) for run in runs}
    return [seed for seed in range(1000) if str(seed) not in used][: max(1, how_many)]


def _study(claim: Claim, start: Run, both: BothSides, seeds: list[int], folder: Path) -> MissingStudy:
    """A full grid over the axes, everything else as in one run."""
    axes = both.axes | {"seed": seeds}
    n_runs = math.prod(len(values) for values in axes.values())
    if any("match" in grid for grid in both.grids):
        n_runs *= 2  # each online run brings an offline one of its tokens and one of its steps
    name = claim.key.replace("_", "-")
    return study_recipe(name, both.why, start, axes, both.grids, n_runs, folder, both.fixed)


# ---- nearly comparable ----------------------------------------------------------------------


def near_misses(claim: Claim, runs: Sequence[Run]) -> list[tuple[str, str, dict[str, tuple[Any, Any]]]]:
    """Pairs on the same target, domain and held-out prompts that differ in a little too much: (base, other, facts).

    The three nearest. Empty for claims whose sides are not told apart by a fact of their own.
    """
    if not claim.told_apart:
        return []
    pairs = []
    for base in [run for run in runs if claim.is_base(run.facts)][:20]:
        for other in [run for run in runs if claim.is_other(run.facts)][:20]:
            if any(base.facts[fact] != other.facts[fact] for fact in _NEAR):
                continue
            differing = {
                fact: (base.facts.get(fact), other.facts.get(fact))
                for fact in sorted(base.facts.keys() | other.facts.keys())
                if base.facts.get(fact) != other.facts.get(fact) and not claim.may_differ(fact)
            }
            if 0 < len(differing) <= 4 and not set(differing) <= set(SEEDS):
                pairs.append((base.id, other.id, differing))
    return sorted(pairs, key=lambda pair: len(pair[2]))[:3]
