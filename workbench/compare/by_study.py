"""Compare's filter by study: the runs that carry a study's tag."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine.records.study_tag import studies_of
from workbench.shared import ui
from workbench.shared.url_warnings import handled

_BEFORE = "compare:study"  # state of the session: the study of the drawing before


def choose(runs: pd.DataFrame) -> str:
    """Let the user choose a study, kept in the URL as `study`; '' is all runs. Drawn only where there are studies."""
    known, named = studies_of(runs), st.query_params.get("study", "")
    if named and named not in known:
        handled("study")
        st.warning(
            f"No measured run here belongs to the study {ui.text(named)}: all runs are shown.",
            icon=":material/link_off:",
        )
    if not known:
        return ""
    study = ui.choose_one("Study", ["", *known], {"": "all runs"}, "study")
    if st.session_state.get(_BEFORE, study) != study:  # the drafts selected before are of another study
        st.query_params.pop("runs", None)
        st.session_state.pop("runs", None)
    st.session_state[_BEFORE] = study
    return study
