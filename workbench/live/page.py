"""The Live page: the Gradio app in a frame, with the parameters of this page's URL."""

from urllib.parse import urlencode

import streamlit as st

from workbench.live.drafts import has_draft
from workbench.shared import queries, theme, ui
from workbench.shared.pages import PAGES


def render() -> None:
    """Draw the page."""
    ui.heading("live")
    if not any(has_draft(queries.home(), run_id) for run_id in queries.runs().run_id):
        ui.empty(
            "No run has a draft yet. Train one to watch how many of its tokens the target accepts.",
            "Start a run",
            "launch",
        )
        return
    known = queries.runs()
    ui.tab_title(*known.label[known.run_id == st.query_params.get("run")].head(1), "Live")
    params = [(key, value) for key in PAGES["live"].params if (value := st.query_params.get(key))]
    url = "/live/?" + urlencode([("__theme", theme.mode()), *params])
    st.link_button("Open in a new tab", url, icon=":material/open_in_new:", type="tertiary")
    # Last on the page: it grows to what is in it (`gradio_app`), so that the page has one scrollbar.
    st.iframe(url, height=700, alt="Live decoding: form, answer with the fate of each token, counters")
