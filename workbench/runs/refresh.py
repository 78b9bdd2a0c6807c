"""The page is drawn again when a run is added, removed, labelled or in another state, and only then."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from workbench.shared import queries, watch

_REDRAWN = "_runs_redrawn"  # session state: what the page was last drawn again for
_MOST = 50  # runs whose states are watched: the newest that are not done
_folders: dict[str, str] = {}  # home -> the mark of its folder of runs when the index was last made to look


def look() -> None:
    """Have the runs read anew if their folder has changed since anybody looked: a cached overview may be older."""
    root, mark = str(queries.home().root), watch.marks(queries.home(), [])["runs"]
    if _folders.get(root) != mark:
        queries.refresh()
        _folders[root] = mark


def watching(known: pd.DataFrame) -> None:
    """Draw the page again when something is no longer as in `known`; while a run is timing, after that."""
    drawn = known[known.state != "done"].head(_MOST)
    _watch(dict(zip(drawn.run_id, drawn.state, strict=True)), _folders.get(str(queries.home().root), ""))


@st.fragment
def _watch(states: Mapping[str, str], folder: str) -> None:
    seen = watch.marks(queries.home(), list(states))
    changed = seen["runs"] != folder or any(states[run_id] != state for run_id, state in seen["states"].items())
    now = (seen["runs"], seen["state"])
    if changed and st.session_state.get(_REDRAWN) != now:  # once: a busy index may show the same again
        st.session_state[_REDRAWN] = now
        queries.refresh()
        _folders[str(queries.home().root)] = seen["runs"]
        st.rerun()
    watch.watch("watch-runs", list(states), seen, ("state", "runs"))
