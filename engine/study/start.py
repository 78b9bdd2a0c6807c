"""Starting what is missing of a study, and waiting for it. The command line and the browser both come here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from filelock import FileLock

from engine.config.reading import dump_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.fileio import disk_errors, write_atomic
from engine.jobs.executors import chosen_place, wake_all
from engine.paths import Home
from engine.records.files import CONFIG
from engine.records.study_tag import study_tag
from engine.runs.folder import RunFolder
from engine.runs.labels import edit_labels, read_labels
from engine.study.cells import Cells, expanded, only
from engine.study.known import keep
from engine.study.spec import StudySpec
from engine.study.state import Placed, counted, look

UNDER_WAY = ("running", "waiting")
_POLL_S = 1.0
_NUDGE_S = 15.0  # a worker that was killed is missed after this


@dataclass(frozen=True)
class Study:
    """A study as it stands: its recipe, its cells and pairs, and where each cell is."""

    spec: StudySpec
    cells: Cells
    placed: list[Placed] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def counts(self) -> dict[str, int]:
        return counted(self.placed)

    @property
    def passed_over(self) -> list[str]:
        """Why runs with the recipe of a missing cell do not hold it, a sentence per run."""
        return [words for one in self.placed if one.run is None for words in one.passed_over]

    def missing(self, *, retry_failed: bool = True) -> list[Placed]:
        """The cells that a start would put into the queue."""
        wanted = ("to do", "stopped", "failed") if retry_failed else ("to do", "stopped")
        return [one for one in self.placed if one.state in wanted]


@dataclass(frozen=True)
class Started:
    """The runs that a start queued anew, and those that it resumed."""

    submitted: list[RunFolder]
    resumed: list[RunFolder]


def study(home: Home, spec: StudySpec, choices: Sequence[str] = ()) -> Study:
    """The study with its cells as they stand now; with choices `axis=value` only those that fit."""
    cells = expanded(spec, home)
    cells = only(cells, choices) if choices else cells
    return Study(spec, cells, look(home, cells.cells))


def again(home: Home, seen: Study) -> Study:
    """The same study, looked at once more."""
    return Study(seen.spec, seen.cells, look(home, seen.cells.cells))


def start(home: Home, wanted: Study, *, retry_failed: bool = True, on: str | None = None) -> Started:
    """Queue the missing cells and resume those that stopped; of two callers at once, each cell is started once.

    Runs from before the study, or of another one, are adopted: they get its tag. `on` is the address of a place;
    without one, `DRAFTBENCH_PLACE` names it. What waits or runs already stays where it is.
    """
    keep(home, wanted.spec)
    path = home.root / "studies" / ".start.lock"
    with disk_errors(path), FileLock(path):
        now = again(home, wanted)
        missing = now.missing(retry_failed=retry_failed)
        _adopt(home, now)
        place = chosen_place(on)
        for one in missing:
            if one.run is not None:
                _take_resources(one.run, one.cell.recipe)
        ordered = sorted((one for one in missing if one.run is not None), key=lambda one: one.state == "failed")
        stopped = [one for one in ordered if one.state == "stopped"]
        resumed = [place.resume(home, one.run) for one in stopped if one.run is not None]
        new = [one.cell.recipe for one in missing if one.run is None]
        submitted = place.submit_all(home, new) if new else []
        failed = [one for one in ordered if one.state == "failed"]  # last: what failed may fail again
        resumed += [place.resume(home, one.run) for one in failed if one.run is not None]
    nudge(home, again(home, wanted))
    return Started(submitted, resumed)


def wait(home: Home, wanted: Study, *, poll_s: float = _POLL_S) -> Iterator[Study]:
    """The study whenever a cell has changed its state, and every 15 seconds, until none waits or runs.

    Stopping leaves the queue at work.
    """
    before: dict[str, str] = {}
    nudged = time.monotonic()
    idle = False
    while True:
        now = again(home, wanted)
        states = {one.cell.key: one.state for one in now.placed}
        if states != before:
            before = states
            yield now
        was_idle, idle = idle, not any(state in UNDER_WAY for state in states.values())
        if idle and (was_idle or "stopped" not in states.values()):  # a cluster's job may be putting its run back
            return
        if time.monotonic() - nudged > _NUDGE_S:
            nudge(home, now)
            nudged = time.monotonic()
            yield now
        time.sleep(poll_s)


def nudge(home: Home, now: Study) -> None:
    """Let the places look whether somebody works on what waits, or on what a cluster's driver left."""
    if any(one.state in UNDER_WAY for one in now.placed):
        wake_all(home)


def _take_resources(run: RunFolder, recipe: Recipe) -> None:
    """Give a run that stopped what the study asks of a machine now: a place reads it from the run.

    It is no part of a run's identity, and more of it is what a run needs that ran out of memory or time.
    """
    own = run.recipe()
    if own.resources != recipe.resources:
        write_atomic(run.path / CONFIG, dump_recipe(own.model_copy(update={"resources": recipe.resources})))
        run.log("resources are those of the study's recipe now")


def _adopt(home: Home, now: Study) -> None:
    mark = study_tag(now.name)
    for one in now.placed:
        if one.run is not None and not _has(one.run, mark):
            edit_labels(home, one.run, lambda present: {"tags": [*present.tags, mark]})


def _has(run: RunFolder, tag: str) -> bool:
    """Whether the run has the tag; damaged labels hold none, and changing them begins new ones."""
    with contextlib.suppress(DraftbenchError):
        return tag in read_labels(run).tags
    return False
