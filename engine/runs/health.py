"""What `draftbench doctor` looks at: is this machine ready, and if not, what to type."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.errors import DraftbenchError
from engine.models.assets import ASSETS, asset_path, is_whole
from engine.models.load import resolve_device, resolve_dtype
from engine.paths import Home, cache_dir
from engine.runs.provenance import versions
from engine.store import queries
from engine.store.connection import reading
from engine.store.run_folder import is_run_folder

_LEAST_FREE_GB = 3.0


@dataclass(frozen=True)
class HealthCheck:
    """One thing looked at: what was found, and what to do if it is not right."""

    name: str
    ok: bool
    found: str
    fix: str = ""

    def as_dict(self) -> dict[str, str | bool]:
        return asdict(self)


def health(home: Home) -> list[HealthCheck]:
    """All checks, each made even if an earlier one failed."""
    return [
        HealthCheck("versions", True, ", ".join(f"{k} {v}" for k, v in versions().items())),
        _device(),
        *(_disk(name, path) for name, path in (("home", home.root), ("cache", cache_dir()))),
        *(_asset(name) for name in ASSETS),
        _index(home),
    ]


def _device() -> HealthCheck:
    device = resolve_device("auto")
    dtype = str(resolve_dtype("auto", device)).removeprefix("torch.")
    return HealthCheck("device", True, f"{device.type}, dtype auto is {dtype}")


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
    found = "not fetched" if not path.exists() else str(path) if is_whole(name) else f"{path}, damaged"
    return HealthCheck(f"asset {name}", is_whole(name), found, f"draftbench fetch {name}")


def _index(home: Home) -> HealthCheck:
    try:
        with reading(home.index) as con:
            runs = len(queries.list_runs(con))
    except DraftbenchError as error:
        return HealthCheck("index", False, error.what, error.fix)
    folders = sum(is_run_folder(path) for path in home.runs.iterdir()) if home.runs.is_dir() else 0
    return HealthCheck("index", runs == folders, f"{runs} of {folders} runs", "draftbench index")
