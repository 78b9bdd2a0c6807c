"""The page draws itself again when a run has changed, and only then; it looks at status files, not at the index."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import pandas as pd
import streamlit as st

from engine.runs.folder import RunFolder
from workbench.run.stage import is_timing, redraw_every
from workbench.shared import queries

_LOOK_S, _IDLE_S = 3.0, 10.0  # between two looks, while a run is unfinished and while none is
_MOST = 200  # runs that are not done are looked at, the newest
_JUST_NOW_S = 6.0  # what changed within it may be newer than the cached overview


def watch(known: pd.DataFrame) -> None:
    """Draw the page again once a run is added, removed or labelled, or one in `known` is in another state."""
    drawn = known[known.state != "done"].head(_MOST)
    states = dict(zip(drawn.run_id, drawn.state, strict=True))
    folder = _changed_at()
    seen = folder if time.time_ns() - folder > _JUST_NOW_S * 1e9 else 0
    working = [RunFolder(queries.home().run(run_id)).status() for run_id in drawn.run_id[drawn.state == "running"]]
    every = max((redraw_every(status, _LOOK_S) for status in working), default=_IDLE_S)
    st.fragment(run_every=every)(_look)(states, seen)


def _look(drawn: Mapping[str, str], seen: int) -> None:
    """Draw the page again if the states or the folder of the runs have changed; never while a run is timing."""
    statuses = {run_id: RunFolder(queries.home().run(run_id)).status() for run_id in drawn}
    if any(is_timing(status) for status in statuses.values()):
        return
    if _changed_at() != seen or any(status.state != drawn[run_id] for run_id, status in statuses.items()):
        queries.refresh()
        st.rerun()


def _changed_at() -> int:
    try:
        return os.stat(queries.home().runs).st_mtime_ns
    except OSError:
        return 0
