"""The page draws itself again when a run has changed, and only then; status files are looked at, not the index."""

from __future__ import annotations

import os
import time

import pandas as pd

from workbench.shared import queries
from workbench.shared import watch as watching

_LOOK_S = 6.0  # between two looks: longer than the overview is cached
_JUST_NOW_S = 6.0  # what changed within it may be newer than the cached overview


def watch(known: pd.DataFrame) -> None:
    """Draw the page again once a run is added or removed, or one in `known` that was not done is in another state."""
    drawn = known[known.state != "done"].head(watching.MOST_RUNS)
    states = dict(zip(drawn.run_id, drawn.state, strict=True))
    seen = watching.marks(queries.home(), list(states))
    if any(state != states[run] for run, state in seen["states"].items()):
        seen["state"] = ""  # already another one: drawn again at the first look
    if time.time() - _changed_at() < _JUST_NOW_S:
        seen["runs"] = ""
    watching.watch("watch-runs", list(states), seen, ("state", "runs"), _LOOK_S)


def _changed_at() -> float:
    try:
        return os.stat(queries.home().runs).st_mtime
    except OSError:
        return 0.0
