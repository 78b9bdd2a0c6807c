"""How far a study is: each cell and the run that holds it, found in the run folders by what they were made from."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import DraftbenchError
from engine.paths import Home
from engine.runs.folder import RunFolder, run_folders
from engine.study.cells import Cell
from engine.study.identity import identity

STATES = ("done", "running", "waiting", "failed", "stopped", "to do")
_BEST_FIRST = {state: place for place, state in enumerate(STATES)}
_ABOUT_TO_BEGIN_S = 60.0  # a run that a terminal has made and not yet begun


@dataclass(frozen=True)
class Placed:
    """A cell, what became of it, and the run that holds it; none if it is to do."""

    cell: Cell
    state: str = "to do"
    run: RunFolder | None = None


def look(home: Home, cells: Sequence[Cell]) -> list[Placed]:
    """Each cell with its run. Of several runs of one cell a finished one counts, then one at work; the newest of these."""
    wanted = {cell.key for cell in cells}
    best: dict[str, tuple[str, RunFolder]] = {}
    for run in run_folders(home):
        key = _key(run)
        if key not in wanted:
            continue
        state = _state(run.status())
        if key not in best or _BEST_FIRST[state] < _BEST_FIRST[best[key][0]]:
            best[key] = (state, run)
    return [Placed(cell, *best.get(cell.key, ("to do", None))) for cell in cells]


def counted(placed: Sequence[Placed]) -> dict[str, int]:
    """Cells by state, those that occur, in the order of `STATES`."""
    counts = Counter(one.state for one in placed)
    return {state: counts[state] for state in STATES if counts[state]}


def _state(status: dict[str, Any]) -> str:
    """A run's state as that of a cell: 'stopped' is whatever can be resumed and did not fail."""
    state = status["state"]
    if state in ("done", "running", "failed"):
        return str(state)
    if state == "queued" and (status.get("queued_at") or _is_fresh(status)):
        return "waiting"
    return "stopped"


def _is_fresh(status: dict[str, Any]) -> bool:
    with contextlib.suppress(KeyError, TypeError, ValueError):
        age = datetime.now(UTC) - datetime.fromisoformat(status["created_at"])
        return age.total_seconds() < _ABOUT_TO_BEGIN_S
    return False


def _key(run: RunFolder) -> str | None:
    """The identity of the run's recipe; None if that cannot be read."""
    path = run.path / "config.yaml"
    with contextlib.suppress(DraftbenchError, OSError, ValueError):
        stat = path.stat()
        return _key_of(path, stat.st_mtime_ns, stat.st_size)
    return None


@lru_cache(maxsize=4096)
def _key_of(path: Path, changed_ns: int, size: int) -> str:
    return identity(RunFolder(path.parent).recipe())
