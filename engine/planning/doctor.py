"""Checks of the machine and the home for `draftbench doctor`, each with the command that fixes it."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import DraftbenchError
from engine.index.changes import fingerprint
from engine.index.connection import reading
from engine.models.assets import ASSETS, asset_path, is_whole
from engine.models.load import resolve_device, resolve_dtype
from engine.paths import Home, cache_dir, run_id_of
from engine.planning.cards import cards, cards_in_words, holds, visible_devices
from engine.records.folders import DAMAGED, run_names
from engine.runs.folder import RunFolder
from engine.runs.provenance import versions

_LEAST_FREE_GB = 3.0
_MOST_NAMED = 5  # damaged runs that are named


@dataclass(frozen=True)
class HealthCheck:
    """One part of the machine or the home: its condition, and what to do if that is not right."""

    name: str
    ok: bool
    condition: str
    fix: str = ""

    def as_dict(self) -> dict[str, str | bool]:
        return asdict(self)


def health(home: Home) -> list[HealthCheck]:
    """All checks, each made even if an earlier one failed."""
    return [
        HealthCheck("versions", True, ", ".join(f"{k} {v}" for k, v in versions().items())),
        _device(),
        *_cards(),
        *(_disk(name, path) for name, path in (("home", home.root), ("cache", cache_dir()))),
        *(_asset(name) for name in ASSETS),
        *_runs(home),
    ]


def _device() -> HealthCheck:
    device = resolve_device("auto")
    dtype = str(resolve_dtype("auto", device)).removeprefix("torch.")
    return HealthCheck("device", True, f"{device.type}, dtype auto is {dtype}")


def _cards() -> list[HealthCheck]:
    """The graphics cards and what they hold; one line if there are none but some were asked for."""
    seen, visible = cards(), visible_devices()
    if seen:
        return [HealthCheck("cards", True, f"{cards_in_words(seen, visible)}; {holds(seen)}")]
    if visible is None:
        return []
    return [HealthCheck("cards", True, f"none is visible (CUDA_VISIBLE_DEVICES={visible or repr('')})")]


def _disk(name: str, path: Path) -> HealthCheck:
    place = next(p for p in (path, *path.parents) if p.exists())
    variable = f"DRAFTBENCH_{name.upper()}"
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return HealthCheck(name, False, f"{path}, cannot be written", f"set {variable} to a folder of your own")
    free = shutil.disk_usage(place).free / 1e9
    fix = f"free some space, or set {variable} to a folder on a larger disk"
    return HealthCheck(name, free >= _LEAST_FREE_GB, f"{path}, {free:.1f} GB free", fix)


def _asset(name: str) -> HealthCheck:
    path = asset_path(name)
    state = "not fetched" if not path.exists() else str(path) if is_whole(name) else f"{path}, damaged"
    return HealthCheck(f"asset {name}", is_whole(name), state, f"draftbench fetch {name}")


def _runs(home: Home) -> list[HealthCheck]:
    """Check that the index has every run as its folder is now, and that all of them are whole."""
    try:
        names = run_names(home)
        with reading(home.index) as con:
            rows = con.execute("SELECT run_id, fingerprint, state, problems[1] FROM runs").fetchall()
    except DraftbenchError as error:
        return [HealthCheck("index", False, error.what, error.fix)]
    known = {run_id: mark for run_id, mark, _, _ in rows}
    behind = [name for name in names if known.get(run_id_of(name)) != fingerprint(home.runs / name)]
    working = [name for name in behind if RunFolder(home.runs / name).status().state == "running"]  # its files change
    gone = len(known.keys() - {run_id_of(name) for name in names})
    indexed = f"{len(names) - len(behind)} of {len(names)} runs"
    indexed += f"; {len(working)} at work, whose files change" if working else ""
    indexed += f"; {gone} whose folder is gone" if gone else ""
    checks = [HealthCheck("index", len(behind) == len(working) and not gone, indexed, "draftbench index")]
    damaged = [f"{run_id} ({problem})" for run_id, _, state, problem in sorted(rows) if state in (None, DAMAGED)]
    named = "; ".join(damaged[:_MOST_NAMED]) + (
        f" and {len(damaged) - _MOST_NAMED} more" if len(damaged) > _MOST_NAMED else ""
    )
    fix = "restore what is damaged, or remove the run with `draftbench runs remove RUN`"
    return [*checks, HealthCheck("runs", not damaged, f"damaged: {named}" if damaged else "none is damaged", fix)]
