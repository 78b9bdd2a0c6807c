"""Live: the Gradio app of `workbench.live` in a frame, started with this page's parameters."""

from urllib.parse import urlencode

import streamlit as st

from workbench.live.decode import has_draft
from workbench.shared import queries, theme, ui
from workbench.shared.view_state import PAGES

PASSED_ON = PAGES["live"].params


def render() -> None:
    """Draw the page."""
    ui.heading("live")
    if not any(has_draft(queries.home(), run_id) for run_id in queries.runs().run_id):
        ui.empty(
            "No run has a draft yet. Train one, and watch here how many of its tokens the target keeps.",
            "Start a run",
            "launch",
        )
        return
    given = [(key, value) for key in PASSED_ON if (value := st.query_params.get(key))]
    address = "/live/?" + urlencode([("__theme", theme.mode()), *given])
    st.iframe(address, height=1250, alt="Live decoding: form, answer with the fate of each token, counters")
    st.link_button("Open it alone", address, icon=":material/open_in_new:")
