"""Compare's filter by study: the runs that carry a study's tag."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine.study.cells import tag
from workbench import ui

_BEFORE = "compare:study"  # state of the session: the study of the drawing before


def studies_of(runs: pd.DataFrame) -> list[str]:
    """Names of the studies that the runs belong to, in the order of the alphabet."""
    beginning = tag("")
    tags = {str(one) for tags in runs.tags for one in _listed(tags)}
    return sorted(one.removeprefix(beginning) for one in tags if one.startswith(beginning) and one != beginning)


def of_study(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """The runs of one study; all of them if no study is named."""
    if not name:
        return runs
    return runs[[tag(name) in _listed(tags) for tags in runs.tags]]


def choose(runs: pd.DataFrame) -> str:
    """The study to look at, kept in the URL as `study`; '' is all runs. Drawn only where there are studies."""
    known, asked = studies_of(runs), st.query_params.get("study", "")
    if asked and asked not in known:
        st.warning(
            f"No measured run here belongs to the study {ui.text(asked)}: all runs are shown.",
            icon=":material/link_off:",
        )
    if not known:
        return ""
    chosen = ui.choose_one("Study", ["", *known], {"": "all runs"}, "study")
    if st.session_state.get(_BEFORE, chosen) != chosen:  # drafts of another study are not what is meant now
        st.query_params.pop("runs", None)
        st.session_state.pop("runs", None)
    st.session_state[_BEFORE] = chosen
    return chosen


def _listed(tags: object) -> list[str]:
    """A cell of the tags' column; a run without any may hold None there."""
    return [str(one) for one in tags] if hasattr(tags, "__iter__") and not isinstance(tags, str) else []
