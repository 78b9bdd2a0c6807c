"""The state of a study: each cell with the run that holds it, matched by the identity of the recipe in its folder."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from engine.config.identity import identity
from engine.config.schema import Recipe
from engine.paths import Home
from engine.records.status import Status
from engine.runs.folder import RunFolder, run_folders
from engine.study.cells import Cell
from engine.study.inputs import Inputs

STATES = ("done", "running", "waiting", "failed", "stopped", "to do")
_BEST_FIRST = {state: place for place, state in enumerate(STATES)}
_ABOUT_TO_BEGIN_S = 60.0  # a run that a terminal has created and not yet started


@dataclass(frozen=True)
class Placed:
    """A cell, its state, and the run that holds it; none if it is to do.

    `passed_over`: why runs of the same recipe do not hold it, in words.
    """

    cell: Cell
    state: str = "to do"
    run: RunFolder | None = None
    passed_over: tuple[str, ...] = ()


def look(home: Home, cells: Sequence[Cell]) -> list[Placed]:
    """Each cell with its run. Of several runs of one cell a finished one counts, then one at work; the newest of these.

    A run that began with other prompts or another draft than lie there now holds no cell: its numbers are of something
    else, and it could not go on.
    """
    wanted = {cell.key: cell for cell in cells}
    best: dict[str, tuple[str, RunFolder]] = {}
    passed_over: dict[str, list[str]] = {}
    inputs = Inputs(home)
    for run in run_folders(home):
        key = _key(run)
        if key is None or key not in wanted:
            continue
        state = _state(run.status())
        if key in best and _BEST_FIRST[state] >= _BEST_FIRST[best[key][0]]:
            continue
        other = [] if state == "running" else _differing(inputs, run, wanted[key].recipe)
        if other:
            passed_over.setdefault(key, []).append(
                f"run {run.id} began with other {' and '.join(other)} than lie there now"
            )
        else:
            best[key] = (state, run)
    placed = []
    for cell in cells:
        state, held_by = best.get(cell.key, ("to do", None))
        placed.append(Placed(cell, state, held_by, tuple(passed_over.get(cell.key, ()))))
    return placed


def _differing(inputs: Inputs, run: RunFolder, recipe: Recipe) -> list[str]:
    try:
        return inputs.differing(run, recipe)
    except Exception:  # of what the run has noted: another run can hold the cell
        return ["inputs, of which its notes cannot be read,"]


def counted(placed: Sequence[Placed]) -> dict[str, int]:
    """Cells by state, those that occur, in the order of `STATES`."""
    counts = Counter(one.state for one in placed)
    return {state: counts[state] for state in STATES if counts[state]}


def _state(status: Status) -> str:
    """A run's state as that of a cell: 'stopped' is whatever can be resumed and did not fail."""
    if status.state in ("done", "running", "failed"):
        return status.state
    if status.state == "queued" and (status.queued_at or _is_fresh(status)):
        return "waiting"
    return "stopped"


def _is_fresh(status: Status) -> bool:
    with contextlib.suppress(TypeError, ValueError):  # a time without a zone, or none
        age = datetime.now(UTC) - datetime.fromisoformat(status.created_at or "")
        return age.total_seconds() < _ABOUT_TO_BEGIN_S
    return False


def _key(run: RunFolder) -> str | None:
    """The identity of the run's recipe; None if that cannot be read."""
    path = run.path / "config.yaml"
    with contextlib.suppress(Exception):  # a stranger's run may name anything as its prompts: it holds no cell
        stat = path.stat()
        return _key_of(path, stat.st_mtime_ns, stat.st_size)
    return None


@lru_cache(maxsize=4096)
def _key_of(path: Path, changed_ns: int, size: int) -> str:
    return identity(RunFolder(path.parent).recipe())
