"""Studies of a test, their cells, and how these stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.config.schema import Recipe
from engine.paths import PROJECT_ROOT, home
from engine.runs.folder import RunFolder
from engine.study.cells import Cell, Cells, expand
from engine.study.spec import load_study
from engine.study.start import study

STUDIES = PROJECT_ROOT / "recipes" / "studies"
ONLINE = {"train.mode": "online", "train.online.stream": "replay", "train.online.update_interval": 4}
Written = Callable[..., Path]


def cells_of(path: Path, *settings: str) -> Cells:
    return expand(load_study(path, settings), home())


def names(cells: Cells) -> list[str]:
    return [cell.name for cell in cells.cells]


def by_name(cells: Cells) -> dict[str, Cell]:
    return {cell.name: cell for cell in cells.cells}


def run_of(recipe: Recipe, state: str, **status: Any) -> RunFolder:
    run = RunFolder.create(home(), recipe)
    run.set_status(state=state, **status)
    return run


def stands(path: Path, *settings: str) -> dict[str, str]:
    return {one.cell.name: one.state for one in study(home(), load_study(path, settings)).placed}
