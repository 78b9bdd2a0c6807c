"""From a study's recipe to its cells: plain recipes of runs, each once, those that share a capture together."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from engine.config.identity import identity
from engine.config.reading import parse_recipe, with_settings
from engine.config.schema import Recipe
from engine.distill.schedule import answers_per_step, planned_steps, total_steps
from engine.errors import DraftbenchError, did_you_mean
from engine.paths import Home
from engine.records.study_tag import STUDY_TAG, study_tag
from engine.runs.recipes import with_absolute_paths
from engine.study.grid import Settings, combinations, combined, run_name
from engine.study.spec import StudySpec

_NAMED_FIRST = ("domain", "scenario", "mode", "loss", "queries")  # order of the labels in a cell's name
_REMEMBERED_S = 300.0
_SCHEDULES = {"tokens": "equal-tokens", "steps": "equal-steps"}


@dataclass(frozen=True)
class Cell:
    """One run of a study. `schedule` says what it was matched to: 'own' is its recipe's own schedule."""

    recipe: Recipe
    labels: Mapping[str, str]  # axis -> label
    key: str  # the recipe's identity
    schedule: str = "own"

    @property
    def name(self) -> str:
        return self.recipe.name


@dataclass(frozen=True)
class ModePair:
    """The keys of an online or on-policy cell and of the offline one that it is compared with."""

    other: str
    offline: str
    equal: str  # 'own schedule', 'tokens' or 'steps'


@dataclass(frozen=True)
class Cells:
    """All cells of a study, each key once, and the pairs that compare modes."""

    cells: list[Cell] = field(default_factory=list)
    pairs: list[ModePair] = field(default_factory=list)


def expand(spec: StudySpec, home: Home) -> Cells:
    """Every cell of the study. Raises DraftbenchError naming the cell whose recipe is not valid."""
    cells: dict[str, Cell] = {}
    pairs: dict[ModePair, None] = {}
    for grid in spec.grids:
        wanted = spec.match if grid.match is None else grid.match
        for labels in combinations(spec.axes, grid.where):
            cell = _cell(spec, labels, home)
            cells.setdefault(cell.key, cell)
            if cell.recipe.train.mode != "offline":
                for equal, offline in _counterparts(spec, cell, wanted, home):
                    cells.setdefault(offline.key, offline)
                    pairs[ModePair(cell.key, offline.key, equal)] = None
                if _mode_axis(spec) is not None:
                    pairs[ModePair(cell.key, _offline(spec, labels, home).key, "own schedule")] = None
    whole = [pair for pair in pairs if pair.offline in cells]
    return Cells(_named(spec, _together(list(cells.values()))), whole)


def expanded(spec: StudySpec, home: Home) -> Cells:
    """As `expand`, which takes seconds, remembered for minutes: runs and files that recipes name come and go."""
    return _expanded(spec.model_dump_json(), home, Path.cwd(), int(time.monotonic() / _REMEMBERED_S))


@lru_cache(maxsize=16)
def _expanded(dumped: str, home: Home, working_folder: Path, period: int) -> Cells:
    return expand(StudySpec.model_validate_json(dumped), home)


def only(cells: Cells, choices: Sequence[str]) -> Cells:
    """The cells that fit `axis=value` choices; several values of an axis are alternatives."""
    wanted: dict[str, set[str]] = {}
    for choice in choices:
        axis, equals, values = choice.partition("=")
        if not equals:
            raise DraftbenchError(f"--only {choice!r} is not axis=value", "", "for example --only domain=biology")
        wanted.setdefault(axis.strip(), set()).update(value.strip() for value in values.split(","))
    for axis, labels in wanted.items():
        known = {cell.labels[axis] for cell in cells.cells if axis in cell.labels}
        for value in labels:
            if value not in known:
                axes = {name for cell in cells.cells for name in cell.labels}
                fix = did_you_mean(value, known) if known else did_you_mean(axis, axes)
                raise DraftbenchError(f"--only {axis}={value} fits no cell", "nothing would be run", fix)
    kept = [c for c in cells.cells if all(c.labels.get(axis) in values for axis, values in wanted.items())]
    keys = {cell.key for cell in kept}
    return Cells(kept, [pair for pair in cells.pairs if {pair.other, pair.offline} <= keys])


def _cell(spec: StudySpec, labels: Mapping[str, str], home: Home, changes: Settings | None = None) -> Cell:
    """The cell of these labels; `changes` are set over all else."""
    base = spec.base if isinstance(spec.base, dict) else {}
    values = with_settings(combined(base, spec.axes, labels, common=spec.set), changes or {})
    tags = [tag for tag in values.get("tags") or [] if not str(tag).startswith(STUDY_TAG)]  # the base may be a run's
    values |= {"name": spec.name, "tags": [*tags, study_tag(spec.name)]}
    try:
        recipe = with_absolute_paths(parse_recipe(values), Path(spec.folder or "."), home)
    except DraftbenchError as error:
        named = ", ".join(f"{axis} {label}" for axis, label in labels.items())
        raise DraftbenchError(f"the study's cell {named or spec.name}: {error.what}", error.why, error.fix) from None
    if not recipe.trains:
        raise DraftbenchError(
            f"the study {spec.name} starts from a recipe that trains nothing",
            "a study compares trained drafts, and its task is measure",
            "use `draftbench measure-only` for each model, or a base that trains",
        )
    return Cell(recipe, dict(labels), identity(recipe))


def _offline(spec: StudySpec, labels: Mapping[str, str], home: Home, changes: Settings | None = None) -> Cell:
    """The offline cell that is alike in all but the value of the axis that sets the mode."""
    axis = _mode_axis(spec) or ""
    for label in spec.axes.get(axis, {}):
        cell = _cell(spec, {**labels, axis: label}, home, changes)
        if cell.recipe.train.mode == "offline":
            return cell
    raise DraftbenchError(
        f"the study {spec.name} has no offline mode to compare with",
        "match sets an offline cell beside every online one",
        "give the axis mode a value offline: {}",
    )


def _mode_axis(spec: StudySpec) -> str | None:
    """The axis whose values set the mode: `mode`, or another one as in the studies that findings ask for."""
    axes = sorted(spec.axes, key=lambda axis: axis != "mode")
    return next((axis for axis in axes if any("train.mode" in one for one in spec.axes[axis].values())), None)


def _counterparts(spec: StudySpec, cell: Cell, wanted: Sequence[str], home: Home) -> Iterator[tuple[str, Cell]]:
    """Offline cells of as many target tokens, or optimiser steps, as the online or on-policy cell."""
    for equal in wanted:
        changes = _schedule(cell, _offline(spec, cell.labels, home).recipe, equal)
        offline = _offline(spec, cell.labels, home, changes)
        yield equal, replace(offline, schedule=_SCHEDULES[equal]) if changes else offline


def _schedule(cell: Cell, offline: Recipe, equal: str) -> Settings:
    """What to change of the offline recipe; nothing if its own schedule fits already.

    A stream passes each query once, so as many target tokens are one epoch. An on-policy run has steps and
    batches like an offline one of the same settings, whoever writes their text.
    """
    train, queries = cell.recipe.train, cell.recipe.prompts.train_prompts
    own = offline.train
    if equal == "tokens":
        epochs = 1.0 if train.own.one_pass else train.epochs
        return (
            {} if own.epochs == epochs and own.max_steps is None else {"train.epochs": epochs, "train.max_steps": None}
        )
    if queries is None:
        raise DraftbenchError(
            f"how many steps {cell.labels} takes is not known",
            "match: [steps] counts them from the number of queries",
            "set prompts.train_prompts, or give the study an axis queries",
        )
    counted = next((spec for spec in (train, own) if spec.batch_size is None and not spec.own.one_pass), None)
    if counted is not None:
        raise DraftbenchError(
            f"how many steps {cell.labels} takes is not known before the target has answered",
            f"match: [steps] counts queries, and a step of train.batch_tokens {counted.batch_tokens} takes tokens",
            "set train.batch_size, or match: [tokens]",
        )
    steps = planned_steps(queries, train)
    if steps == total_steps(queries, own):
        return {}
    if steps == planned_steps(queries, own.model_copy(update={"epochs": 1.0, "max_steps": None})):
        return {"train.epochs": 1.0, "train.max_steps": None}  # the cell of as many tokens, made once
    least = steps * answers_per_step(queries, own) / queries
    return {"train.epochs": max(own.epochs, least), "train.max_steps": steps}


def _together(cells: Sequence[Cell]) -> list[Cell]:
    """The cells in their order, but those that train on the same prompts of the same target one after the other."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        recipe = cell.recipe
        groups.setdefault(repr((recipe.target, recipe.prompts.train)), []).append(cell)
    ordered = []
    for group in groups.values():
        ordered += sorted(group, key=lambda cell: cell.recipe.prompts.train_prompts or math.inf, reverse=True)
    return ordered


def _named(spec: StudySpec, cells: Sequence[Cell]) -> list[Cell]:
    """The cells with names made of their labels, no two alike."""
    order = [axis for axis in _NAMED_FIRST if axis in spec.axes]
    order += [axis for axis in spec.axes if axis not in (*_NAMED_FIRST, "seed")]
    taken: set[str] = set()
    named = []
    for cell in cells:
        parts = [cell.labels[axis] for axis in order if (axis, cell.labels[axis]) != ("mode", "offline")]
        parts += [cell.schedule] if cell.schedule != "own" else []
        parts += [f"seed{cell.labels['seed']}"] if len(spec.axes.get("seed", ())) > 1 else []
        recipe = cell.recipe.model_copy(update={"name": run_name(spec.name, parts, taken)})
        named.append(replace(cell, recipe=recipe))
    return named
