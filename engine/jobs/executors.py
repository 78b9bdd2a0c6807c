"""Where runs are sent to be worked on.

The run folder is the truth wherever the work is done, so a place needs to know only how to begin, how to go on and how
to stop. A place is named by an address, `SCHEME` or `SCHEME://REST`: `--on` and the environment variable
`DRAFTBENCH_PLACE` take one, and a run's status keeps it. This machine's queue is the place `local`; another one is a
module with a function `place` and a line in `PLACES`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Sequence
from typing import Protocol

from engine.config.schema import Recipe
from engine.errors import DraftbenchError, did_you_mean
from engine.paths import Home
from engine.records.folders import run_names
from engine.runs.folder import RunFolder

LOCAL = "local"


class Place(Protocol):
    """Somewhere runs are worked on; see `engine.jobs.queue` for what each function promises."""

    def submit_all(self, home: Home, recipes: Sequence[Recipe]) -> list[RunFolder]: ...

    def resume(self, home: Home, run: RunFolder) -> RunFolder: ...

    def cancel(self, home: Home, run: RunFolder) -> str: ...

    def wake(self, home: Home) -> None: ...

    def work(self, home: Home) -> None: ...


# Scheme -> the module whose `place(address)` gives the place: those of a cluster load libraries that few have.
PLACES: dict[str, str] = {
    LOCAL: "engine.jobs.queue",
    "ray": "engine.cluster.ray_place",
    "ray-gcs": "engine.cluster.ray_place",
    "slurm": "engine.cluster.slurm_place",
}


def place_at(address: str) -> Place:
    """The place of an address. Raises DraftbenchError if there is no such place, or its library is not installed."""
    scheme = address.partition("://")[0]
    if scheme not in PLACES:
        raise DraftbenchError(
            f"there is no place {address!r}",
            "it names where runs are worked on, in --on or DRAFTBENCH_PLACE",
            did_you_mean(scheme, PLACES),
        )
    place: Place = importlib.import_module(PLACES[scheme]).place(address)
    return place


def chosen_place(address: str | None = None) -> Place:
    """The place of an address; of none that which `DRAFTBENCH_PLACE` names, else this machine's queue."""
    return place_at(address or os.environ.get("DRAFTBENCH_PLACE") or LOCAL)


def place_of(run: RunFolder) -> Place:
    """The place that a run was sent to last: the only one that can stop it."""
    return place_at(run.status().place or LOCAL)


def wake_all(home: Home) -> None:
    """Let each place where runs wait or are worked on look whether somebody does. One that cannot be reached is left.

    Cheap enough for every few seconds: it reads each run's status once.
    """
    statuses = (RunFolder(home.runs / name).status() for name in run_names(home))
    unfinished = ("queued", "running", "interrupted")
    for address in {LOCAL} | {status.place or LOCAL for status in statuses if status.state in unfinished}:
        with contextlib.suppress(*(() if address == LOCAL else (DraftbenchError,))):
            place_at(address).wake(home)
