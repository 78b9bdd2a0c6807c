"""Compare's filter by study: the runs that carry a study's tag."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine.records.study_tag import studies_of
from workbench.shared import ui
from workbench.shared.url_warnings import handled

_BEFORE = "compare:study"  # state of the session: the study of the drawing before


def choose(runs: pd.DataFrame) -> str:
    """The study to look at, kept in the URL as `study`; '' is all runs. Drawn only where there are studies."""
    known, asked = studies_of(runs), st.query_params.get("study", "")
    if asked and asked not in known:
        handled("study")
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
