"""Where runs are sent to be worked on.

The run folder is the truth wherever the work is done, so a place needs to know only how to begin,
how to go on and how to stop. This machine's queue is the first one; a cluster's is a module with the same
functions and one line in `PLACES`. `DRAFTBENCH_PLACE` names the one to use.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from engine.config.schema import Recipe
from engine.errors import DraftbenchError, did_you_mean
from engine.jobs import queue
from engine.paths import Home
from engine.runs.folder import RunFolder


class Place(Protocol):
    """Somewhere runs are worked on; see `engine.jobs.queue` for what each function promises."""

    def submit_all(self, home: Home, recipes: Sequence[Recipe]) -> list[RunFolder]: ...

    def resume(self, home: Home, run: RunFolder) -> RunFolder: ...

    def cancel(self, home: Home, run: RunFolder) -> str: ...

    def wake(self, home: Home) -> None: ...


PLACES: dict[str, Place] = {"local": queue}


def chosen_place() -> Place:
    """The place that `DRAFTBENCH_PLACE` names; this machine's queue if it names none."""
    name = os.environ.get("DRAFTBENCH_PLACE", "local")
    if name not in PLACES:
        raise DraftbenchError(
            f"DRAFTBENCH_PLACE is {name!r}", "it names where runs are worked on", did_you_mean(name, PLACES)
        )
    return PLACES[name]
